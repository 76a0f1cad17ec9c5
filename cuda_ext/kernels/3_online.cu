// 3. Online softmax: one pass over the keys (Milakov, Gimelshein 2018; FlashAttention, Dao 2022).
//
//     m' = max(m, s_j)    l' = l e^(m - m') + e^(s_j - m')    o' = o e^(m - m') + e^(s_j - m') v_j
//
// Changed: when a larger score turns up, what was summed so far is rescaled, so every key is read
// once: 2 rows a key instead of 3, and half of the dot products of kernel 2. Four neighbouring
// lanes (a quad) share one query, each with D / 4 of its numbers, so that D = 128 fits registers.
// This is the exact fp32 path of the library: every product and sum in fp32, expf and logf.
#include "../vocabulary.h"

constexpr int QUERIES = 32;       // a block: 32 queries x 4 lanes = 128 threads
constexpr int KEYS = 32;

template <int D>
struct OnlineShared {
    float k[KEYS][D], v[KEYS][D];
};

static __device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

template <int D>
__global__ void online_attention(AttentionCall call) {
    auto &shared = *shared_memory<OnlineShared<D>>();
    Row row = find_row(call, blockIdx.z);
    int first_query = blockIdx.x * QUERIES, head = blockIdx.y;
    if (first_query >= row.length) return;
    int i = first_query + threadIdx.x / 4, part = threadIdx.x % 4;       // lane owns d = 4 n + part
    int kv_head = head / (call.n_heads / call.n_kv_heads);
    int64_t stride = int64_t(call.n_heads + 2 * call.n_kv_heads) * D;
    const float *base = static_cast<const float *>(call.qkv) + row.start * stride;
    const float *k = base + (call.n_heads + kv_head) * D, *v = k + call.n_kv_heads * D;
    float q[D / 4], sum[D / 4] = {}, largest = -INFINITY, total = 0;
    for (int n = 0; n < D / 4; ++n)
        q[n] = i < row.length ? base[i * stride + head * D + 4 * n + part] * call.scale : 0.f;

    for (int first = 0; first < first_query + QUERIES && first < row.length; first += KEYS) {
        for (int n = threadIdx.x; n < KEYS * D; n += 128) {
            int j = first + n / D, d = n % D;
            shared.k[n / D][d] = j < row.length ? k[j * stride + d] : 0.f;
            shared.v[n / D][d] = j < row.length ? v[j * stride + d] : 0.f;
        }
        __syncthreads();
        for (int j = 0; j < KEYS; ++j) {
            float score = 0;
            for (int n = 0; n < D / 4; ++n) score += q[n] * shared.k[j][4 * n + part];
            score = quad_sum(score);                                     // every lane takes part
            if (first + j > i) continue;
            float larger = fmaxf(largest, score);
            float shrink = expf(largest - larger), weight = expf(score - larger);
            largest = larger;
            total = total * shrink + weight;
            for (int n = 0; n < D / 4; ++n)
                sum[n] = sum[n] * shrink + weight * shared.v[j][4 * n + part];
        }
        __syncthreads();
    }
    if (i >= row.length) return;
    float *out = static_cast<float *>(call.out) + ((row.start + i) * call.n_heads + head) * D;
    for (int n = 0; n < D / 4; ++n) out[4 * n + part] = sum[n] / total;
    if (part == 0) call.lse[head * call.n_tokens + row.start + i] = largest + logf(total);
}

EXPORT int online_forward(const AttentionCall *call, void *stream) {
    dim3 grid(ceil_div(call->max_len, QUERIES), call->n_heads, call->n_rows);
    size_t bytes = sizeof(OnlineShared<KERNEL_D>);
    return launch(online_attention<KERNEL_D>, grid, 128, bytes, stream, *call);
}
