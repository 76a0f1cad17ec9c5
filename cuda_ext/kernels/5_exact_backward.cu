// 5. Backward pass, written plainly: fp32, and the formula that kernel 6 makes fast.
//
//     p_ij = exp(s_ij - lse_i)      delta_i = do_i . o_i        ds_ij = p_ij (do_i . v_j - delta_i)
//     dv_j = sum_i p_ij do_i       dk_j = scale sum_i ds_ij q_i       dq_i = scale sum_j ds_ij k_j
//
// The weights p are not stored: they come back from the log-sum-exp, one exponential each
// (FlashAttention, section 3.1). Two kernels, each the owner of what it writes, so there are no
// atomics and two runs are bit-equal. A quad of lanes owns one key (then one query).
#include "../vocabulary.h"

constexpr int OWNERS = 32, EXACT_THREADS = 4 * OWNERS;

static __device__ __forceinline__ float sum_of_quad(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// This lane's quarter of a vector: d = 4 n + part.
template <int D>
struct Quarter {
    float x[D / 4];
    __device__ void read(const float *from, bool valid) {
        for (int n = 0; n < D / 4; ++n) x[n] = valid ? from[4 * n + threadIdx.x % 4] : 0.f;
    }
    __device__ void write(float *to, float factor) const {
        for (int n = 0; n < D / 4; ++n) to[4 * n + threadIdx.x % 4] = x[n] * factor;
    }
    __device__ void add(const float *from, float weight) {
        for (int n = 0; n < D / 4; ++n) x[n] += weight * from[4 * n + threadIdx.x % 4];
    }
    __device__ float dot(const float *other) const {
        float sum = 0;
        for (int n = 0; n < D / 4; ++n) sum += x[n] * other[4 * n + threadIdx.x % 4];
        return sum_of_quad(sum);
    }
};

// Pointers to one head of one row.
struct Head {
    int64_t stride, out_stride;
    const float *q, *k, *v, *out, *grad_out, *lse;
    float *dq, *dk, *dv;
};

static __device__ Head find_head(const AttentionCall &call, Row row, int head, int D) {
    Head at;
    int kv = head / (call.n_heads / call.n_kv_heads);
    at.stride = int64_t(call.n_heads + 2 * call.n_kv_heads) * D;
    at.out_stride = int64_t(call.n_heads) * D;
    const float *qkv = static_cast<const float *>(call.qkv) + row.start * at.stride;
    float *grad = static_cast<float *>(call.grad_qkv) + row.start * at.stride;
    int k = (call.n_heads + kv) * D, v = k + call.n_kv_heads * D;
    int64_t o = row.start * at.out_stride + head * D;
    at.q = qkv + head * D, at.k = qkv + k, at.v = qkv + v;
    at.dq = grad + head * D, at.dk = grad + k, at.dv = grad + v;
    at.out = static_cast<const float *>(call.out) + o;
    at.grad_out = static_cast<const float *>(call.grad_out) + o;
    at.lse = call.lse + head * call.n_tokens + row.start;
    return at;
}

// grid (T / 32, Hkv, B): a quad owns key j and sums over the heads of its group.
template <int D>
__global__ void exact_grad_kv(AttentionCall call) {
    Row row = find_row(call, blockIdx.z);
    int j = blockIdx.x * OWNERS + threadIdx.x / 4, group = call.n_heads / call.n_kv_heads;
    bool mine = j < row.length;
    Head at = find_head(call, row, blockIdx.y * group, D);
    Quarter<D> k, v, dk, dv;
    k.read(at.k + j * at.stride, mine), v.read(at.v + j * at.stride, mine);
    dk.read(nullptr, false), dv.read(nullptr, false);
    for (int member = 0; member < group; ++member) {
        at = find_head(call, row, blockIdx.y * group + member, D);
        for (int i = blockIdx.x * OWNERS; i < row.length; ++i) {         // the block walks together
            Quarter<D> grad;
            grad.read(at.grad_out + i * at.out_stride, true);
            float delta = grad.dot(at.out + i * at.out_stride);
            float score = k.dot(at.q + i * at.stride) * call.scale;
            float ds = v.dot(at.grad_out + i * at.out_stride) - delta;
            if (!mine || i < j) continue;
            float p = expf(score - at.lse[i]);
            dv.add(at.grad_out + i * at.out_stride, p);
            dk.add(at.q + i * at.stride, p * ds);
        }
    }
    if (!mine) return;
    dk.write(at.dk + j * at.stride, call.scale);
    dv.write(at.dv + j * at.stride, 1.f);
}

// grid (T / 32, H, B): a quad owns query i.
template <int D>
__global__ void exact_grad_q(AttentionCall call) {
    Row row = find_row(call, blockIdx.z);
    int i = blockIdx.x * OWNERS + threadIdx.x / 4;
    bool mine = i < row.length;
    Head at = find_head(call, row, blockIdx.y, D);
    Quarter<D> q, grad, dq;
    q.read(at.q + i * at.stride, mine), grad.read(at.grad_out + i * at.out_stride, mine);
    dq.read(nullptr, false);
    float delta = grad.dot(mine ? at.out + i * at.out_stride : at.q);
    for (int j = 0; j < (int(blockIdx.x) + 1) * OWNERS && j < row.length; ++j) {
        float score = q.dot(at.k + j * at.stride) * call.scale;
        float ds = grad.dot(at.v + j * at.stride) - delta;
        if (mine && j <= i) dq.add(at.k + j * at.stride, expf(score - at.lse[i]) * ds);
    }
    if (mine) dq.write(at.dq + i * at.stride, call.scale);
}

EXPORT int exact_backward(const AttentionCall *call, void *stream) {
    dim3 keys(ceil_div(call->max_len, OWNERS), call->n_kv_heads, call->n_rows);
    dim3 queries(ceil_div(call->max_len, OWNERS), call->n_heads, call->n_rows);
    int status = launch(exact_grad_kv<KERNEL_D>, keys, EXACT_THREADS, 0, stream, *call);
    if (status) return status;
    return launch(exact_grad_q<KERNEL_D>, queries, EXACT_THREADS, 0, stream, *call);
}
