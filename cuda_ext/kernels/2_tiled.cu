// 2. Tiled attention: 64 queries share every key and value that is fetched.
//
// Changed: a block of 64 threads loads 64 keys (or values) into shared memory once, and all its
// queries use them. Global traffic falls 64 times, to about 3 T / 128 rows a query; the arithmetic
// and the two passes over the keys are those of kernel 1.
// The barriers: one after the load (nobody reads a row that is not there), one before the next
// load (nobody overwrites a row that is still being read).
#include "../vocabulary.h"

constexpr int TILE = 64;

template <int D>
struct TiledShared {
    float k[TILE][D + 1];     // + 1: threads of a warp that read one column hit different banks
    float v[TILE][D + 1];
};

// Rows [first, first + 64) of the row, zeros past its end; one thread a row.
template <int D>
static __device__ void fetch(float (*tile)[D + 1], const float *from, int64_t stride, int first,
                      int length) {
    int j = first + threadIdx.x;
    for (int d = 0; d < D; ++d) tile[threadIdx.x][d] = j < length ? from[j * stride + d] : 0.f;
}

template <int D>
static __device__ float dot(const float *a, const float *b) {
    float sum = 0;
    for (int d = 0; d < D; ++d) sum += a[d] * b[d];
    return sum;
}

template <int D>
__global__ void tiled_attention(AttentionCall call) {
    auto &shared = *shared_memory<TiledShared<D>>();
    Row row = find_row(call, blockIdx.z);
    int first_query = blockIdx.x * TILE, i = first_query + threadIdx.x, head = blockIdx.y;
    if (first_query >= row.length) return;                 // the whole block: no barrier is missed
    int kv_head = head / (call.n_heads / call.n_kv_heads);
    int64_t stride = int64_t(call.n_heads + 2 * call.n_kv_heads) * D;
    const float *base = static_cast<const float *>(call.qkv) + row.start * stride;
    const float *k = base + (call.n_heads + kv_head) * D, *v = k + call.n_kv_heads * D;
    float q[D];
    for (int d = 0; d < D; ++d) q[d] = i < row.length ? base[i * stride + head * D + d] : 0.f;

    float largest = -INFINITY, total = 0, sum[D] = {};
    for (int first = 0; first <= first_query; first += TILE) {
        fetch<D>(shared.k, k, stride, first, row.length);
        __syncthreads();
        for (int j = 0; j < TILE && first + j <= i; ++j)
            largest = fmaxf(largest, dot<D>(q, shared.k[j]) * call.scale);
        __syncthreads();
    }
    for (int first = 0; first <= first_query; first += TILE) {
        fetch<D>(shared.k, k, stride, first, row.length);
        fetch<D>(shared.v, v, stride, first, row.length);
        __syncthreads();
        for (int j = 0; j < TILE && first + j <= i; ++j) {
            float weight = expf(dot<D>(q, shared.k[j]) * call.scale - largest);
            total += weight;
            for (int d = 0; d < D; ++d) sum[d] += weight * shared.v[j][d];
        }
        __syncthreads();
    }
    if (i >= row.length) return;
    float *out = static_cast<float *>(call.out) + ((row.start + i) * call.n_heads + head) * D;
    for (int d = 0; d < D; ++d) out[d] = sum[d] / total;
    call.lse[head * call.n_tokens + row.start + i] = largest + logf(total);
}

EXPORT int tiled_forward(const AttentionCall *call, void *stream) {
    dim3 grid(ceil_div(call->max_len, TILE), call->n_heads, call->n_rows);
    size_t bytes = sizeof(TiledShared<KERNEL_D>);
    return launch(tiled_attention<KERNEL_D>, grid, TILE, bytes, stream, *call);
}
