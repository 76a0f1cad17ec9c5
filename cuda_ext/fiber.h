// A fiber: a stack, and a switch from one stack to another that saves what a call must preserve.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__) && !defined(EMULATE_UCONTEXT)
struct Fiber {
    void *stack_pointer = nullptr;
};

extern "C" void switch_stack(void **save, void *load);
// System V: rbx, rbp, r12-r15 survive a call; everything else the compiler has saved already.
asm(R"(
.text
.weak switch_stack
.type switch_stack, @function
switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size switch_stack, .-switch_stack
)");

inline void switch_fiber(Fiber &from, Fiber &to) {
    switch_stack(&from.stack_pointer, to.stack_pointer);
}

// The first switch to this fiber calls entry(), which must never return.
inline void start_fiber(Fiber &fiber, unsigned char *stack, size_t bytes, void (*entry)()) {
    uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(63);
    void **words = reinterpret_cast<void **>(top);
    *--words = nullptr;                               // keeps entry's stack 16-byte aligned
    *--words = reinterpret_cast<void *>(entry);       // where `ret` goes
    for (int i = 0; i < 6; ++i) *--words = nullptr;   // the six saved registers
    fiber.stack_pointer = words;
}
#else
#include <ucontext.h>
struct Fiber {
    ucontext_t context;
};

inline void switch_fiber(Fiber &from, Fiber &to) { swapcontext(&from.context, &to.context); }

inline void start_fiber(Fiber &fiber, unsigned char *stack, size_t bytes, void (*entry)()) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack;
    fiber.context.uc_stack.ss_size = bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
}
#endif
