// Assignment 7: a causal softmax as a CUDA kernel.
//
// scores (R, T, S), row after row: R matrices, T queries, S keys, T <= S. The queries are the last T
// of the S positions, so query i sees the keys 0 .. S - T + i. weights (R, T, S):
//     weights[r, i, j] = exp(scores[r, i, j]) / sum over the keys seen;  0 for a key that is not
// A hidden score may hold anything, NaN too.
#include "vocabulary.h"

constexpr int THREADS = 128;          // of a block; a row has fewer keys, or more, or just as many
constexpr int NOT_WRITTEN = -1;

// Every thread of the block gives its x and gets the largest (or the sum) of all.
// shared: one float a thread, from shared_memory<float>().
static __device__ float block_max(float x, float *shared) {
    return x;
}

static __device__ float block_sum(float x, float *shared) {
    return x;
}

// One block a row. Thread t owns the keys t, t + THREADS, t + 2 THREADS, ...
__global__ void softmax_row(const float *scores, float *weights, int n_queries, int n_keys) {
}

// Start the kernel on all rows of all R matrices (R may be 0); 0 is success.
// launch(kernel, grid, threads, bytes of shared memory, stream, the kernel's arguments...)
EXPORT int causal_softmax(const float *scores, float *weights, int n_matrices, int n_queries,
                          int n_keys, void *stream) {
    return NOT_WRITTEN;
}
