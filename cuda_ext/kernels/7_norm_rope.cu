// 7. QK-norm and rotary embedding by themselves: what kernels 4 and 6 fuse.
//
//     y = x / sqrt(mean(x^2) + eps) * gain        (z_lo, z_hi) = rotate((y_lo, y_hi), position)
//
// The easy kernel to start with: no tensor cores, memory-bound. Reads and writes q, k, v once (6
// activations). Used for fp32, where the exact attention kernels want finished q and k, and as the
// unfused half of the timing table. D / 16 neighbouring lanes own a token; a lane holds eight of
// its rotary pairs, so every access is 16 bytes wide, and takes the token's heads one by one with
// the same cosines and sines in its registers.
// Backward, with r = 1 / sqrt(mean(x^2) + eps) and dy = rotate(dz, -position):
//     dgain += dy x r        dx = r (gain dy - x r^2 mean(gain dy x))
#include "../tile.h"

constexpr int TOKENS = 32;                        // of a block
template <int D> constexpr int TOKEN_LANES = D / 16;
template <int D> constexpr int NORM_THREADS = TOKENS * TOKEN_LANES<D>;

// This lane's pairs (d, d + D / 2), d = first() and seven more, of one head.
template <int D>
struct Pairs {
    float low[8], high[8];
    static __device__ int first() { return threadIdx.x % TOKEN_LANES<D> * 8; }
    template <class T> __device__ void read(const T *from, bool valid = true) {
        for (int i = 0; i < 8; ++i) low[i] = high[i] = 0.f;
        if (valid) load8(low, from + first()), load8(high, from + first() + D / 2);
    }
    template <class T> __device__ void write(T *to) const {
        store8(to + first(), low), store8(to + first() + D / 2, high);
    }
    // angles: cosines low, sines high; direction +1 rotates by them, -1 back.
    __device__ void rotate(const Pairs &angles, float direction) {
        for (int i = 0; i < 8; ++i) {
            float c = angles.low[i], s = angles.high[i] * direction, x = low[i], y = high[i];
            low[i] = x * c - y * s, high[i] = y * c + x * s;
        }
    }
    __device__ void scale_by(const Pairs &gain, float factor) {
        for (int i = 0; i < 8; ++i)
            low[i] *= gain.low[i] * factor, high[i] *= gain.high[i] * factor;
    }
    __device__ float dot(const Pairs &other) const {
        float sum = 0;
        for (int i = 0; i < 8; ++i) sum += low[i] * other.low[i] + high[i] * other.high[i];
        for (int mask = 1; mask < TOKEN_LANES<D>; mask *= 2)
            sum += __shfl_xor_sync(ALL_LANES, sum, mask);
        return sum;
    }
};

// cos and sin of a position.
template <int D>
static __device__ __forceinline__ Pairs<D> read_angles(const AttentionCall &call, int position) {
    Pairs<D> angles;
    int at = position * (D / 2) + Pairs<D>::first();
    load8(angles.low, call.cos + at), load8(angles.high, call.sin + at);
    return angles;
}

// out = qkv with q and k normed and rotated, v copied. grid (T / 32, 1, B).
template <class T, int D>
__global__ void norm_rope(AttentionCall call) {
    Row row = find_row(call, blockIdx.z);
    int i = blockIdx.x * TOKENS + threadIdx.x / TOKEN_LANES<D>;
    bool mine = i < row.length;
    int n_heads = call.n_heads + 2 * call.n_kv_heads;
    int64_t at = (row.start + i) * n_heads * D;
    const T *from = static_cast<const T *>(call.qkv) + at;
    T *to = static_cast<T *>(call.out) + at;
    Pairs<D> angles = read_angles<D>(call, mine ? i : 0), gain, x;
    gain.read(call.q_gain);
    for (int head = 0; head < n_heads; ++head) {
        if (head == call.n_heads) gain.read(call.k_gain);
        x.read(from + head * D, mine);
        if (head < call.n_heads + call.n_kv_heads) {
            x.scale_by(gain, rsqrtf(x.dot(x) / D + call.eps));
            x.rotate(angles, 1.f);
        }
        if (mine) x.write(to + head * D);
    }
}

// Add one vector per token into gains[d], token after token: a fixed order of sums.
template <int D>
static __device__ void sum_over_tokens(float (*tile)[D], const Pairs<D> &mine, float *to) {
    mine.write(tile[threadIdx.x / TOKEN_LANES<D>]);
    __syncthreads();
    for (int d = threadIdx.x; d < D; d += NORM_THREADS<D>) {
        float sum = 0;
        for (int i = 0; i < TOKENS; ++i) sum += tile[i][d];
        to[d] = sum;
    }
    __syncthreads();
}

// grad_out: gradient of norm_rope's output (packed like qkv) -> grad_qkv, and per block the
// partial sums of both gains' gradients, grad_gain (B * T / 32, 2, D). grid (T / 32, 1, B).
template <class T, int D>
__global__ void norm_rope_backward(AttentionCall call) {
    auto *tile = shared_memory<float[D]>();                              // (TOKENS, D)
    Row row = find_row(call, blockIdx.z);
    int i = blockIdx.x * TOKENS + threadIdx.x / TOKEN_LANES<D>;
    bool mine = i < row.length;
    int n_heads = call.n_heads + 2 * call.n_kv_heads;
    Pairs<D> angles = read_angles<D>(call, mine ? i : 0), gain, grad_gain = {};
    gain.read(call.q_gain);
    float *to = call.grad_gain + (int64_t(blockIdx.z) * gridDim.x + blockIdx.x) * 2 * D;
    for (int head = 0; head < n_heads; ++head) {
        int64_t at = ((row.start + i) * n_heads + head) * D;
        Pairs<D> x, dy;
        dy.read(static_cast<const T *>(call.grad_out) + at, mine);
        if (head < call.n_heads + call.n_kv_heads) {
            x.read(static_cast<const T *>(call.qkv) + at, mine);
            float inverse = rsqrtf(x.dot(x) / D + call.eps);
            dy.rotate(angles, -1.f);
            for (int i = 0; i < 8; ++i) {
                grad_gain.low[i] += dy.low[i] * x.low[i] * inverse;
                grad_gain.high[i] += dy.high[i] * x.high[i] * inverse;
            }
            dy.scale_by(gain, 1.f);
            float pull = dy.dot(x) * inverse * inverse / D;
            for (int i = 0; i < 8; ++i) {
                dy.low[i] = inverse * (dy.low[i] - x.low[i] * pull);
                dy.high[i] = inverse * (dy.high[i] - x.high[i] * pull);
            }
        }
        if (mine) dy.write(static_cast<T *>(call.grad_qkv) + at);
        if (head + 1 != call.n_heads && head + 1 != call.n_heads + call.n_kv_heads) continue;
        sum_over_tokens<D>(tile, grad_gain, head < call.n_heads ? to : to + D);
        grad_gain = {};
        gain.read(call.k_gain);
    }
}

EXPORT int norm_rope_forward(const AttentionCall *call, void *stream) {
    dim3 grid(ceil_div(call->max_len, TOKENS), 1, call->n_rows);
    return launch(norm_rope<KERNEL_T, KERNEL_D>, grid, NORM_THREADS<KERNEL_D>, 0, stream, *call);
}

EXPORT int norm_rope_grad(const AttentionCall *call, void *stream) {
    dim3 grid(ceil_div(call->max_len, TOKENS), 1, call->n_rows);
    size_t bytes = TOKENS * KERNEL_D * sizeof(float);
    return launch(norm_rope_backward<KERNEL_T, KERNEL_D>, grid, NORM_THREADS<KERNEL_D>, bytes,
                  stream, *call);
}
EXPORT int norm_rope_tokens() { return TOKENS; }          // tokens that share one partial sum

EXPORT const char *error_text(int code) { return launch_error(code); }
EXPORT int attention_call_bytes() { return int(sizeof(AttentionCall)); }
EXPORT int decode_call_bytes() { return int(sizeof(DecodeCall)); }
