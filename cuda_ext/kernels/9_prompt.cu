// 9. The shared prompt of a decoding step: N samples of one prompt read its keys once.
//
// The N x group queries that continue a prompt are the rows of a tensor-core product (Hydragen,
// Juravsky 2024; cascade attention, FlashInfer 2024). 16 queries a block; its four warps take keys
// in turns, 16 at a time, each with a softmax of its own, and no barrier stands in the loop: a
// warp waits only for copies that it started itself. Which rows continue the prompt is found here,
// on the device. Output: attention over the prompt alone, with its log-sum-exp, for kernel 8.
#include "../decode.h"

constexpr int QUERY_ROWS = 16, KEY_ROWS = 16;

template <class T, int D> struct PromptShared {
    T q[QUERY_ROWS * PITCH<D>];
    T k[DECODE_WARPS][2][KEY_ROWS * PITCH<D>], v[DECODE_WARPS][2][KEY_ROWS * PITCH<D>];
    float sum[DECODE_WARPS][QUERY_ROWS][D];
    float largest[DECODE_WARPS][QUERY_ROWS], total[DECODE_WARPS][QUERY_ROWS];
    int rows[QUERY_ROWS], count;                          // rows of this prompt from `skip` on
};

// Warp 0: which rows continue prompt p? Those of rank skip.. go to shared.rows, in row order; what
// comes after QUERY_ROWS of them is not looked at.
template <class T, int D>
static __device__ __forceinline__ void list_rows(const DecodeCall &call, PromptShared<T, D> &shared,
                                                 int p, int skip) {
    int lane = threadIdx.x % 32, count = 0;
    for (int base = 0; base < call.n_rows && count < skip + QUERY_ROWS; base += 32) {
        int b = base + lane;
        bool match = b < call.n_rows && call.prompt_index[b] == p && own_length(call, b) >= 0;
        unsigned votes = __ballot_sync(ALL_LANES, match);
        int rank = count + __popc(votes & ((1u << lane) - 1)) - skip;
        if (match && rank >= 0 && rank < QUERY_ROWS) shared.rows[rank] = b;
        count += __popc(votes);
    }
    if (lane == 0) shared.count = count;
}

// One warp starts copying its 16 keys and values of round `round`.
template <class T, int D>
static __device__ __forceinline__ void copy_keys(T *k, T *v, const T *from_k, const T *from_v,
                                                 int first, int length) {
    for (int n = threadIdx.x % 32; n < KEY_ROWS * (D / 8); n += 32) {
        int r = n / (D / 8), d = n % (D / 8) * 8;
        bool valid = first + r < length;
        int64_t at = int64_t(valid ? first + r : 0) * D + d;
        cp_async16(k + r * PITCH<D> + d, from_k + at, valid);
        cp_async16(v + r * PITCH<D> + d, from_v + at, valid);
    }
    cp_async_commit();
}

// 16 queries x this warp's keys; the running softmax of a lane's two rows stays in registers.
template <class T, int D>
static __device__ __forceinline__ void attend_prompt(PromptShared<T, D> &shared, const T *from_k,
                                                     const T *from_v, int length, float factor) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, stage = 0;
    float o[D / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    constexpr int STEP = DECODE_WARPS * KEY_ROWS;
    int first = warp * KEY_ROWS;
    copy_keys<T, D>(shared.k[warp][0], shared.v[warp][0], from_k, from_v, first, length);
    for (; first < length; first += STEP, stage ^= 1) {
        copy_keys<T, D>(shared.k[warp][stage ^ 1], shared.v[warp][stage ^ 1], from_k, from_v,
                        first + STEP, length);
        cp_async_wait<1>();
        __syncwarp();                                     // all lanes' copies of this stage landed
        float s[2][4] = {};
        multiply_rows<T, 2, D>(s, shared.q, shared.k[warp][stage]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float larger = largest[half], sum = 0;
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                float &score = s[e / 2][2 * half + e % 2];
                int key = first + e / 2 * 8 + lane % 4 * 2 + e % 2;
                score = key < length ? score * factor : -INFINITY;
                larger = fmaxf(larger, score);
            }
            larger = fmaxf(larger, __shfl_xor_sync(ALL_LANES, larger, 1));
            larger = fmaxf(larger, __shfl_xor_sync(ALL_LANES, larger, 2));
            float shrink = fast_exp2(largest[half] - larger);
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                float &score = s[e / 2][2 * half + e % 2];
                score = fast_exp2(score - larger);
                sum += score;
            }
            largest[half] = larger, total[half] = total[half] * shrink + sum;
#pragma unroll
            for (int n = 0; n < D / 8; ++n)
                o[n][2 * half] *= shrink, o[n][2 * half + 1] *= shrink;
        }
        multiply_weights<T, 1, D>(o, s, shared.v[warp][stage]);
        __syncwarp();                                     // before this stage is filled again
    }
    cp_async_wait<0>();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int r = lane / 4 + 8 * half;
        float sum = total[half];
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        if (lane % 4 == 0) shared.largest[warp][r] = largest[half], shared.total[warp][r] = sum;
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
            for (int e = 0; e < 2; ++e)
                shared.sum[warp][r][n * 8 + lane % 4 * 2 + e] = o[n][2 * half + e];
    }
}

// The queries of ranks first.. that continue prompt p, and where their results go.
template <class T, int D>
static __device__ __forceinline__ void one_query_tile(const DecodeCall &call,
                                                      PromptShared<T, D> &shared, int first,
                                                      int queries) {
    int kv = blockIdx.y, p = blockIdx.z, group = call.n_heads / call.n_kv_heads;
    int skip = first / group, length = int(call.prompt_len[p]);
    for (int m = threadIdx.x / 32; m < QUERY_ROWS; m += DECODE_WARPS) {
        int b = shared.rows[m < queries ? (first + m) / group - skip : 0];
        int head = kv * group + (first + m) % group;
        const T *q = static_cast<const T *>(call.qkv) +
                     (int64_t(b) * (call.n_heads + 2 * call.n_kv_heads) + head) * D;
        norm_rope_vector<T, D>(shared.q + m * PITCH<D>, q, call.q_gain, call,
                               length + own_length(call, b));
    }
    __syncthreads();                                      // the queries are there
    int64_t at = (int64_t(p) * call.n_kv_heads + kv) * call.prompt_max * D;
    attend_prompt<T, D>(shared, static_cast<const T *>(call.prompt_k) + at,
                        static_cast<const T *>(call.prompt_v) + at, length, call.scale * LOG2E);
    __syncthreads();                                      // every warp's sums are there
    for (int n = threadIdx.x; n < QUERY_ROWS * D; n += DECODE_THREADS) {
        int m = n / D, d = n % D;
        if (m >= queries) break;
        Softmax<1> all;
        for (int w = 0; w < DECODE_WARPS; ++w)
            all.merge(shared.largest[w][m], shared.total[w][m], &shared.sum[w][m][d]);
        int64_t to = int64_t(shared.rows[(first + m) / group - skip]) * call.n_heads +
                     kv * group + (first + m) % group;
        call.partial_out[to * D + d] = all.total > 0 ? all.sum[0] / all.total : 0.f;
        if (d == 0) call.partial_lse[to] = all.total > 0 ? all.largest + log2f(all.total)
                                                         : -INFINITY;
    }
}

// grid (query tiles of a prompt with an average number of rows, Hkv, P); the blocks of a prompt
// with more rows take further tiles. In a grid with room for all rows at every prompt, all but one
// block in P would look through the rows only to find nothing to do.
template <class T, int D>
__global__ void __launch_bounds__(DECODE_THREADS) prompt_attention(DecodeCall call) {
    auto &shared = *shared_memory<PromptShared<T, D>>();
    int group = call.n_heads / call.n_kv_heads;
    for (int first = blockIdx.x * QUERY_ROWS;; first += gridDim.x * QUERY_ROWS) {
        if (threadIdx.x < 32) list_rows<T, D>(call, shared, blockIdx.z, first / group);
        __syncthreads();                                  // the list of rows is there
        int queries = shared.count * group - first;       // of this tile on
        if (queries <= 0) return;
        one_query_tile<T, D>(call, shared, first, queries);
        __syncthreads();                                  // nobody reads this tile any more
    }
}

EXPORT int prompt_forward(const DecodeCall *call, void *stream) {
    int group = call->n_heads / call->n_kv_heads;
    if (call->n_prompts == 0) return 0;
    int queries = ceil_div(call->n_rows, call->n_prompts) * group;        // of a prompt, on average
    dim3 grid(ceil_div(queries, QUERY_ROWS), call->n_kv_heads, call->n_prompts);
    size_t bytes = sizeof(PromptShared<KERNEL_T, KERNEL_D>);
    return launch(prompt_attention<KERNEL_T, KERNEL_D>, grid, DECODE_THREADS, bytes, stream, *call);
}

// Bytes of shared memory a block needs.
EXPORT int64_t prompt_tile_bytes() { return sizeof(PromptShared<KERNEL_T, KERNEL_D>); }
