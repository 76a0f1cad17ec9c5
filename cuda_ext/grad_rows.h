// The end of the backward pass for 16 rows: gradients of rotated, normed queries or keys, held as
// tensor-core accumulators, become gradients of the raw projections.
//
// In the accumulator layout a lane holds columns 8 n + 2 t and the next, of rows g and g + 8. The
// rotary pair (d, d + D / 2) is then n and n + D / 16 of one lane: no data moves between lanes.
#pragma once
#include "tile.h"

// Where 16 rows go, and what their norm and rotation were.
template <class T> struct GradRows {
    const T *raw;            // first row of the raw projections of this head
    T *grad;                 // the same place in the gradient
    int64_t stride;
    int first, length;       // first of the 16 rows; rows of the sequence
    const float *gain;
    float *gain_sum;         // (D,) of this warp, in shared memory
};

// Sum over the eight lanes that hold the same columns; lane g = 0 of each column adds it up.
template <int D>
__device__ __forceinline__ void add_gain(float *gain_sum, float (&part)[D / 8][2]) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float sum = part[n][i];
            sum += __shfl_xor_sync(ALL_LANES, sum, 4);
            sum += __shfl_xor_sync(ALL_LANES, sum, 8);
            sum += __shfl_xor_sync(ALL_LANES, sum, 16);
            if (threadIdx.x % 32 < 4) gain_sum[n * 8 + threadIdx.x % 4 * 2 + i] += sum;
        }
}

// One of a lane's two rows (half 0: row g, half 1: row g + 8), in place in the accumulators.
template <class T, int D>
__device__ __forceinline__ void norm_rope_gradient(float (&c)[D / 8][4], float (&part)[D / 8][2],
                                                   const AttentionCall &call,
                                                   const GradRows<T> &rows, int half) {
    constexpr int N = D / 16;
    int i = rows.first + threadIdx.x % 32 / 4 + 8 * half, t = threadIdx.x % 4 * 2;
    bool valid = i < rows.length;
    const T *raw = rows.raw + (valid ? i : 0) * rows.stride + t;
    const float *cos = call.cos + (valid ? i : 0) * (D / 2) + t;
    const float *sin = call.sin + (valid ? i : 0) * (D / 2) + t;
    float x[D / 8][2], squares = 0, pull = 0;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
        float2 pair = unpack2<T>(*reinterpret_cast<const uint32_t *>(raw + n * 8));
        x[n][0] = valid ? pair.x : 0.f, x[n][1] = valid ? pair.y : 0.f;
        squares += x[n][0] * x[n][0] + x[n][1] * x[n][1];
    }
    squares += __shfl_xor_sync(ALL_LANES, squares, 1);
    squares += __shfl_xor_sync(ALL_LANES, squares, 2);
    float inverse = rsqrtf(squares / D + call.eps);
#pragma unroll
    for (int n = 0; n < N; ++n) {
        float2 co = load_float2(cos + n * 8), si = load_float2(sin + n * 8);
#pragma unroll
        for (int e = 0; e < 2; ++e) {                                   // rotate back
            float ce = e ? co.y : co.x, se = e ? si.y : si.x;
            float low = c[n][2 * half + e], high = c[n + N][2 * half + e];
            c[n][2 * half + e] = low * ce + high * se;
            c[n + N][2 * half + e] = high * ce - low * se;
        }
    }
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
        float2 gain = load_float2(rows.gain + n * 8 + t);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            float &dy = c[n][2 * half + e];
            part[n][e] += valid ? dy * x[n][e] * inverse : 0.f;
            dy *= e ? gain.y : gain.x;
            pull += dy * x[n][e];
        }
    }
    pull += __shfl_xor_sync(ALL_LANES, pull, 1);
    pull += __shfl_xor_sync(ALL_LANES, pull, 2);
    pull *= inverse * inverse / D;
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e)
            c[n][2 * half + e] = inverse * (c[n][2 * half + e] - x[n][e] * pull);
}

// Accumulators of 16 rows -> global gradient rows, 4 bytes a lane; FUSED goes back through the
// rotation and the norm first, and adds to the gain's gradient.
template <class T, int D, bool FUSED>
__device__ __forceinline__ void write_gradient(float (&c)[D / 8][4], const AttentionCall &call,
                                               const GradRows<T> &rows) {
    if (FUSED) {
        float part[D / 8][2] = {};
        norm_rope_gradient<T, D>(c, part, call, rows, 0);
        norm_rope_gradient<T, D>(c, part, call, rows, 1);
        add_gain<D>(rows.gain_sum, part);
    }
    int i = rows.first + threadIdx.x % 32 / 4, t = threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        if (i + 8 * half >= rows.length) continue;
        T *to = rows.grad + (i + 8 * half) * rows.stride + t;
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
            *reinterpret_cast<uint32_t *>(to + n * 8) =
                pack2<T>(c[n][2 * half], c[n][2 * half + 1]);
    }
}
