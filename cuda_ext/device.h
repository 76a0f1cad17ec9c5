// The vocabulary on a GPU: each word is one PTX instruction (PTX ISA, chapter 9.7).
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

using bf16 = __nv_bfloat16;
using fp16 = __half;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(fp16 x) { return __half2float(x); }

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return __float2bfloat16(x);
}
template <> __device__ __forceinline__ fp16 from_float<fp16>(float x) { return __float2half(x); }

// Two 16-bit numbers in one register, the first in the low half.
template <class T> __device__ __forceinline__ uint32_t pack2(float low, float high);
template <> __device__ __forceinline__ uint32_t pack2<bf16>(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}
template <> __device__ __forceinline__ uint32_t pack2<fp16>(float low, float high) {
    __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}
template <class T> __device__ __forceinline__ float2 unpack2(uint32_t pair);
template <> __device__ __forceinline__ float2 unpack2<bf16>(uint32_t pair) {
    return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162 *>(&pair));
}
template <> __device__ __forceinline__ float2 unpack2<fp16>(uint32_t pair) {
    return __half22float2(*reinterpret_cast<__half2 *>(&pair));
}

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes, global -> shared, past the registers; `valid` false writes zeros instead.
__device__ __forceinline__ void cp_async16(void *shared, const void *global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most N of this thread's groups are still under way.
template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row))
                 : "memory");
}

// c (16 x 8, fp32) += a (16 x 16) b (16 x 8).
template <class T>
__device__ __forceinline__ void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1);
#define DEFINE_MMA(TYPE, NAME)                                                                 \
    template <>                                                                                \
    __device__ __forceinline__ void mma_16x8x16<TYPE>(float (&c)[4], const uint32_t (&a)[4],   \
                                                      uint32_t b0, uint32_t b1) {              \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME ".f32 "            \
                     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                   \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                          \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));          \
    }
DEFINE_MMA(bf16, "bf16")
DEFINE_MMA(fp16, "f16")
#undef DEFINE_MMA

__device__ __forceinline__ uint4 load16(const void *p) {
    return *reinterpret_cast<const uint4 *>(p);
}
__device__ __forceinline__ void store16(void *p, uint4 value) {
    *reinterpret_cast<uint4 *>(p) = value;
}
__device__ __forceinline__ float4 load_float4(const float *p) {
    return *reinterpret_cast<const float4 *>(p);
}
__device__ __forceinline__ void store_float4(float *p, float4 value) {
    *reinterpret_cast<float4 *>(p) = value;
}
__device__ __forceinline__ float2 load_float2(const float *p) {
    return *reinterpret_cast<const float2 *>(p);
}
// 2^x, two ulp; 2^-inf = 0.
__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The block's dynamic shared memory, seen as a T.
template <class T> __device__ __forceinline__ T *shared_memory() {
    extern __shared__ __align__(128) unsigned char raw[];
    return reinterpret_cast<T *>(raw);
}

// Queue a kernel; returns a cudaError_t (0 is success).
template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, int threads, size_t shared_bytes, void *stream,
           A... args) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return 0;
    if (shared_bytes > 48 * 1024) {
        cudaError_t status = cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
        if (status != cudaSuccess) return int(status);
    }
    kernel<<<grid, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(args...);
    return int(cudaGetLastError());
}

inline const char *launch_error(int code) { return cudaGetErrorString(cudaError_t(code)); }
