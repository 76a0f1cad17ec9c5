// Kernels with one fault each, for test_emulator.py: the emulator must find every one of them.
#include "vocabulary.h"

constexpr int THREADS = 64;

// shared[i] is written by thread i and read by its mirror image; BARRIER says whether they meet.
template <bool BARRIER> __global__ void mirror(float *out) {
    float *shared = shared_memory<float>();
    shared[threadIdx.x] = float(threadIdx.x);
    if (BARRIER) __syncthreads();
    out[threadIdx.x] = shared[THREADS - 1 - threadIdx.x];
}

// 16 bytes a thread, copied asynchronously; WAIT says whether their arrival is awaited.
template <bool WAIT> __global__ void copy(const float *in, float *out) {
    float *shared = shared_memory<float>() + 4 * threadIdx.x;
    cp_async16(shared, in + 4 * threadIdx.x, true);
    cp_async_commit();
    if (WAIT) cp_async_wait<0>();
    for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = shared[i];
    cp_async_wait<0>();
}

// The second copy lands on what is still to be read; REUSE false gives it a place of its own.
template <bool REUSE> __global__ void refill(const float *in, float *out) {
    float *shared = shared_memory<float>() + 8 * threadIdx.x;
    cp_async16(shared, in + 4 * threadIdx.x, true);
    cp_async_commit();
    cp_async_wait<0>();
    cp_async16(REUSE ? shared : shared + 4, in + 4 * threadIdx.x, false);
    cp_async_commit();
    for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = shared[i];
    cp_async_wait<0>();
}

// A row that ldmatrix read is written again; ORDERED says whether __syncwarp stands between.
template <bool ORDERED> __global__ void overwrite(float *out) {
    float *shared = shared_memory<float>() + threadIdx.x / 32 * 128;
    float *row = shared + threadIdx.x % 32 * 4;
    for (int i = 0; i < 4; ++i) row[i] = float(i);
    __syncthreads();
    uint32_t r[4];
    ldmatrix_x4(r, row);
    if (ORDERED) __syncwarp();
    shared[threadIdx.x % 32] = 9.f;
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x % 32];
}
// Each lane waits for its own copy, then reads its neighbour's.
template <bool ORDERED> __global__ void neighbour(const float *in, float *out) {
    float *shared = shared_memory<float>() + threadIdx.x / 32 * 128;
    int lane = threadIdx.x % 32;
    cp_async16(shared + 4 * lane, in + 4 * lane, true);
    cp_async_commit();
    cp_async_wait<0>();
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 9.f, 1);       // this orders no memory
    if (ORDERED) __syncwarp();
    uint32_t r[4];
    ldmatrix_x4(r, shared + 4 * (lane ^ 1));
}

__global__ void some_threads_only(float *) {
    if (threadIdx.x < 32) __syncthreads();
}
__global__ void some_lanes_only(float *out) {
    if (threadIdx.x % 32 < 16) out[0] = __shfl_xor_sync(0xffffffffu, 1.f, 1);
}
__global__ void lanes_diverge(float *out) {
    out[0] = threadIdx.x % 2 ? __shfl_xor_sync(0xffffffffu, 1.f, 2)
                             : float(__ballot_sync(0xffffffffu, 1));
}
__global__ void misaligned(float *) {
    uint32_t r[4];
    ldmatrix_x4(r, shared_memory<unsigned char>() + 8);
}
__global__ void never_awaited(const float *in) {
    cp_async16(shared_memory<float>() + 4 * threadIdx.x, in + 4 * threadIdx.x, true);
    cp_async_commit();
}
__global__ void past_the_end(float *) { shared_memory<float>()[THREADS + threadIdx.x % 8] = 1.f; }
__global__ void read_past_the_end(const float *in, float *out) { out[threadIdx.x] = in[threadIdx.x]; }

#define ONE(NAME, KERNEL, ...)                                                                 \
    EXPORT int NAME(const float *in, float *out, int bytes) {                                  \
        (void)in, (void)out;                                                                   \
        return launch(KERNEL, dim3(2), THREADS, bytes, nullptr, __VA_ARGS__);                  \
    }
ONE(mirror_sound, mirror<true>, out)
ONE(mirror_faulty, mirror<false>, out)
ONE(copy_sound, copy<true>, in, out)
ONE(copy_faulty, copy<false>, in, out)
ONE(refill_sound, refill<false>, in, out)
ONE(refill_faulty, refill<true>, in, out)
ONE(overwrite_sound, overwrite<true>, out)
ONE(overwrite_faulty, overwrite<false>, out)
ONE(neighbour_sound, neighbour<true>, in, out)
ONE(neighbour_faulty, neighbour<false>, in, out)
ONE(deadlock, some_threads_only, out)
ONE(half_a_warp, some_lanes_only, out)
ONE(diverged, lanes_diverge, out)
ONE(misalignment, misaligned, out)
ONE(unawaited, never_awaited, in)
ONE(overrun, past_the_end, out)
ONE(out_of_bounds, read_past_the_end, in, out)

EXPORT const char *error_text(int code) { return launch_error(code); }
template <class T> void round_trip(const float *in, uint16_t *bits, float *back, int count) {
    for (int i = 0; i < count; ++i) {
        bits[i] = from_float<T>(in[i]).bits;
        back[i] = to_float(T{bits[i]});
    }
}
EXPORT void round_bf16(const float *in, uint16_t *bits, float *back, int count) {
    round_trip<bf16>(in, bits, back, count);
}
EXPORT void round_fp16(const float *in, uint16_t *bits, float *back, int count) {
    round_trip<fp16>(in, bits, back, count);
}
