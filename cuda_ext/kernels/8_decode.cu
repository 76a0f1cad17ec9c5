// 8. Decode attention: one new token a row, over its own cache and a prompt that rows share.
//
// No reuse of a row's own keys is possible (one query reads all of them once), so the bytes of the
// cache are the bound: 2 S D numbers a KV head. What can be saved:
//   - N samples of one prompt read its keys once (kernel 9); this kernel merges that result with
//     the row's own tokens by their log-sum-exps. With P prompt and S own tokens the bytes fall
//     towards S / (P + S);
//   - norm, rotation and the append to the cache happen here, without kernels of their own;
//   - all lengths are read on the device, so one CUDA graph serves every step.
#include "../decode.h"

template <class T, int D> struct DecodeShared {
    T q[D], k[D], v[D];                                  // the new token
    float sum[DECODE_WARPS][D], largest[DECODE_WARPS], total[DECODE_WARPS];
};

// Keys [0, length) of one segment; D / 8 lanes share a key, the block takes them in turns.
template <class T, int D>
static __device__ __forceinline__ void attend(Softmax<8> &softmax, const float (&q)[8], const T *k,
                                              const T *v, int length) {
    constexpr int LANES = D / 8, KEYS = DECODE_THREADS / LANES;
    int part = threadIdx.x % LANES * 8;
    int rounds = ceil_div(length, KEYS);                  // the same for all: shuffles need it
    for (int round = 0; round < rounds; ++round) {
        int j = round * KEYS + threadIdx.x / LANES;
        bool valid = j < length;
        int64_t at = int64_t(valid ? j : 0) * D + part;
        float key[8], value[8], score = 0;
        load8(key, k + at), load8(value, v + at);
#pragma unroll
        for (int i = 0; i < 8; ++i) score += q[i] * key[i];
#pragma unroll
        for (int m = 1; m < LANES; m *= 2) score += __shfl_xor_sync(ALL_LANES, score, m);
        if (valid) softmax.merge(score, 1.f, value);
    }
}

// The sums of all key groups of the block, in a fixed order, and of the prompt: out (D,).
template <class T, int D>
static __device__ __forceinline__ void combine(const DecodeCall &call, DecodeShared<T, D> &shared,
                                               Softmax<8> &softmax, int b, int head) {
    constexpr int LANES = D / 8;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int mask = LANES; mask < 32; mask *= 2) {
        float largest = __shfl_xor_sync(ALL_LANES, softmax.largest, mask);
        float total = __shfl_xor_sync(ALL_LANES, softmax.total, mask), sum[8];
        for (int i = 0; i < 8; ++i) sum[i] = __shfl_xor_sync(ALL_LANES, softmax.sum[i], mask);
        softmax.merge(largest, total, sum);
    }
    if (lane < LANES) {
        shared.largest[warp] = softmax.largest, shared.total[warp] = softmax.total;
        for (int i = 0; i < 8; ++i) shared.sum[warp][lane * 8 + i] = softmax.sum[i];
    }
    __syncthreads();                                      // every warp's part is there
    int64_t at = int64_t(b) * call.n_heads + head;
    for (int d = threadIdx.x; d < D; d += DECODE_THREADS) {
        Softmax<1> all;
        for (int w = 0; w < DECODE_WARPS; ++w)
            all.merge(shared.largest[w], shared.total[w], &shared.sum[w][d]);
        if (call.partial_out != nullptr)
            all.merge(call.partial_lse[at], 1.f, &call.partial_out[at * D + d]);
        static_cast<T *>(call.out)[at * D + d] = from_float<T>(all.sum[0] / all.total);
    }
}

// grid (H, B).
template <class T, int D>
__global__ void decode_step(DecodeCall call) {
    auto &shared = *shared_memory<DecodeShared<T, D>>();
    int head = blockIdx.x, b = blockIdx.y, group = call.n_heads / call.n_kv_heads;
    int kv = head / group, length = own_length(call, b), warp = threadIdx.x / 32;
    T *out = static_cast<T *>(call.out) + (int64_t(b) * call.n_heads + head) * D;
    if (length < 0) {                                     // the whole block leaves
        for (int d = threadIdx.x; d < D; d += DECODE_THREADS) out[d] = from_float<T>(0.f);
        return;
    }
    int prompt = prompt_length(call, b), position = prompt + length;
    const T *qkv = static_cast<const T *>(call.qkv) +
                   int64_t(b) * (call.n_heads + 2 * call.n_kv_heads) * D;
    const T *k_new = qkv + (call.n_heads + kv) * D, *v_new = k_new + call.n_kv_heads * D;
    int64_t cache = b * call.row_stride + kv * call.head_stride;
    T *cache_k = static_cast<T *>(call.cache_k) + cache;
    T *cache_v = static_cast<T *>(call.cache_v) + cache;
    if (warp == 0) norm_rope_vector<T, D>(shared.q, qkv + head * D, call.q_gain, call, position);
    if (warp == 1) norm_rope_vector<T, D>(shared.k, k_new, call.k_gain, call, position);
    for (int d = threadIdx.x; d < D; d += DECODE_THREADS) shared.v[d] = v_new[d];
    __syncthreads();                                      // the new token is ready for all
    for (int d = threadIdx.x; head % group == 0 && d < D; d += DECODE_THREADS) {
        cache_k[int64_t(length) * D + d] = shared.k[d];
        cache_v[int64_t(length) * D + d] = shared.v[d];
    }
    float q[8];
    for (int i = 0; i < 8; ++i)
        q[i] = to_float(shared.q[threadIdx.x % (D / 8) * 8 + i]) * call.scale * LOG2E;
    Softmax<8> softmax;
    attend<T, D>(softmax, q, shared.k, shared.v, 1);
    attend<T, D>(softmax, q, cache_k, cache_v, length);
    if (prompt > 0 && call.partial_out == nullptr) {      // fp32: no matrix product to share with
        int64_t at = (call.prompt_index[b] * call.n_kv_heads + kv) * call.prompt_max * D;
        attend<T, D>(softmax, q, static_cast<const T *>(call.prompt_k) + at,
                     static_cast<const T *>(call.prompt_v) + at, prompt);
    }
    combine<T, D>(call, shared, softmax, b, head);
}

EXPORT int decode_forward(const DecodeCall *call, void *stream) {
    dim3 grid(call->n_heads, call->n_rows);
    size_t bytes = sizeof(DecodeShared<KERNEL_T, KERNEL_D>);
    return launch(decode_step<KERNEL_T, KERNEL_D>, grid, DECODE_THREADS, bytes, stream, *call);
}
