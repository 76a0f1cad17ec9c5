// The vocabulary on a CPU: every CUDA thread of a block is a fiber with a stack of its own.
//
// One idea: a kernel may only rely on the order that its barriers force, so the emulator runs the
// least helpful order it can. One warp runs alone until a barrier stops it (max skew); shared
// memory starts as NaN; an asynchronous copy lands either at once or only when it is waited for.
// A missing barrier then gives a wrong number or NaN, every time.
// Warp operations make lanes meet, but only a barrier or __syncwarp puts their memory in order: a
// row that ldmatrix read may not change before one, nor may it read another lane's copy without.
//   EMULATE_COPY=late|eager    when cp_async16 lands (default late)
//   EMULATE_ORDER=up|down      which warp runs first (default up)
//   EMULATE_THREADS=n          operating-system threads; blocks are spread over them
// Not shown: speed, bank conflicts, registers, the memory model's finer points.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "fiber.h"

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

struct Copy {
    void *shared;
    const void *global;
    bool valid;
};

enum State { READY, IN_WARP, AT_BARRIER, DONE };

struct Thread {
    Fiber fiber;
    State state = READY;
    dim3 index;
    int warp = 0, lane = 0;
    std::vector<Copy> copies;      // issued, not yet landed
    std::vector<size_t> groups;    // how many copies each committed group holds
    size_t uncommitted = 0;
};

struct Seen {                      // 16 bytes of shared memory, as ldmatrix read them
    const void *from;
    unsigned char bytes[16];
};
struct Landed {                    // a copy that a lane waited for
    const void *to;
    int lane;
};

struct Warp {
    const char *word = nullptr;    // the collective that its lanes are meeting in
    int arrived = 0;
    void *slot[32];                // each lane's operands, on that lane's stack
    std::vector<Seen> seen;        // since the lanes' memory was last put in order
    std::vector<Landed> landed;    // since then, too
};

struct Options {
    bool late = true, up = true;
    int os_threads = 2;
};

struct Block {
    Fiber scheduler;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<unsigned char> stacks;
    unsigned char *shared = nullptr;
    dim3 index, size, grid;
    Options options;
    void (*body)(void *) = nullptr;
    void *body_argument = nullptr;
    std::string error;
};

inline thread_local Block *block = nullptr;
inline thread_local Thread *current = nullptr;

// Give the processor back to the scheduler until this thread may go on.
inline void yield(State state) {
    current->state = state;
    Thread *self = current;
    switch_fiber(self->fiber, block->scheduler);
    current = self;
}

// Stop the whole block with a message; never returns into the kernel.
[[noreturn]] inline void fail(const std::string &what) {
    char where[160];
    std::snprintf(where, sizeof where, " (block %u,%u,%u thread %u)", block->index.x,
                  block->index.y, block->index.z, current->index.x);
    block->error = what + where;
    for (;;) yield(DONE);
}

inline void check_aligned(const void *p, const char *word, int bytes = 16) {
    if (reinterpret_cast<uintptr_t>(p) % bytes != 0) fail(std::string("MISALIGNED ") + word);
}

// The lanes' memory is put in order; false: somebody wrote, before this, what ldmatrix had read.
inline bool order_memory(Warp &warp) {
    bool same = true;
    for (const Seen &row : warp.seen) same = same && std::memcmp(row.from, row.bytes, 16) == 0;
    warp.seen.clear(), warp.landed.clear();
    return same;
}
constexpr const char *OVERWRITTEN =
    "RACE: a row that ldmatrix read was written again with no __syncwarp between";

// All 32 lanes meet; the last to arrive computes for everyone from the operands in the slots.
template <class Compute> void collective(const char *word, void *operands, Compute compute) {
    Warp &warp = block->warps[current->warp];
    if (warp.arrived == 0) warp.word = word;
    if (warp.word != word) {
        fail(std::string("DIVERGED: lanes of one warp met in ") + warp.word + " and " + word);
    }
    warp.slot[current->lane] = operands;
    if (++warp.arrived < 32) {
        yield(IN_WARP);
        return;
    }
    warp.arrived = 0;
    compute(warp.slot);
    Thread *first = &block->threads[current->warp * 32];
    for (int lane = 0; lane < 32; ++lane) first[lane].state = READY;
}

}  // namespace emulator

#define threadIdx (emulator::current->index)
#define blockIdx (emulator::block->index)
#define blockDim (emulator::block->size)
#define gridDim (emulator::block->grid)

inline void __syncthreads() { emulator::yield(emulator::AT_BARRIER); }

#include "emulated_words.h"
#include "emulated_launch.h"
