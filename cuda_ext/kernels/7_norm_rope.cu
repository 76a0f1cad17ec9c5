// 7. QK-norm and rotary embedding by themselves: what kernels 4 and 6 fuse.
//
//     y = x / sqrt(mean(x^2) + eps) * gain        (z_lo, z_hi) = rotate((y_lo, y_hi), position)
//
// The easy kernel to start with: no tiles, no tensor cores, memory-bound. Reads and writes q, k, v
// once (6 activations). Used for fp32, where the exact attention kernels want finished q and k,
// and as the unfused half of the timing table. A quad of lanes owns one head of one token.
// Backward, with r = 1 / sqrt(mean(x^2) + eps) and dy = rotate(dz, -position):
//     dgain += dy x r        dx = r (gain dy - x r^2 mean(gain dy x))
#include "../vocabulary.h"

constexpr int TOKENS = 32, NORM_THREADS = 4 * TOKENS;

static __device__ __forceinline__ float add_quad(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// This lane's pairs (d, d + D / 2), d = 4 n + part, of one head.
template <int D>
struct Pairs {
    float low[D / 8], high[D / 8];
    template <class T> __device__ void read(const T *from, bool valid) {
        for (int n = 0; n < D / 8; ++n) {
            int d = 4 * n + threadIdx.x % 4;
            low[n] = valid ? to_float(from[d]) : 0.f;
            high[n] = valid ? to_float(from[d + D / 2]) : 0.f;
        }
    }
    template <class T> __device__ void write(T *to) const {
        for (int n = 0; n < D / 8; ++n) {
            int d = 4 * n + threadIdx.x % 4;
            to[d] = from_float<T>(low[n]), to[d + D / 2] = from_float<T>(high[n]);
        }
    }
    // direction +1 rotates by the position's angles, -1 back.
    __device__ void rotate(const float *cos, const float *sin, float direction) {
        for (int n = 0; n < D / 8; ++n) {
            int d = 4 * n + threadIdx.x % 4;
            float c = cos[d], s = sin[d] * direction, x = low[n], y = high[n];
            low[n] = x * c - y * s, high[n] = y * c + x * s;
        }
    }
    __device__ void scale_by(const float *gain, float factor) {
        for (int n = 0; n < D / 8; ++n) {
            int d = 4 * n + threadIdx.x % 4;
            low[n] *= gain[d] * factor, high[n] *= gain[d + D / 2] * factor;
        }
    }
    __device__ float dot(const Pairs &other) const {
        float sum = 0;
        for (int n = 0; n < D / 8; ++n) sum += low[n] * other.low[n] + high[n] * other.high[n];
        return add_quad(sum);
    }
};

// out = qkv with q and k normed and rotated, v copied. grid (T / 32, heads of all kinds, B).
template <class T, int D>
__global__ void norm_rope(AttentionCall call) {
    Row row = find_row(call, blockIdx.z);
    int i = blockIdx.x * TOKENS + threadIdx.x / 4, head = blockIdx.y;
    bool mine = i < row.length;
    int n_heads = call.n_heads + 2 * call.n_kv_heads;
    int64_t at = ((row.start + i) * n_heads + head) * D;
    Pairs<D> x;
    x.read(static_cast<const T *>(call.qkv) + at, mine);
    if (head < call.n_heads + call.n_kv_heads) {
        float inverse = rsqrtf(x.dot(x) / D + call.eps);
        int position = mine ? i : 0;
        x.scale_by(head < call.n_heads ? call.q_gain : call.k_gain, inverse);
        x.rotate(call.cos + position * (D / 2), call.sin + position * (D / 2), 1.f);
    }
    if (mine) x.write(static_cast<T *>(call.out) + at);
}

// Add one quad-owned vector per token into gains[d], token after token: a fixed order of sums.
template <int D>
static __device__ void sum_over_tokens(float (*tile)[D], const Pairs<D> &mine, float *to) {
    mine.write(tile[threadIdx.x / 4]);
    __syncthreads();
    for (int d = threadIdx.x; d < D; d += NORM_THREADS) {
        float sum = 0;
        for (int i = 0; i < TOKENS; ++i) sum += tile[i][d];
        to[d] = sum;
    }
    __syncthreads();
}

// grad_out: gradient of norm_rope's output (packed like qkv) -> grad_qkv, and per block the
// partial sums of both gains' gradients, grad_gain (B * T / 32, 2, D). grid (T / 32, 1, B).
template <class T, int D>
__global__ void norm_rope_backward(AttentionCall call) {
    auto *tile = shared_memory<float[D]>();                              // (TOKENS, D)
    Row row = find_row(call, blockIdx.z);
    int i = blockIdx.x * TOKENS + threadIdx.x / 4;
    bool mine = i < row.length;
    int position = mine ? i : 0, n_heads = call.n_heads + 2 * call.n_kv_heads;
    Pairs<D> grad_gain = {};
    float *to = call.grad_gain + (int64_t(blockIdx.z) * gridDim.x + blockIdx.x) * 2 * D;
    for (int head = 0; head < n_heads; ++head) {
        int64_t at = ((row.start + i) * n_heads + head) * D;
        Pairs<D> x, dy;
        dy.read(static_cast<const T *>(call.grad_out) + at, mine);
        if (head < call.n_heads + call.n_kv_heads) {
            x.read(static_cast<const T *>(call.qkv) + at, mine);
            float inverse = rsqrtf(x.dot(x) / D + call.eps);
            dy.rotate(call.cos + position * (D / 2), call.sin + position * (D / 2), -1.f);
            for (int n = 0; n < D / 8; ++n) {
                grad_gain.low[n] += dy.low[n] * x.low[n] * inverse;
                grad_gain.high[n] += dy.high[n] * x.high[n] * inverse;
            }
            dy.scale_by(head < call.n_heads ? call.q_gain : call.k_gain, 1.f);
            float pull = dy.dot(x) * inverse * inverse / D;
            for (int n = 0; n < D / 8; ++n) {
                dy.low[n] = inverse * (dy.low[n] - x.low[n] * pull);
                dy.high[n] = inverse * (dy.high[n] - x.high[n] * pull);
            }
        }
        if (mine) dy.write(static_cast<T *>(call.grad_qkv) + at);
        if (head + 1 != call.n_heads && head + 1 != call.n_heads + call.n_kv_heads) continue;
        sum_over_tokens<D>(tile, grad_gain, head < call.n_heads ? to : to + D);
        grad_gain = {};
    }
}

EXPORT int norm_rope_forward(const AttentionCall *call, void *stream) {
    dim3 grid(ceil_div(call->max_len, TOKENS), call->n_heads + 2 * call->n_kv_heads, call->n_rows);
    return launch(norm_rope<KERNEL_T, KERNEL_D>, grid, NORM_THREADS, 0, stream, *call);
}

EXPORT int norm_rope_grad(const AttentionCall *call, void *stream) {
    dim3 grid(ceil_div(call->max_len, TOKENS), 1, call->n_rows);
    size_t bytes = TOKENS * KERNEL_D * sizeof(float);
    return launch(norm_rope_backward<KERNEL_T, KERNEL_D>, grid, NORM_THREADS, bytes, stream, *call);
}
EXPORT int norm_rope_tokens() { return TOKENS; }          // tokens that share one partial sum

EXPORT const char *error_text(int code) { return launch_error(code); }
EXPORT int attention_call_bytes() { return int(sizeof(AttentionCall)); }
EXPORT int decode_call_bytes() { return int(sizeof(DecodeCall)); }
