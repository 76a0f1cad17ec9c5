// Running a grid on the CPU: the scheduler of one block, and the spread of blocks over threads.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <tuple>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(address, size)
#endif

namespace emulator {

constexpr size_t STACK_BYTES = 128 * 1024;
constexpr size_t MAX_SHARED_BYTES = 227 * 1024;     // what one block may have on sm_90
constexpr int FAILED = 100000;                      // outside the range of cudaError_t
inline std::string last_error;

inline void enter() {
    block->body(block->body_argument);
    if (!current->copies.empty()) fail("UNAWAITED: the kernel ended with copies under way");
    for (;;) yield(DONE);
}

// Run one warp alone, until none of its lanes can go on.
inline void run_warp(int warp) {
    Thread *lanes = &block->threads[warp * 32];
    for (bool ran = true; ran;) {
        ran = false;
        for (int lane = 0; lane < 32 && block->error.empty(); ++lane) {
            if (lanes[lane].state != READY) continue;
            ran = true;
            current = &lanes[lane];
            switch_fiber(block->scheduler, current->fiber);
        }
    }
}

// From barrier to barrier, until every thread has returned.
inline void run_block() {
    // Frames that the last block left behind must not count as live to AddressSanitizer.
    ASAN_UNPOISON_MEMORY_REGION(block->stacks.data(), block->stacks.size());
    for (int i = 0; i < int(block->threads.size()); ++i) {
        Thread &thread = block->threads[i];
        thread.state = READY;
        thread.index = dim3(i, 0, 0);
        thread.warp = i / 32, thread.lane = i % 32;
        thread.copies.clear(), thread.groups.clear(), thread.uncommitted = 0;
        start_fiber(thread.fiber, &block->stacks[i * STACK_BYTES], STACK_BYTES, enter);
    }
    for (auto &warp : block->warps) warp.arrived = 0, warp.seen.clear(), warp.landed.clear();
    int n_warps = int(block->warps.size()), n_threads = int(block->threads.size());
    for (;;) {
        for (int w = 0; w < n_warps; ++w) run_warp(block->options.up ? w : n_warps - 1 - w);
        if (!block->error.empty()) return;
        int done = 0, waiting = 0;
        for (auto &thread : block->threads) {
            done += thread.state == DONE;
            waiting += thread.state == AT_BARRIER;
        }
        if (done == n_threads) return;
        if (waiting != n_threads) {
            block->error = "DEADLOCK: " + std::to_string(waiting) + " threads at a barrier, " +
                           std::to_string(done) + " returned, " +
                           std::to_string(n_threads - waiting - done) + " inside a warp operation";
            return;
        }
        for (auto &thread : block->threads) thread.state = READY;
        for (auto &warp : block->warps)
            if (!order_memory(warp)) block->error = OVERWRITTEN;
    }
}

inline Options read_options() {
    Options options;
    const char *copy = std::getenv("EMULATE_COPY"), *order = std::getenv("EMULATE_ORDER");
    const char *threads = std::getenv("EMULATE_THREADS");
    options.late = copy == nullptr || std::strcmp(copy, "eager") != 0;
    options.up = order == nullptr || std::strcmp(order, "down") != 0;
    options.os_threads = threads ? std::atoi(threads) : int(std::thread::hardware_concurrency());
    return options;
}

// One operating-system thread: take blocks off the counter until none is left.
inline void work(std::atomic<int64_t> &next, int64_t count, dim3 grid, int n_threads,
                 size_t shared_bytes, Options options, void (*body)(void *), void *argument,
                 std::string &error, std::mutex &mutex) {
    static thread_local Block reusable;
    block = &reusable;
    block->threads.resize(n_threads);
    block->warps.resize(n_threads / 32);
    if (block->stacks.size() < n_threads * STACK_BYTES)
        block->stacks.resize(n_threads * STACK_BYTES);
    block->size = dim3(n_threads), block->grid = grid, block->options = options;
    block->body = body, block->body_argument = argument;
    // Exactly as many bytes as asked for: AddressSanitizer then sees an overrun.
    std::unique_ptr<unsigned char, void (*)(void *)> shared(
        static_cast<unsigned char *>(aligned_alloc(128, (shared_bytes + 127) / 128 * 128 + 128)),
        std::free);
    block->shared = shared.get();
    for (int64_t i; (i = next++) < count;) {
        block->error.clear();
        std::memset(block->shared, 0xFF, shared_bytes + 128);            // NaN in every format
        block->index = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
        run_block();
        for (int guard = 0; guard < 128 && block->error.empty(); ++guard) {
            if (block->shared[shared_bytes + guard] != 0xFF)
                block->error = "OVERRUN: a write past the end of shared memory";
        }
        if (block->error.empty()) continue;
        std::lock_guard<std::mutex> lock(mutex);
        if (error.empty()) error = block->error;
        next = count;
    }
}

}  // namespace emulator

template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, int threads, size_t shared_bytes, void *, A... args) {
    using namespace emulator;
    int64_t count = int64_t(grid.x) * grid.y * grid.z;
    if (count == 0) return 0;
    last_error.clear();
    if (threads % 32 != 0 || threads > 1024) last_error = "block size must be a multiple of 32";
    if (shared_bytes > MAX_SHARED_BYTES) last_error = "more shared memory than a block may have";
    if (!last_error.empty()) return FAILED;
    auto bound = std::make_pair(kernel, std::tuple<P...>(args...));
    void (*body)(void *) = [](void *p) {
        auto *call = static_cast<decltype(bound) *>(p);
        std::apply(call->first, call->second);
    };
    Options options = read_options();
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    auto worker = [&] {
        work(next, count, grid, threads, shared_bytes, options, body, &bound, last_error, mutex);
    };
    std::vector<std::thread> helpers;
    for (int i = 1; i < options.os_threads && i < count; ++i) helpers.emplace_back(worker);
    worker();
    for (auto &helper : helpers) helper.join();
    return last_error.empty() ? 0 : FAILED;
}

inline const char *launch_error(int) { return emulator::last_error.c_str(); }
