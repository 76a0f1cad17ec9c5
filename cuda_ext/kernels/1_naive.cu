// 1. Naive attention: one thread per query, everything from global memory.
//
//     out_i = sum_j softmax_j(q_i . k_j * scale) v_j,   j <= i
//
// Three passes over the keys: the largest score, then the sum of exponentials and of weighted
// values. Each thread reads every key twice and every value once, so the bytes requested grow
// as T^2: 3 T/2 rows a query, against the 4 rows a token that attention has to move at all.
// fp32 only; kept as the kernel that the others replace.
#include "../vocabulary.h"

template <int D>
__global__ void naive_attention(AttentionCall call) {
    Row row = find_row(call, blockIdx.z);
    int i = blockIdx.x * blockDim.x + threadIdx.x, head = blockIdx.y;
    if (i >= row.length) return;
    int kv_head = head / (call.n_heads / call.n_kv_heads);
    int64_t stride = int64_t(call.n_heads + 2 * call.n_kv_heads) * D;    // from token to token
    const float *base = static_cast<const float *>(call.qkv) + row.start * stride;
    const float *q = base + i * stride + head * D;
    const float *k = base + (call.n_heads + kv_head) * D;
    const float *v = k + call.n_kv_heads * D;

    float largest = -INFINITY;
    for (int j = 0; j <= i; ++j) {
        float score = 0;
        for (int d = 0; d < D; ++d) score += q[d] * k[j * stride + d];
        largest = fmaxf(largest, score * call.scale);
    }
    float total = 0, sum[D] = {};
    for (int j = 0; j <= i; ++j) {
        float score = 0;
        for (int d = 0; d < D; ++d) score += q[d] * k[j * stride + d];
        float weight = expf(score * call.scale - largest);
        total += weight;
        for (int d = 0; d < D; ++d) sum[d] += weight * v[j * stride + d];
    }
    float *out = static_cast<float *>(call.out) + ((row.start + i) * call.n_heads + head) * D;
    for (int d = 0; d < D; ++d) out[d] = sum[d] / total;
    call.lse[head * call.n_tokens + row.start + i] = largest + logf(total);
}

EXPORT int naive_forward(const AttentionCall *call, void *stream) {
    dim3 grid(ceil_div(call->max_len, 64), call->n_heads, call->n_rows);
    return launch(naive_attention<KERNEL_D>, grid, 64, 0, stream, *call);
}
