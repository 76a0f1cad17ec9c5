// What the tensor-core kernels share: tiles of 16-bit numbers in shared memory.
//
// A tile is ROWS x D numbers, each row 16 bytes longer than its data (PITCH): the eight rows that
// one ldmatrix phase reads then lie in eight different groups of banks.
// Every helper here is called by all threads of the block and contains no barrier.
#pragma once
#include "vocabulary.h"

template <int D> constexpr int PITCH = D + 8;
constexpr unsigned ALL_LANES = 0xffffffffu;

// Element counts between neighbouring tokens, and where each head starts.
struct Layout {
    int64_t token;         // (H + 2 Hkv) D
    int q, k, v;           // offsets of this head's query, key and value
};

__device__ __forceinline__ Layout find_layout(const AttentionCall &call, int head, int D) {
    int kv_head = head / (call.n_heads / call.n_kv_heads);
    return {int64_t(call.n_heads + 2 * call.n_kv_heads) * D, head * D,
            (call.n_heads + kv_head) * D, (call.n_heads + call.n_kv_heads + kv_head) * D};
}

// Eight neighbouring numbers as fp32, 16 bytes at a time.
static __device__ __forceinline__ void load8(float (&x)[8], const float *from) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        float4 four = load_float4(from + i);
        x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
}
template <class T>
static __device__ __forceinline__ void load8(float (&x)[8], const T *from) {
    uint4 raw = load16(from);
    uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        float2 pair = unpack2<T>(words[w]);
        x[2 * w] = pair.x, x[2 * w + 1] = pair.y;
    }
}
static __device__ __forceinline__ void store8(float *to, const float (&x)[8]) {
    store_float4(to, {x[0], x[1], x[2], x[3]}), store_float4(to + 4, {x[4], x[5], x[6], x[7]});
}
template <class T>
static __device__ __forceinline__ void store8(T *to, const float (&x)[8]) {
    store16(to, {pack2<T>(x[0], x[1]), pack2<T>(x[2], x[3]), pack2<T>(x[4], x[5]),
                 pack2<T>(x[6], x[7])});
}

// Start copying rows [first, first + ROWS) into a tile; rows past `length` become zeros.
template <class T, int ROWS, int D, int THREADS>
__device__ __forceinline__ void copy_tile(T *tile, const T *from, int64_t stride, int first,
                                          int length) {
    constexpr int CHUNKS = D / 8;                                   // 16-byte pieces of a row
#pragma unroll 1
    for (int n = threadIdx.x; n < ROWS * CHUNKS; n += THREADS) {
        int r = n / CHUNKS, d = n % CHUNKS * 8;
        bool valid = first + r < length;
        cp_async16(tile + r * PITCH<D> + d, from + (valid ? first + r : 0) * stride + d, valid);
    }
}

// x <- rotate(x / rms(x) * gain, position), row by row in place; the arithmetic is fp32.
// D / 16 neighbouring lanes share a row, eight rotary pairs each, so that a warp reads whole lines
// of cos and sin. Shared memory serves eight lanes' 16 bytes at once: the rows of those eight lie
// SPREAD apart, which puts them into different banks.
template <class T, int ROWS, int D, int THREADS>
__device__ __forceinline__ void norm_rope_tile(T *tile, const AttentionCall &call,
                                               const float *gain, int first_position) {
    constexpr int LANES = D / 16, AT_ONCE = THREADS / LANES, SPREAD = LANES;
    static_assert(ROWS % AT_ONCE == 0, "every lane takes part in the shuffles of every round");
    int group = threadIdx.x / LANES, part = threadIdx.x % LANES * 8;
    int first = group / 8 * 8 + group % (8 / SPREAD) * SPREAD + group % 8 / (8 / SPREAD);
    float low_gain[8], high_gain[8];
    load8(low_gain, gain + part), load8(high_gain, gain + D / 2 + part);
#pragma unroll 1
    for (int r = first; r < ROWS; r += AT_ONCE) {
        int position = first_position + r < call.max_len ? first_position + r : call.max_len - 1;
        T *low = tile + r * PITCH<D> + part, *high = low + D / 2;
        float x[8], y[8], cos[8], sin[8], squares = 0;
        load8(cos, call.cos + position * (D / 2) + part);
        load8(sin, call.sin + position * (D / 2) + part);
        load8(x, low), load8(y, high);
#pragma unroll
        for (int i = 0; i < 8; ++i) squares += x[i] * x[i] + y[i] * y[i];
#pragma unroll
        for (int mask = 1; mask < LANES; mask *= 2)
            squares += __shfl_xor_sync(ALL_LANES, squares, mask);
        float inverse = rsqrtf(squares / D + call.eps);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            float a = x[i] * (inverse * low_gain[i]), b = y[i] * (inverse * high_gain[i]);
            x[i] = a * cos[i] - b * sin[i], y[i] = b * cos[i] + a * sin[i];
        }
        store8(low, x), store8(high, y);
    }
}

// c (16 x 8 N) += a (16 x D) b^T, a and b tiles: rows of a are this warp's, rows of b are columns
// of c. The fragments of a come from `a_rows`, b's from ldmatrix without transposition.
template <class T, int N, int D>
__device__ __forceinline__ void multiply_rows(float (&c)[N][4], const T *a_rows, const T *b) {
    int lane = threadIdx.x % 32;
    const T *a_lane = a_rows + lane % 16 * PITCH<D> + lane / 16 * 8;
    const T *b_lane = b + (lane % 8 + lane / 16 * 8) * PITCH<D> + lane / 8 % 2 * 8;
#pragma unroll (D > 64 ? 2 : D / 16)       // unrolled further, D = 128 runs out of registers
    for (int d = 0; d < D; d += 16) {
        uint32_t a[4], pair[4];
        ldmatrix_x4(a, a_lane + d);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            ldmatrix_x4(pair, b_lane + n * 8 * PITCH<D> + d);
            mma_16x8x16<T>(c[n], a, pair[0], pair[1]);
            mma_16x8x16<T>(c[n + 1], a, pair[2], pair[3]);
        }
    }
}

// c (16 x D) += p (16 x 16 K) b, p the fp32 accumulators of an earlier product (rounded here to
// 16 bits), b a tile of 16 K rows: the transposed ldmatrix turns rows into the k dimension.
template <class T, int K, int D>
__device__ __forceinline__ void multiply_weights(float (&c)[D / 8][4], const float (&p)[2 * K][4],
                                                 const T *b) {
    int lane = threadIdx.x % 32;
    const T *b_lane = b + lane % 16 * PITCH<D> + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        uint32_t a[4] = {pack2<T>(p[2 * k][0], p[2 * k][1]), pack2<T>(p[2 * k][2], p[2 * k][3]),
                         pack2<T>(p[2 * k + 1][0], p[2 * k + 1][1]),
                         pack2<T>(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int d = 0; d < D; d += 16) {
            uint32_t pair[4];
            ldmatrix_x4_trans(pair, b_lane + k * 16 * PITCH<D> + d);
            mma_16x8x16<T>(c[d / 8], a, pair[0], pair[1]);
            mma_16x8x16<T>(c[d / 8 + 1], a, pair[2], pair[3]);
        }
    }
}

// This warp's 16 rows of a tile, to global memory in 16-byte pieces; rows past `length` stay out.
template <class T, int D>
__device__ __forceinline__ void store_rows(const T *rows, T *to, int64_t stride, int first,
                                           int length) {
    constexpr int CHUNKS = D / 8;
#pragma unroll
    for (int n = threadIdx.x % 32; n < 16 * CHUNKS; n += 32) {
        int r = n / CHUNKS, d = n % CHUNKS * 8;
        if (first + r < length)
            store16(to + (first + r) * stride + d, load16(rows + r * PITCH<D> + d));
    }
}

// fp32 accumulators -> this warp's 16 rows of a tile, each row times its factor.
template <class T, int D>
__device__ __forceinline__ void put_rows(T *rows, const float (&c)[D / 8][4], float upper,
                                         float lower) {
    int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    T *at = rows + row * PITCH<D> + column;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
        *reinterpret_cast<uint32_t *>(at + n * 8) = pack2<T>(c[n][0] * upper, c[n][1] * upper);
        *reinterpret_cast<uint32_t *>(at + n * 8 + 8 * PITCH<D>) =
            pack2<T>(c[n][2] * lower, c[n][3] * lower);
    }
}
