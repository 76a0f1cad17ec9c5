// 4. Tensor-core forward, with QK-norm and RoPE fused when asked (FlashAttention-2, Dao 2023).
//
// Changed: the two products run on tensor cores in 16 bits with fp32 sums; a warp owns 16 queries,
// a block 64; keys and values arrive by asynchronous copies, the next tile under way while this
// one is used; the log-sum-exp comes out for the backward pass.
// FUSED: raw projections come in, and norm and rotation happen in shared memory. An unfused region
// moves 8 activations (norm+rope: read q,k,v... write q,k; attention: read q,k,v, write o), this
// one 4: read q,k,v, write o.
// Per (row, head): 4 T D 16-bit numbers, 2 T^2 D FLOPs (causal); at T = 128, D = 64 that is
// 64 FLOPs a byte, far below the ~270 where an H100's tensor cores would be the limit.
#include "../tile.h"

constexpr int TILE = 64, THREADS = 128;     // 64 queries and 64 keys; 4 warps x 16 queries

template <class T, int D>
struct ForwardShared {
    T q[TILE * PITCH<D>];
    T k[2][TILE * PITCH<D>], v[2][TILE * PITCH<D>];
};

// One query row's running maximum (base 2) and sum, for the two rows that a lane holds.
struct Running {
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
};

static __device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// Scores (log2 units after `factor`) -> weights in place; rescales the running sums and `o`.
template <int D>
static __device__ __forceinline__ void online_softmax(float (&s)[TILE / 8][4],
                                                      float (&o)[D / 8][4], Running &run,
                                                      float factor) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {                         // rows g and g + 8
        float largest = run.largest[half];
#pragma unroll
        for (int n = 0; n < TILE / 8; ++n)
            largest = fmaxf(largest, fmaxf(s[n][2 * half], s[n][2 * half + 1]) * factor);
        largest = quad_max(largest);
        float shrink = fast_exp2(run.largest[half] - largest), total = 0;
#pragma unroll
        for (int n = 0; n < TILE / 8; ++n)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) {
                s[n][i] = fast_exp2(s[n][i] * factor - largest);
                total += s[n][i];
            }
        run.total[half] = run.total[half] * shrink + total;        // one lane's columns only
        run.largest[half] = largest;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) o[n][2 * half] *= shrink, o[n][2 * half + 1] *= shrink;
    }
}

// The diagonal tile: key j is hidden from query i < j (both counted within the tile).
static __device__ __forceinline__ void hide_future(float (&s)[TILE / 8][4]) {
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int n = 0; n < TILE / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (n * 8 + lane % 4 * 2 + i % 2 > row + i / 2 * 8) s[n][i] = -INFINITY;
}

// Divide by the softmax sum and write 16 rows of out, and their log-sum-exp.
template <class T, int D>
static __device__ __forceinline__ void finish(const AttentionCall &call, T *staging,
                                              const float (&o)[D / 8][4], Running &run, Row row,
                                              int first, int head) {
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float total = run.total[half];
        total += __shfl_xor_sync(ALL_LANES, total, 1);
        total += __shfl_xor_sync(ALL_LANES, total, 2);
        inverse[half] = 1.f / total;
        int lane = threadIdx.x % 32, i = first + lane / 4 + 8 * half;
        if (lane % 4 == 0 && i < row.length)
            call.lse[head * call.n_tokens + row.start + i] = run.largest[half] * LN2 + logf(total);
    }
    __syncwarp();              // every lane's ldmatrix of these rows is over
    put_rows<T, D>(staging, o, inverse[0], inverse[1]);
    __syncwarp();
    T *out = static_cast<T *>(call.out) + (row.start * call.n_heads + head) * D;
    store_rows<T, D>(staging, out, int64_t(call.n_heads) * D, first, row.length);
}

template <class T, int D, bool FUSED>
__global__ void __launch_bounds__(THREADS) attention_forward(AttentionCall call) {
    auto &shared = *shared_memory<ForwardShared<T, D>>();
    Row row = find_row(call, blockIdx.z);
    int tile = gridDim.x - 1 - blockIdx.x, head = blockIdx.y;      // the longest work starts first
    int first = tile * TILE, warp = threadIdx.x / 32, group = call.n_heads / call.n_kv_heads;
    if (first >= row.length) return;
    Layout at = find_layout(call, head, D);
    const T *base = static_cast<const T *>(call.qkv) + row.start * at.token;

    copy_tile<T, TILE, D, THREADS>(shared.q, base + at.q, at.token, first, row.length);
    copy_tile<T, TILE, D, THREADS>(shared.k[0], base + at.k, at.token, 0, row.length);
    copy_tile<T, TILE, D, THREADS>(shared.v[0], base + at.v, at.token, 0, row.length);
    cp_async_commit();

    float o[D / 8][4] = {};
    Running run;
    for (int j = 0; j <= tile; ++j) {
        T *k = shared.k[j % 2], *v = shared.v[j % 2];
        cp_async_wait<0>();
        __syncthreads();           // tile j is here for all, and nobody reads the other stage
        if (j < tile) {
            copy_tile<T, TILE, D, THREADS>(shared.k[(j + 1) % 2], base + at.k, at.token,
                                           (j + 1) * TILE, row.length);
            copy_tile<T, TILE, D, THREADS>(shared.v[(j + 1) % 2], base + at.v, at.token,
                                           (j + 1) * TILE, row.length);
            cp_async_commit();
        }
        if (FUSED) {
            if (j == 0) norm_rope_tile<T, TILE, D, THREADS>(shared.q, call, call.q_gain, first);
            norm_rope_tile<T, TILE, D, THREADS>(k, call, call.k_gain, j * TILE);
            __syncthreads();       // rotated keys are seen by every warp
            if (j == tile && call.k_out != nullptr && head % group == 0) {
                T *to = static_cast<T *>(call.k_out) +
                        (row.start * call.n_kv_heads + head / group) * D;
                store_rows<T, D>(k + warp * 16 * PITCH<D>, to, int64_t(call.n_kv_heads) * D,
                                 first + warp * 16, row.length);
            }
        }
        float s[TILE / 8][4] = {};
        multiply_rows<T, TILE / 8, D>(s, shared.q + warp * 16 * PITCH<D>, k);
        if (j == tile) hide_future(s);
        online_softmax<D>(s, o, run, call.scale * LOG2E);
        multiply_weights<T, TILE / 16, D>(o, s, v);
    }
    // Only this warp ever read these 16 rows of q, so they may hold its output now.
    finish<T, D>(call, shared.q + warp * 16 * PITCH<D>, o, run, row, first + warp * 16, head);
}

EXPORT int tensor_forward(const AttentionCall *call, void *stream) {
    dim3 grid(ceil_div(call->max_len, TILE), call->n_heads, call->n_rows);
    size_t bytes = sizeof(ForwardShared<KERNEL_T, KERNEL_D>);
    auto kernel = call->q_gain != nullptr ? attention_forward<KERNEL_T, KERNEL_D, true>
                                          : attention_forward<KERNEL_T, KERNEL_D, false>;
    return launch(kernel, grid, THREADS, bytes, stream, *call);
}
