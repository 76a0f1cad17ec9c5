// What native.cpp and layers.cpp compute with: vectors as wide as the processor's, e^x, products.
//
// One kernel does all products, `tile`: a few rows times 2 vectors of columns, summed up in
// registers.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int W = 16, TILE = 12;    // numbers in a vector; rows of a tile: 24 of 32 registers
#elif defined(__AVX__)
constexpr int W = 8, TILE = 6;      // 12 of 16 registers
#else
constexpr int W = 4, TILE = 6;
#endif
constexpr int PANEL = 2 * W;
constexpr float LOWEST = -std::numeric_limits<float>::infinity();
typedef float Vec __attribute__((vector_size(4 * W)));
typedef float Loose __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * W)));
typedef int32_t LooseInts __attribute__((vector_size(4 * W), aligned(4), may_alias));
using Int = int64_t;
using Pair = uint32_t;              // two bfloat16 numbers, the first in the lower half

static inline Int round_up(Int n, Int to) { return (n + to - 1) / to * to; }
static inline Vec load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
static inline Ints load(const Pair* p) { return *reinterpret_cast<const LooseInts*>(p); }
static inline void store(float* p, Vec v) { *reinterpret_cast<Loose*>(p) = v; }

// e^x to a few 1e-7 of itself, x cut to -87..88: 2^n times a polynomial of the rest (Cephes, expf).
static inline Vec exp_of(Vec x) {
    x = x < -87.0f ? Vec{} - 87.0f : x;
    x = x > 88.0f ? Vec{} + 88.0f : x;
    Vec n = x * 1.44269504f + 12582912.0f - 12582912.0f;    // to the nearest whole number
    Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;      // ln 2 in two parts
    Vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return y * reinterpret_cast<Vec>((__builtin_convertvector(n, Ints) + 127) << 23);
}

// Pairs of n numbers, each the nearest bfloat16 (of two, the even one; NaN stays), 0 behind them.
static inline void to_pairs(const float* x, Int n, Pair* pairs) {
    for (Int i = 0; i < n; i += 2) {
        Pair bits[2] = {};
        std::memcpy(bits, x + i, 4 * std::min<Int>(2, n - i));
        for (Pair& one : bits)
            if ((one & 0x7fffffff) <= 0x7f800000) one += 0x7fff + (one >> 16 & 1);
        pairs[i / 2] = bits[0] >> 16 | (bits[1] & 0xffff0000);
    }
}

// sum + x times a line's numbers; of pairs, the sum of both products.
static inline Vec added(Vec sum, float x, Vec line) { return sum + x * line; }
static inline Vec added(Vec sum, Pair x, Ints line) {
#if defined(__AVX512BF16__)
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(x), (__m512bh)line);
#else
    Ints two = Ints{} + int32_t(x), upper = Ints{} + int32_t(0xffff0000);
    sum += reinterpret_cast<Vec>(two << 16) * reinterpret_cast<Vec>(line << 16);
    return sum + reinterpret_cast<Vec>(two & upper) * reinterpret_cast<Vec>(line & upper);
#endif
}

template <class Number = float>
struct Rows {                       // number i of row r lies at p[r * next + i * across]
    const Number* p;
    Int next, across = 1;
};
template <class Number = float>
struct Lines {                      // columns c.. of line i lie at p[c / PANEL * panel + i * next]
    const Number* p;
    Int next, panel;
};

// y (R, C W) = x (R, k) times the first C vectors of k lines, or y + that.
template <class Number, int R, int C>
static void tile(Rows<Number> x, const Number* lines, Int next, Int k, float* y, Int ldy,
                 bool add) {
    Vec sum[R][C] = {};
    for (Int i = 0; i < k; i++) {
        decltype(load(lines)) line[C];
        for (int c = 0; c < C; c++) line[c] = load(lines + i * next + c * W);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++)
            for (int c = 0; c < C; c++)
                sum[r][c] = added(sum[r][c], x.p[r * x.next + i * x.across], line[c]);
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) {
            float* to = y + r * ldy + c * W;
            store(to, add ? load(to) + sum[r][c] : sum[r][c]);
        }
}

template <class Number, int... R>
static auto tile_of(Int rows, bool half, std::integer_sequence<int, R...>) {
    static constexpr decltype(&tile<Number, 1, 1>) all[][TILE] = {{tile<Number, R + 1, 2>...},
                                                                  {tile<Number, R + 1, 1>...}};
    return all[half][rows - 1];
}

// y (rows, n) = x (rows, k) times lines (k, n), or y + that; n is rounded up to W.
template <class Number = float>
static inline void multiply(Rows<Number> x, Int rows, Lines<Number> lines, Int k, Int n, float* y,
                            Int ldy, bool add = false) {
    Int tiles = (rows + TILE - 1) / TILE;
    for (Int c = 0; c < n; c += PANEL, lines.p += lines.panel)
        for (Int i = 0; i < tiles; i++) {
            Int from = rows * i / tiles, to = rows * (i + 1) / tiles;
            tile_of<Number>(to - from, n - c <= W, std::make_integer_sequence<int, TILE>())(
                {x.p + from * x.next, x.next, x.across}, lines.p, lines.next, k, y + from * ldy + c,
                ldy, add);
        }
}

static inline float inverse_rms(const float* x, Int n, double eps) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Int i = 0; i < n; i++) sum += x[i] * x[i];
    return 1.0f / std::sqrt(sum / float(n) + float(eps));
}

// Aligned and uninitialised: what stands in padding is never part of a result.
struct Free { void operator()(float* p) const { std::free(p); } };
using Buffer = std::unique_ptr<float[], Free>;
static inline Buffer buffer(Int n) {
    auto* p = static_cast<float*>(std::aligned_alloc(64, round_up(4 * n, 64)));
    if (p == nullptr) throw std::bad_alloc();
    return Buffer(p);
}

// Work on every worker, in a thread each. Where no more threads are to be had, fewer do all of it.
template <class Worker, class Work>
static void in_threads(std::vector<Worker>& workers, Work work) {
    std::atomic<bool> full{false};
    auto guarded = [&](Worker& worker) {
        try { work(worker); } catch (const std::bad_alloc&) { full = true; }
    };
    std::vector<std::thread> threads;
    try {
        for (size_t i = 1; i < workers.size(); i++)
            threads.emplace_back(guarded, std::ref(workers[i]));
    } catch (const std::exception&) {}
    guarded(workers[0]);
    for (auto& thread : threads) thread.join();
    if (full) throw std::bad_alloc();
}
