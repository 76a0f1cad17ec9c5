// Who does the work: counts launches, barriers, and which thread reads which key; included before
// the student's file. AddressSanitizer calls a function before each access (emulated.py, MODE); those
// below count it and hand it on.
#pragma once
#include <dlfcn.h>

#include <algorithm>

#include "vocabulary.h"

#define UNCOUNTED __attribute__((no_sanitize("address")))

namespace grader {

constexpr int THREADS_MAX = 1024;

struct Counts {
    int32_t launches = 0;         // of kernels
    int32_t host = 0;             // reads of scores and writes of weights outside any kernel
    int32_t foreign = 0;          // reads of a key by a thread that does not own it
    int32_t strayed = 0;          // reads of a row by a block that has begun another
    int32_t threads = 0;          // of a block, at most
    int32_t barriers = 0;         // of the thread of a block that met fewest; -1: no block ran
    int32_t shared_reads = 0;     // of the thread of a block that read shared memory most
    int32_t busy = 0;             // threads of a block that read a key, in the block with most
};
inline Counts counts;

// What is being run; plain pointers, because an access of a std::vector would be counted as well.
inline const char *scores_begin, *scores_end, *weights_begin, *weights_end;
inline int64_t n_keys, block_row, block_number = -1;
inline int32_t barriers_of[THREADS_MAX], shared_of[THREADS_MAX], keys_of[THREADS_MAX];
inline size_t shared_bytes;
inline bool busy_counting = false;

UNCOUNTED inline void close_block() {            // one block after another: EMULATE_THREADS=1
    if (block_number < 0) return;
    int32_t fewest = INT32_MAX, most = 0, busy = 0;
    for (int t = 0; t < counts.threads && t < THREADS_MAX; ++t) {
        if (barriers_of[t] < fewest) fewest = barriers_of[t];
        if (shared_of[t] > most) most = shared_of[t];
        busy += keys_of[t] > 0;
        barriers_of[t] = shared_of[t] = keys_of[t] = 0;
    }
    if (counts.barriers < 0 || fewest < counts.barriers) counts.barriers = fewest;
    if (most > counts.shared_reads) counts.shared_reads = most;
    if (busy > counts.busy) counts.busy = busy;
    block_number = block_row = -1;
}

// Is a CUDA thread running? Then its number; the counters are those of its block.
UNCOUNTED inline int running() {
    if (emulator::current == nullptr || emulator::current->state != emulator::READY) return -1;
    emulator::Block *b = emulator::block;
    int64_t number = b->index.x + int64_t(b->grid.x) * (b->index.y + int64_t(b->grid.y) * b->index.z);
    if (number != block_number) close_block(), block_number = number, block_row = -1;
    if (int(b->size.x) > counts.threads) counts.threads = int(b->size.x);
    return int(emulator::current->index.x);
}

UNCOUNTED inline void count_barrier() {
    int t = running();
    if (t >= 0) ++barriers_of[t];
}

UNCOUNTED inline void begin(const float *scores, const float *weights, size_t count, int keys) {
    counts = Counts(), counts.barriers = -1, block_number = block_row = -1, n_keys = keys;
    scores_begin = reinterpret_cast<const char *>(scores), scores_end = scores_begin + 4 * count;
    weights_begin = reinterpret_cast<const char *>(weights), weights_end = weights_begin + 4 * count;
}

UNCOUNTED inline void count_access(const void *address, size_t size, bool writes) {
    if (scores_begin == nullptr || busy_counting) return;
    busy_counting = true;
    const char *p = static_cast<const char *>(address);
    bool key = p >= scores_begin && p < scores_end, weight = p >= weights_begin && p < weights_end;
    int t = key || weight || emulator::current ? running() : -1;
    if (t < 0) {
        counts.host += (key && !writes) || (weight && writes);
    } else if (key && !writes) {
        for (size_t at = 0; at < size; at += 4) {
            int64_t number = (p + at - scores_begin) / 4, row = number / n_keys;
            counts.foreign += number % n_keys % counts.threads != t;
            if (block_row < 0) block_row = row;
            counts.strayed += row != block_row;
            ++keys_of[t];
        }
    } else if (!writes && emulator::block->shared != nullptr) {
        const char *shared = reinterpret_cast<const char *>(emulator::block->shared);
        shared_of[t] += p >= shared && p < shared + shared_bytes;
    }
    busy_counting = false;
}

template <class... P, class... A>
int launched(void (*kernel)(P...), dim3 grid, int threads, size_t bytes, void *stream, A... args) {
    ++counts.launches, shared_bytes = bytes;
    return launch(kernel, grid, threads, bytes, stream, args...);
}

template <class Function> UNCOUNTED Function *next(const char *name) {
    return reinterpret_cast<Function *>(dlsym(RTLD_NEXT, name));
}

}  // namespace grader

#define COUNTED(kind, size)                                                                       \
    extern "C" UNCOUNTED void __asan_##kind##size##_noabort(void *p) {                            \
        static auto *on = grader::next<void(void *)>("__asan_" #kind #size "_noabort");           \
        grader::count_access(p, size, #kind[0] == 's');                                           \
        on(p);                                                                                    \
    }
COUNTED(load, 1) COUNTED(load, 2) COUNTED(load, 4) COUNTED(load, 8) COUNTED(load, 16)
COUNTED(store, 1) COUNTED(store, 2) COUNTED(store, 4) COUNTED(store, 8) COUNTED(store, 16)

#define launch(...) grader::launched(__VA_ARGS__)
#define __syncthreads() (grader::count_barrier(), __syncthreads())
