// A solution of assignment 7.
#include "vocabulary.h"

constexpr int THREADS = 128;

static __device__ float power(float x, float largest) { return expf(x - largest); }

template <bool LARGEST> static __device__ float reduce(float x, float *shared) {
    int t = threadIdx.x;
    shared[t] = x;
    __syncthreads();                                      // written
    for (int n = THREADS / 2; n > 0; n /= 2) {
        float other = t < n ? shared[t + n] : 0.f;
        if (t < n) shared[t] = LARGEST ? fmaxf(shared[t], other) : shared[t] + other;
        __syncthreads();                                  // reduced
    }
    float all = shared[0];
    __syncthreads();                                      // read
    return all;
}

__global__ void softmax_row(const float *scores, float *weights, int n_queries, int n_keys) {
    float *shared = shared_memory<float>();
    int t = threadIdx.x, query = blockIdx.x;
    int64_t first = (int64_t(blockIdx.y) * n_queries + query) * n_keys;
    const float *row = scores + first;
    int seen = n_keys - n_queries + query + 1;
    float largest = -INFINITY, sum = 0.f;
    for (int j = t; j < seen; j += THREADS) largest = fmaxf(largest, row[j]);
    largest = reduce<true>(largest, shared);
    for (int j = t; j < seen; j += THREADS) sum += power(row[j], largest);
    sum = reduce<false>(sum, shared);
    for (int j = t; j < n_keys; j += THREADS)
        weights[first + j] = j < seen ? power(row[j], largest) / sum : 0.f;
}

EXPORT int causal_softmax(const float *scores, float *weights, int n_matrices, int n_queries,
                          int n_keys, void *stream) {
    dim3 grid(n_queries, n_matrices);
    return launch(softmax_row, grid, THREADS, THREADS * sizeof(float), stream, scores, weights,
                  n_queries, n_keys);
}
