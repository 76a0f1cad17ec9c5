// The vocabulary that every kernel speaks. Two builds of one source:
//   nvcc  -> device.h:    the words become PTX instructions
//   g++   -> emulator.h:  the words become plain C++, one fiber per CUDA thread
// Kernels use CUDA's own names where a plain C++ meaning exists (threadIdx, __syncthreads,
// __shfl_xor_sync); only hardware instructions have names of their own:
//   cp_async16, cp_async_commit, cp_async_wait<N>    asynchronous copies, global -> shared
//   ldmatrix_x4, ldmatrix_x4_trans                   four 8x8 tiles, shared -> registers
//   mma_16x8x16                                      one tensor-core multiply-accumulate
//   load16, store16, load_float4, store_float4, load_float2    one access, aligned to its size
//   fast_exp2, shared_memory<T>, launch
// No kernel contains inline PTX, lambdas marked __device__, or a library of templates.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include "device.h"
#else
#include "emulator.h"
#endif

// Each library holds one instance: build.py sets the number type and the head dimension.
#define EXPORT extern "C" __attribute__((visibility("default")))

constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

// One call, as Python fills it in (ops.py mirrors this struct; a test compares the sizes).
// Fields that a kernel has no use for are null. N tokens in B rows, H heads, Hkv KV heads.
struct AttentionCall {
    const void *qkv;          // (N, H + 2 Hkv, D) packed projections
    const int *cu_seqlens;    // (B + 1,) starts of the rows; null: every row has max_len tokens
    const float *q_gain;      // (D,) QK-norm gains
    const float *k_gain;
    const float *cos;         // (>= max_len, D / 2)
    const float *sin;
    void *out;                // (N, H, D)
    float *lse;               // (H, N) log-sum-exp of the scaled scores, natural logarithm
    void *k_out;              // (N, Hkv, D) keys after norm and rotation, or null
    const void *grad_out;     // (N, H, D)
    void *grad_qkv;           // like qkv
    float *grad_gain;         // (B * Hkv, 2, D) partial sums of the gains' gradients
    float *scratch;           // work space in global memory where shared memory is too small
    int64_t n_tokens;         // N
    int n_rows;               // B
    int max_len;              // T, an upper bound of the rows' lengths
    int n_heads;              // H
    int n_kv_heads;           // Hkv
    int head_dim;             // D
    float scale;              // 1 / sqrt(D)
    float eps;                // QK-norm epsilon
};

// One decoding step: one new token in each of B rows, appended to its cache. A row may continue
// one of P prompts, whose keys and values are stored once and shared.
struct DecodeCall {
    const void *qkv;              // (B, H + 2 Hkv, D) packed projections of the new tokens
    const float *q_gain, *k_gain; // (D,)
    const float *cos, *sin;       // (>= longest position + 1, D / 2)
    void *cache_k, *cache_v;      // (B, Hkv, S, D): position stride D, other strides below
    const int64_t *lens;          // (B,) own tokens already cached; outside [0, S): an idle row
    const void *prompt_k;         // (P, Hkv, prompt_max, D) contiguous, or null
    const void *prompt_v;
    const int64_t *prompt_len;    // (P,)
    const int64_t *prompt_index;  // (B,) which prompt the row continues
    void *out;                    // (B, H, D)
    float *partial_out;           // (B, H, D) attention over the prompt alone; null: not split off
    float *partial_lse;           // (B, H) its log2-sum-exp
    int64_t row_stride;           // of the caches, in numbers
    int64_t head_stride;
    int n_rows;                   // B
    int n_heads;                  // H
    int n_kv_heads;               // Hkv
    int head_dim;                 // D
    int capacity;                 // S
    int n_prompts;                // P
    int prompt_max;               // longest prompt that fits
    float scale;                  // 1 / sqrt(D)
    float eps;                    // QK-norm epsilon
};

// Where one row lies in the packed tokens.
struct Row {
    int64_t start;
    int length;
};

__device__ __forceinline__ Row find_row(const AttentionCall &call, int row) {
    if (call.cu_seqlens == nullptr) return {int64_t(row) * call.max_len, call.max_len};
    return {call.cu_seqlens[row], call.cu_seqlens[row + 1] - call.cu_seqlens[row]};
}

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
