// What the two decode kernels share: lengths, the new token's norm and rotation, softmax merging.
#pragma once
#include "tile.h"

constexpr int DECODE_THREADS = 128, DECODE_WARPS = 4;

// Own tokens of row b, or -1 where the row is idle; and how long its prompt is.
static __device__ __forceinline__ int own_length(const DecodeCall &call, int b) {
    int64_t length = call.lens[b];
    return length < 0 || length >= call.capacity ? -1 : int(length);
}
static __device__ __forceinline__ int prompt_length(const DecodeCall &call, int b) {
    return call.prompt_k == nullptr ? 0 : int(call.prompt_len[call.prompt_index[b]]);
}

// One warp: to (D,) <- rotate(x / rms(x) * gain, position), rounded to T.
template <class T, int D>
static __device__ __forceinline__ void norm_rope_vector(T *to, const T *x, const float *gain,
                                                        const DecodeCall &call, int position) {
    int lane = threadIdx.x % 32;
    float squares = 0;
    for (int d = lane; d < D; d += 32) squares += to_float(x[d]) * to_float(x[d]);
    for (int mask = 1; mask < 32; mask *= 2) squares += __shfl_xor_sync(ALL_LANES, squares, mask);
    float inverse = rsqrtf(squares / D + call.eps);
    for (int d = lane; d < D / 2; d += 32) {
        float low = to_float(x[d]) * inverse * gain[d];
        float high = to_float(x[d + D / 2]) * inverse * gain[d + D / 2];
        float c = call.cos[position * (D / 2) + d], s = call.sin[position * (D / 2) + d];
        to[d] = from_float<T>(low * c - high * s);
        to[d + D / 2] = from_float<T>(high * c + low * s);
    }
}

// A softmax under construction: weights are 2^(score - largest).
template <int N> struct Softmax {
    float largest = -INFINITY, total = 0, sum[N] = {};
    // Merge another one in; both may be empty.
    __device__ __forceinline__ void merge(float other_largest, float other_total,
                                          const float *other_sum) {
        float larger = fmaxf(largest, other_largest);
        float mine = largest == -INFINITY ? 0.f : fast_exp2(largest - larger);
        float theirs = other_largest == -INFINITY ? 0.f : fast_exp2(other_largest - larger);
        largest = larger;
        total = total * mine + other_total * theirs;
        for (int i = 0; i < N; ++i) sum[i] = sum[i] * mine + other_sum[i] * theirs;
    }
};
