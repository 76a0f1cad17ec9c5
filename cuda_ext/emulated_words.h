// The words of the vocabulary in plain C++ (included by emulator.h).
#pragma once

struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uint4 { uint32_t x, y, z, w; };
struct bf16 { uint16_t bits; };
struct fp16 { uint16_t bits; };

inline uint32_t float_bits(float x) { uint32_t b; std::memcpy(&b, &x, 4); return b; }
inline float bits_float(uint32_t b) { float x; std::memcpy(&x, &b, 4); return x; }

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return bits_float(uint32_t(x.bits) << 16); }
inline float to_float(fp16 x) {
    uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
    if (rest >= 0x7c00) return bits_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    // Exponent re-biased by a multiplication with 2^112, which is exact for subnormals too.
    return bits_float(sign | float_bits(bits_float(rest << 13) * 0x1p112f));
}

template <class T> T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
template <> inline bf16 from_float<bf16>(float x) {        // round to nearest, ties to even
    uint32_t b = float_bits(x);
    if (x != x) return {uint16_t(0x7fff)};
    return {uint16_t((b + 0x7fff + (b >> 16 & 1)) >> 16)};
}
template <> inline fp16 from_float<fp16>(float x) {
    uint32_t b = float_bits(x), sign = b >> 16 & 0x8000, rest = b & 0x7fffffff;
    if (rest > 0x7f800000) return {uint16_t(sign | 0x7fff)};
    if (rest >= 0x477ff000) return {uint16_t(sign | 0x7c00)};           // rounds to infinity
    if (rest < 0x38800000) {                                            // subnormal in fp16
        float shifted = bits_float(rest) + 0.5f;                        // ulp of 0.5 is 2^-24
        return {uint16_t(sign | (float_bits(shifted) - 0x3f000000))};
    }
    uint32_t rebased = rest - 0x38000000;
    return {uint16_t(sign | (rebased + 0xfff + (rebased >> 13 & 1)) >> 13)};
}

template <class T> uint32_t pack2(float low, float high) {
    return from_float<T>(low).bits | uint32_t(from_float<T>(high).bits) << 16;
}
template <class T> float2 unpack2(uint32_t pair) {
    return {to_float(T{uint16_t(pair)}), to_float(T{uint16_t(pair >> 16)})};
}

inline uint4 load16(const void *p) {
    emulator::check_aligned(p, "load16");
    uint4 value;
    std::memcpy(&value, p, 16);
    return value;
}
inline void store16(void *p, uint4 value) {
    emulator::check_aligned(p, "store16");
    std::memcpy(p, &value, 16);
}
inline float4 load_float4(const float *p) {
    emulator::check_aligned(p, "load_float4");
    return {p[0], p[1], p[2], p[3]};
}
inline void store_float4(float *p, float4 value) {
    emulator::check_aligned(p, "store_float4");
    p[0] = value.x, p[1] = value.y, p[2] = value.z, p[3] = value.w;
}
inline float2 load_float2(const float *p) {
    emulator::check_aligned(p, "load_float2", 8);
    return {p[0], p[1]};
}
inline float fast_exp2(float x) { return exp2f(x); }
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
template <class T> T *shared_memory() { return reinterpret_cast<T *>(emulator::block->shared); }

namespace emulator {
inline void land(const Copy &copy) {
    if (copy.valid) std::memcpy(copy.shared, copy.global, 16);
    else std::memset(copy.shared, 0, 16);
}
}  // namespace emulator

inline void cp_async16(void *shared, const void *global, bool valid) {
    emulator::check_aligned(shared, "cp_async16 destination");
    emulator::check_aligned(global, "cp_async16 source");
    emulator::Copy copy{shared, global, valid};
    if (!emulator::block->options.late) emulator::land(copy);
    emulator::current->copies.push_back(copy);
    ++emulator::current->uncommitted;
}
inline void cp_async_commit() {
    emulator::current->groups.push_back(emulator::current->uncommitted);
    emulator::current->uncommitted = 0;
}
template <int N> void cp_async_wait() {
    emulator::Thread &self = *emulator::current;
    while (self.groups.size() > size_t(N)) {
        size_t count = self.groups.front();
        for (size_t i = 0; i < count; ++i) {
            if (emulator::block->options.late) land(self.copies[i]);
            emulator::block->warps[self.warp].landed.push_back({self.copies[i].shared, self.lane});
        }
        self.copies.erase(self.copies.begin(), self.copies.begin() + count);
        self.groups.erase(self.groups.begin());
    }
}

// Lane l reads the value of lane source(l).
template <class T, class Source> T shuffle(const char *word, T value, Source source) {
    struct { T in, out; } mine{value, value};
    using Operands = decltype(mine);
    emulator::collective(word, &mine, [&](void **slot) {
        for (int lane = 0; lane < 32; ++lane) {
            static_cast<Operands *>(slot[lane])->out =
                static_cast<Operands *>(slot[source(lane)])->in;
        }
    });
    return mine.out;
}
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
    return shuffle("shfl_xor", value, [mask](int lane) { return lane ^ mask; });
}
template <class T> T __shfl_sync(unsigned, T value, int source) {
    return shuffle("shfl", value, [source](int) { return source; });
}
inline unsigned __ballot_sync(unsigned, int predicate) {
    struct Vote { int in; unsigned out; } mine{predicate, 0};
    emulator::collective("ballot", &mine, [](void **slot) {
        unsigned bits = 0;
        for (int i = 0; i < 32; ++i) bits |= unsigned(static_cast<Vote *>(slot[i])->in != 0) << i;
        for (int i = 0; i < 32; ++i) static_cast<Vote *>(slot[i])->out = bits;
    });
    return mine.out;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline void __syncwarp() {
    emulator::collective("syncwarp", nullptr, [](void **) {
        using namespace emulator;
        if (!order_memory(block->warps[current->warp])) fail(OVERWRITTEN);
    });
}

// Matrix m's row r is at the address that lane 8m + r gives; lane l receives row l / 4,
// columns 2 (l % 4) and the next one, of each matrix (transposed: rows and columns exchanged).
// A lane reads its row when it arrives, not when the last one does: a row that another lane still
// has to write, or is still copying, is then read too early, as the memory model allows.
template <bool TRANSPOSED> void load_matrices(uint32_t (&r)[4], const void *row) {
    struct Load { uint16_t row[8]; uint32_t *out; } mine;
    emulator::check_aligned(row, "ldmatrix");
    std::memcpy(mine.row, row, 16);
    mine.out = r;
    emulator::Warp &warp = emulator::block->warps[emulator::current->warp];
    for (const emulator::Landed &copy : warp.landed)
        if (copy.to == row && copy.lane != emulator::current->lane)
            emulator::fail("RACE: ldmatrix reads another lane's copy with no __syncwarp between");
    warp.seen.emplace_back().from = row;
    std::memcpy(warp.seen.back().bytes, row, 16);
    emulator::collective(TRANSPOSED ? "ldmatrix.trans" : "ldmatrix", &mine, [](void **slot) {
        for (int m = 0; m < 4; ++m)
            for (int lane = 0; lane < 32; ++lane) {
                int a = lane / 4, b = lane % 4 * 2;
                auto at = [&](int i, int j) {
                    return static_cast<Load *>(slot[8 * m + i])->row[j];
                };
                uint32_t low = TRANSPOSED ? at(b, a) : at(a, b);
                uint32_t high = TRANSPOSED ? at(b + 1, a) : at(a, b + 1);
                static_cast<Load *>(slot[lane])->out[m] = low | high << 16;
            }
    });
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void *row) { load_matrices<false>(r, row); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) { load_matrices<true>(r, row); }

// Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16". g = lane / 4, t = lane % 4.
template <class T>
void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    struct Mma { float *c; const uint32_t *a; uint32_t b[2]; } mine{c, a, {b0, b1}};
    emulator::collective("mma", &mine, [](void **slot) {
        float A[16][16], B[16][8], C[16][8];
        for (int lane = 0; lane < 32; ++lane) {
            const Mma &m = *static_cast<Mma *>(slot[lane]);
            int g = lane / 4, t = lane % 4 * 2;
            for (int i = 0; i < 4; ++i) {              // a0 (g, t) a1 (g+8, t) a2 (g, t+8) a3 both
                float2 pair = unpack2<T>(m.a[i]);
                A[g + i % 2 * 8][t + i / 2 * 8] = pair.x;
                A[g + i % 2 * 8][t + i / 2 * 8 + 1] = pair.y;
                C[g + i / 2 * 8][t + i % 2] = m.c[i];
            }
            for (int i = 0; i < 2; ++i) {
                float2 pair = unpack2<T>(m.b[i]);
                B[t + 8 * i][g] = pair.x;
                B[t + 8 * i + 1][g] = pair.y;
            }
        }
        for (int i = 0; i < 16; ++i)
            for (int k = 0; k < 16; ++k)
                for (int j = 0; j < 8; ++j) C[i][j] += A[i][k] * B[k][j];
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 4; ++i)
                static_cast<Mma *>(slot[lane])->c[i] =
                    C[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    });
}
