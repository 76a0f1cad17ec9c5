// 6. Tensor-core backward: one kernel, no atomics, packed gradients out (kernel 5's formula).
//
// Changed: one block owns all of a row's queries, keys and values for one KV head, so every sum
// has one owner: dK and dV of 64 keys live in registers while the queries stream by, dQ of the
// whole row in fp32 in shared memory (in `scratch`, which is global, for rows too long for that).
// Two runs are bit-equal. PyTorch's path needs three kernels and an fp32 dQ in global memory, and
// then a concatenation into the packed layout; here the gradient of the projection comes out.
// Bytes: read q, k, v, o, do and write dq, dk, dv once: 8 T D numbers a head (the repeated reads
// of q and do for each tile of keys hit the L2). FLOPs: 5 products, 5 T^2 D causal.
// A warp owns 16 keys and works on transposed scores (16 keys x QUERIES):
//     S^T = K Q^T    dP^T = V dO^T    dV += P^T dO    dK += dS^T Q    dQ += dS K
// P^T and dS^T feed the next product from registers; only dQ, a sum over keys, needs dS in
// shared memory, since it crosses warps. The next tile is always on its way: of queries while these
// are used, of keys while the gradients of these are written, the first while delta is computed.
#include "../grad_rows.h"

constexpr int KEY_TILE = 64, BACK_THREADS = 128, WARPS = 4;
template <int D> constexpr int QUERY_TILE = D == 32 ? 64 : 32;       // what fits registers

template <class T, int D>
struct BackwardShared {
    T k[KEY_TILE * PITCH<D>], v[KEY_TILE * PITCH<D>];
    T q[2][QUERY_TILE<D> * PITCH<D>], grad[2][QUERY_TILE<D> * PITCH<D>];
    T ds[KEY_TILE * (QUERY_TILE<D> + 8)];                            // dS^T: (keys, queries)
    float k_gain_sum[WARPS][D];
    // dS is done with when the queries' gradients are written: their gains' sums take its place.
    __device__ float *q_gain_sum(int warp) { return reinterpret_cast<float *>(ds) + warp * D; }
};

// Per block work space: dQ accumulators and the two numbers that each query needs.
template <int D> struct Work {
    float *dq, *lse, *delta;           // (group, padded, D), (group, padded), (group, padded)
    int padded;                        // T rounded up to whole query tiles
    static __host__ __device__ int64_t floats(int group, int padded) {
        return int64_t(group) * padded * (D + 2);
    }
};

// This lane's four numbers of the fragment of dQ at row r (of 16) and column d (of 8): dQ stands in
// the order of the accumulators, which alone read and write it, so that nothing pads its rows.
template <int D> static __device__ __forceinline__ float *dq_at(float *dq, int r, int d) {
    return dq + r * D + d * 16 + threadIdx.x % 32 * 4;
}

template <class T> static __device__ __forceinline__ float dot8(uint4 a, uint4 b) {
    uint32_t x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
    float sum = 0;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        float2 p = unpack2<T>(x[w]), g = unpack2<T>(y[w]);
        sum += p.x * g.x + p.y * g.y;
    }
    return sum;
}

// lse in base 2 (infinite past the end: those weights become 0) and delta = do . o, per query of
// whole tiles.
template <class T, int D>
static __device__ void prepare_queries(const AttentionCall &call, Row row, int head, float *lse,
                                       float *delta) {
    constexpr int LANES = D / 8;                                     // lanes that share a row
    int64_t stride = int64_t(call.n_heads) * D, base = row.start * stride + head * D;
    const T *out = static_cast<const T *>(call.out) + base;
    const T *grad = static_cast<const T *>(call.grad_out) + base;
    const float *from = call.lse + head * call.n_tokens + row.start;
    constexpr int ROWS = BACK_THREADS / LANES, ROUNDS = KEY_TILE / ROWS < 4 ? KEY_TILE / ROWS : 4;
    int end = ceil_div(row.length, KEY_TILE) * KEY_TILE;
    for (int begin = threadIdx.x / LANES; begin < end; begin += ROUNDS * ROWS) {
        uint4 x[ROUNDS], y[ROUNDS];                  // all loads are under way before any is used
#pragma unroll
        for (int n = 0; n < ROUNDS; ++n) {
            int i = begin + n * ROWS < row.length ? begin + n * ROWS : 0;
            int64_t at = i * stride + threadIdx.x % LANES * 8;
            x[n] = load16(out + at), y[n] = load16(grad + at);
        }
#pragma unroll
        for (int n = 0; n < ROUNDS; ++n) {
            int i = begin + n * ROWS;
            float sum = dot8<T>(x[n], y[n]);
#pragma unroll
            for (int mask = 1; mask < LANES; mask *= 2)
                sum += __shfl_xor_sync(ALL_LANES, sum, mask);
            if (threadIdx.x % LANES == 0) {
                lse[i] = i < row.length ? from[i] * LOG2E : INFINITY;
                delta[i] = i < row.length ? sum : 0.f;
            }
        }
    }
}

// S^T and dP^T (this warp's 16 keys x the tile's queries) -> P^T and dS^T in place.
template <int N>
static __device__ __forceinline__ void weights_and_ds(float (&s)[N][4], float (&dp)[N][4],
                                                      const float *lse, const float *delta,
                                                      int first_key, int first_query,
                                                      float scale) {
    int lane = threadIdx.x % 32, key = first_key + lane / 4;
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int q = n * 8 + lane % 4 * 2 + i % 2;
            bool seen = key + i / 2 * 8 <= first_query + q;
            float p = seen ? fast_exp2(s[n][i] * (scale * LOG2E) - lse[q]) : 0.f;
            s[n][i] = p;
            dp[n][i] = p * (dp[n][i] - delta[q]) * scale;
        }
}

// dQ (queries x D) += dS K, dS read back transposed; `fresh`: the first tile of keys stores.
template <class T, int D>
static __device__ __forceinline__ void add_dq(float *dq, const T *ds, const T *k, bool fresh) {
    constexpr int STRIPS = QUERY_TILE<D> / 16, PARTS = WARPS / STRIPS, WIDTH = D / PARTS;
    constexpr int DS_PITCH = QUERY_TILE<D> + 8;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int strip = warp % STRIPS * 16, column = warp / STRIPS * WIDTH;
    const T *a_lane = ds + (lane % 8 + lane / 16 * 8) * DS_PITCH + strip + lane / 8 % 2 * 8;
    const T *b_lane = k + lane % 16 * PITCH<D> + column + lane / 16 * 8;
    float c[WIDTH / 8][4] = {};
#pragma unroll
    for (int key = 0; key < KEY_TILE; key += 16) {
        uint32_t a[4], pair[4];
        ldmatrix_x4_trans(a, a_lane + key * DS_PITCH);
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n += 2) {
            ldmatrix_x4_trans(pair, b_lane + key * PITCH<D> + n * 8);
            mma_16x8x16<T>(c[n], a, pair[0], pair[1]);
            mma_16x8x16<T>(c[n + 1], a, pair[2], pair[3]);
        }
    }
    float *to = dq_at<D>(dq, strip, column);
#pragma unroll
    for (int n = 0; n < WIDTH / 8; ++n) {
        float4 old = fresh ? float4{0.f, 0.f, 0.f, 0.f} : load_float4(to + n * 128);
        store_float4(to + n * 128, {old.x + c[n][0], old.y + c[n][1], old.z + c[n][2],
                                    old.w + c[n][3]});
    }
}

// Start copying a tile of one head's queries, and of their outputs' gradients.
template <class T, int D>
static __device__ __forceinline__ void copy_queries(const AttentionCall &call,
                                                    BackwardShared<T, D> &shared, Row row,
                                                    int head, int first, int stage) {
    constexpr int QUERIES = QUERY_TILE<D>;
    Layout at = find_layout(call, head, D);
    const T *qkv = static_cast<const T *>(call.qkv) + row.start * at.token;
    int64_t stride = int64_t(call.n_heads) * D;
    const T *grad = static_cast<const T *>(call.grad_out) + row.start * stride + head * D;
    copy_tile<T, QUERIES, D, BACK_THREADS>(shared.q[stage], qkv + at.q, at.token, first,
                                           row.length);
    copy_tile<T, QUERIES, D, BACK_THREADS>(shared.grad[stage], grad, stride, first, row.length);
    cp_async_commit();
}

// The same of a tile of keys and values, and of the first queries that see them.
template <class T, int D>
static __device__ __forceinline__ void copy_keys_ahead(const AttentionCall &call,
                                                       BackwardShared<T, D> &shared, Row row,
                                                       int first_key) {
    int head = blockIdx.x * (call.n_heads / call.n_kv_heads);
    Layout at = find_layout(call, head, D);
    const T *qkv = static_cast<const T *>(call.qkv) + row.start * at.token;
    copy_tile<T, KEY_TILE, D, BACK_THREADS>(shared.k, qkv + at.k, at.token, first_key, row.length);
    copy_tile<T, KEY_TILE, D, BACK_THREADS>(shared.v, qkv + at.v, at.token, first_key, row.length);
    copy_queries<T, D>(call, shared, row, head, first_key, 0);
}

// The queries of one head that see the tile of keys at `first_key`, tile after tile; the first of
// them is being copied already.
template <class T, int D, bool FUSED>
static __device__ __forceinline__ void stream_queries(
    const AttentionCall &call, BackwardShared<T, D> &shared, Work<D> work, Row row, int head,
    int first_key, float (&dk)[D / 8][4], float (&dv)[D / 8][4]) {
    constexpr int QUERIES = QUERY_TILE<D>, N = QUERIES / 8;
    int warp_rows = threadIdx.x / 32 * 16, lane = threadIdx.x % 32, stage = 0;
    for (int first = first_key; first < row.length; first += QUERIES, stage ^= 1) {
        T *q = shared.q[stage], *grad = shared.grad[stage];
        cp_async_wait<0>();
        __syncthreads();            // tiles are here; nobody reads the other stage or ds any more
        if (first + QUERIES < row.length)
            copy_queries<T, D>(call, shared, row, head, first + QUERIES, stage ^ 1);
        if (FUSED) {
            norm_rope_tile<T, QUERIES, D, BACK_THREADS>(q, call, call.q_gain, first);
            __syncthreads();        // rotated queries are seen by every warp
        }
        float s[N][4] = {}, dp[N][4] = {};
        multiply_rows<T, N, D>(s, shared.k + warp_rows * PITCH<D>, q);
        multiply_rows<T, N, D>(dp, shared.v + warp_rows * PITCH<D>, grad);
        weights_and_ds<N>(s, dp, work.lse + first, work.delta + first, first_key + warp_rows,
                          first, call.scale);
        T *ds = shared.ds + (warp_rows + lane / 4) * (QUERIES + 8) + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < N; ++n) {
            *reinterpret_cast<uint32_t *>(ds + n * 8) = pack2<T>(dp[n][0], dp[n][1]);
            *reinterpret_cast<uint32_t *>(ds + n * 8 + 8 * (QUERIES + 8)) =
                pack2<T>(dp[n][2], dp[n][3]);
        }
        multiply_weights<T, QUERIES / 16, D>(dv, s, grad);
        multiply_weights<T, QUERIES / 16, D>(dk, dp, q);
        __syncthreads();            // dS of all 64 keys is in shared memory
        add_dq<T, D>(work.dq + int64_t(first) * D, shared.ds, shared.k, first_key == 0);
    }
}

// dQ accumulators -> gradient of the queries of one head, 16 rows a warp.
template <class T, int D, bool FUSED>
static __device__ void write_dq(const AttentionCall &call, float *dq, Row row, int head,
                                float *gain_sum) {
    Layout at = find_layout(call, head, D);
    int64_t base = row.start * at.token + at.q;
    for (int first = threadIdx.x / 32 * 16; first < row.length; first += WARPS * 16) {
        float c[D / 8][4];
        const float *from = dq_at<D>(dq, first, 0);
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            float4 four = load_float4(from + n * 128);
            c[n][0] = four.x, c[n][1] = four.y, c[n][2] = four.z, c[n][3] = four.w;
        }
        write_gradient<T, D, FUSED>(
            c, call, {static_cast<const T *>(call.qkv) + base,
                      static_cast<T *>(call.grad_qkv) + base, at.token, first, row.length,
                      call.q_gain, gain_sum});
    }
}

// One tile of keys: dK and dV in registers while all queries of the group stream by.
template <class T, int D, bool FUSED>
static __device__ __forceinline__ void one_key_tile(const AttentionCall &call,
                                                    BackwardShared<T, D> &shared, Work<D> work,
                                                    Row row, int first_key) {
    int warp = threadIdx.x / 32, group = call.n_heads / call.n_kv_heads;
    Layout at = find_layout(call, blockIdx.x * group, D);
    const T *base = static_cast<const T *>(call.qkv) + row.start * at.token;
    T *grad = static_cast<T *>(call.grad_qkv) + row.start * at.token;
    if (FUSED) {
        cp_async_wait<0>();
        __syncthreads();            // keys are here
        norm_rope_tile<T, KEY_TILE, D, BACK_THREADS>(shared.k, call, call.k_gain, first_key);
    }
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    for (int member = 0; member < group; ++member) {
        Work<D> mine = {work.dq + int64_t(member) * work.padded * D,
                        work.lse + member * work.padded, work.delta + member * work.padded,
                        work.padded};
        stream_queries<T, D, FUSED>(call, shared, mine, row, blockIdx.x * group + member,
                                    first_key, dk, dv);
        __syncthreads();            // nobody reads k, v or a stage any more: all may be refilled
        if (member + 1 < group)
            copy_queries<T, D>(call, shared, row, blockIdx.x * group + member + 1, first_key, 0);
    }
    if (first_key + KEY_TILE < row.length)     // comes while this tile's gradients are written
        copy_keys_ahead<T, D>(call, shared, row, first_key + KEY_TILE);
    int first = first_key + warp * 16;
    write_gradient<T, D, false>(dv, call, {nullptr, grad + at.v, at.token, first, row.length,
                                           nullptr, nullptr});
    write_gradient<T, D, FUSED>(dk, call, {base + at.k, grad + at.k, at.token, first, row.length,
                                           call.k_gain, shared.k_gain_sum[warp]});
}

// Blocks of a multiprocessor that the registers are to leave room for: three of D = 64 fit its
// shared memory up to T = 128.
template <int D, bool LOCAL> constexpr int BLOCKS = D == 64 && LOCAL ? 3 : 2;

// grid (Hkv, B). LOCAL: the work space is in shared memory, behind the tiles.
template <class T, int D, bool FUSED, bool LOCAL>
__global__ void __launch_bounds__(BACK_THREADS, BLOCKS<D, LOCAL>)
attention_backward(AttentionCall call) {
    auto &shared = *shared_memory<BackwardShared<T, D>>();
    Row row = find_row(call, blockIdx.y);
    int group = call.n_heads / call.n_kv_heads, block = blockIdx.y * gridDim.x + blockIdx.x;
    int padded = ceil_div(call.max_len, KEY_TILE) * KEY_TILE;
    float *space = LOCAL ? reinterpret_cast<float *>(&shared + 1)
                         : call.scratch + block * Work<D>::floats(group, padded);
    Work<D> work = {space + 2 * group * padded, space, space + group * padded, padded};
    if (row.length > 0) copy_keys_ahead<T, D>(call, shared, row, 0);
    for (int n = threadIdx.x; n < WARPS * D; n += BACK_THREADS) (&shared.k_gain_sum[0][0])[n] = 0;
    for (int member = 0; member < group; ++member)
        prepare_queries<T, D>(call, row, blockIdx.x * group + member, work.lse + member * padded,
                              work.delta + member * padded);
    // The first barrier of stream_queries publishes what was prepared here.
    for (int first = 0; first < row.length; first += KEY_TILE)
        one_key_tile<T, D, FUSED>(call, shared, work, row, first);
    int warp = threadIdx.x / 32;
    for (int d = threadIdx.x % 32; FUSED && d < D; d += 32) shared.q_gain_sum(warp)[d] = 0;
    __syncwarp();                   // and add_gain's lanes find zeros
    for (int member = 0; member < group; ++member)
        write_dq<T, D, FUSED>(call, work.dq + int64_t(member) * padded * D, row,
                              blockIdx.x * group + member,
                              shared.q_gain_sum(warp));
    if (!FUSED) return;
    __syncthreads();                // every warp's part of the gains' gradients is there
    for (int n = threadIdx.x; n < 2 * D; n += BACK_THREADS) {
        float sum = 0;
        for (int w = 0; w < WARPS; ++w)
            sum += (n < D ? shared.q_gain_sum(w) : shared.k_gain_sum[w])[n % D];
        call.grad_gain[int64_t(block) * 2 * D + n] = sum;
    }
}

EXPORT int tensor_backward(const AttentionCall *call, void *stream) {
    dim3 grid(call->n_kv_heads, call->n_rows);
    size_t bytes = sizeof(BackwardShared<KERNEL_T, KERNEL_D>);
    bool fused = call->q_gain != nullptr, local = call->scratch == nullptr;
    int padded = ceil_div(call->max_len, KEY_TILE) * KEY_TILE;
    if (local)
        bytes += Work<KERNEL_D>::floats(call->n_heads / call->n_kv_heads, padded) * sizeof(float);
    auto kernel = fused && local ? attention_backward<KERNEL_T, KERNEL_D, true, true>
                  : fused        ? attention_backward<KERNEL_T, KERNEL_D, true, false>
                  : local        ? attention_backward<KERNEL_T, KERNEL_D, false, true>
                                 : attention_backward<KERNEL_T, KERNEL_D, false, false>;
    return launch(kernel, grid, BACK_THREADS, bytes, stream, *call);
}

// Bytes of shared memory a block needs beside its work space, and the bytes of that space.
EXPORT int64_t backward_tile_bytes() { return sizeof(BackwardShared<KERNEL_T, KERNEL_D>); }
EXPORT int64_t backward_work_bytes(int group, int max_len) {
    int padded = ceil_div(max_len, KEY_TILE) * KEY_TILE;
    return Work<KERNEL_D>::floats(group, padded) * int64_t(sizeof(float));
}
