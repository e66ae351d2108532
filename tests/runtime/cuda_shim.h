// CUDA C++ for the host: enough of the language that g++ compiles runtime/kernels.cu and runs it on the processor.
//
// The threads of a block are fibres that take turns: each runs until its next __syncthreads or its end. The order of
// turns is the caller's (forward, reverse, or shuffled anew for every turn), so that code whose result depends on the
// order in which threads run between two barriers gives different results. All dynamic shared memory starts as garbage,
// and has a guard behind it. Blocks run one after the other. __shared__ arrays other than `extern` ones are not
// supported, nor is anything between the threads of a warp.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__
#define __launch_bounds__(...)
#define __syncthreads() host::barrier(__LINE__)

using std::max;
using std::min;

struct uint3 {
    unsigned x, y, z;
};
typedef uint3 dim3;
struct alignas(16) float4 {
    float x, y, z, w;
};

// Dynamic shared memory, under the one name that kernels may declare it by.
const size_t SHARED_BYTES = 256 << 10;  // more than any GPU has
const size_t GUARD_BYTES = 256;
float4 shared_memory[(SHARED_BYTES + GUARD_BYTES) / sizeof(float4)];

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }

template <typename To, typename From>
static inline To bit_cast(From value) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}
static inline unsigned __float_as_uint(float value) { return bit_cast<unsigned>(value); }
static inline int __float2int_rn(float value) { return static_cast<int>(rintf(value)); }
static inline float __uint_as_float(unsigned value) { return bit_cast<float>(value); }

static inline unsigned atomicAdd(unsigned* address, unsigned value) {
    const unsigned before = *address;
    *address += value;
    return before;
}
static inline unsigned atomicOr(unsigned* address, unsigned value) {
    const unsigned before = *address;
    *address |= value;
    return before;
}

namespace host {

const size_t STACK_BYTES = 64 << 10;
const unsigned char GARBAGE = 0xA5;

// A fibre runs `body` once in every block, and waits in between: made once, it is cheap to use again.
struct Fibre {
    jmp_buf resume;
    ucontext_t context;  // only to start it
    bool started = false;
    bool done = true;
    int line = 0;  // of the barrier that it waits at
};

static std::vector<Fibre*> fibres;
static Fibre* running;
static jmp_buf scheduler;
static ucontext_t scheduler_context;
static void (*body)(void*);
static void* body_data;

// setjmp and longjmp switch without the system call of swapcontext.
static void __attribute__((noinline)) yield() {
    if (_setjmp(running->resume) == 0) _longjmp(scheduler, 1);
}

static void __attribute__((noinline)) barrier(int line) {
    running->line = line;
    yield();
}

static void fibre_main() {
    for (;;) {
        body(body_data);
        running->done = true;
        yield();
    }
}

static void __attribute__((noinline)) run_until_yield(Fibre* fibre) {
    running = fibre;
    if (_setjmp(scheduler) != 0) return;
    if (fibre->started) _longjmp(fibre->resume, 1);
    fibre->started = true;
    getcontext(&fibre->context);
    fibre->context.uc_stack.ss_sp = malloc(STACK_BYTES);
    fibre->context.uc_stack.ss_size = STACK_BYTES;
    fibre->context.uc_link = nullptr;
    makecontext(&fibre->context, fibre_main, 0);
    setcontext(&fibre->context);
}

// All threads of one block, from barrier to barrier; what went wrong, or null.
// order: 0 forward, 1 reverse, else shuffled.
static const char* run_block(unsigned order, std::mt19937& random) {
    const unsigned count = blockDim.x * blockDim.y * blockDim.z;
    while (fibres.size() < count) fibres.push_back(new Fibre);
    std::vector<unsigned> turns(count);
    for (unsigned i = 0; i < count; i++) {
        turns[i] = order == 1 ? count - 1 - i : i;
        fibres[i]->done = false;
    }
    for (unsigned finished = 0; finished < count;) {
        if (order > 1) std::shuffle(turns.begin(), turns.end(), random);
        int line = -1;
        for (unsigned i : turns) {
            threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
            run_until_yield(fibres[i]);
            const int reached = fibres[i]->done ? 0 : fibres[i]->line;
            if (line >= 0 && reached != line) {
                fibres.clear();  // those that wait are lost
                return "the threads of a block part ways: not all reach the same __syncthreads";
            }
            line = reached;
            finished += fibres[i]->done;
        }
    }
    return nullptr;
}

template <typename... P, size_t... I>
static void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<P*>(arguments[I])...);
}

// As cuLaunchKernel: arguments are addresses of the parameters' values. What went wrong, or null.
template <typename... P>
static const char* launch(
    void (*kernel)(P...), const unsigned* grid, const unsigned* block, size_t shared_bytes, void** arguments,
    unsigned order
) {
    if (shared_bytes > SHARED_BYTES) return "more shared memory than any GPU has";
    const std::pair<void (*)(P...), void**> job(kernel, arguments);
    body = [](void* data) {
        const auto* job = static_cast<std::pair<void (*)(P...), void**>*>(data);
        call(job->first, job->second, std::index_sequence_for<P...>());
    };
    body_data = const_cast<void*>(static_cast<const void*>(&job));
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    std::mt19937 random(order);
    const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
    for (unsigned turn = 0; turn < blocks; turn++) {
        const unsigned i = order == 1 ? blocks - 1 - turn : turn;
        blockIdx = {i % gridDim.x, i / gridDim.x % gridDim.y, i / (gridDim.x * gridDim.y)};
        memset(shared_memory, GARBAGE, shared_bytes + GUARD_BYTES);
        if (const char* problem = run_block(order, random)) return problem;
        const auto* guard = reinterpret_cast<const unsigned char*>(shared_memory) + shared_bytes;
        if (std::any_of(guard, guard + GUARD_BYTES, [](unsigned char byte) { return byte != GARBAGE; }))
            return "a write behind the shared memory";
    }
    return nullptr;
}

// The NumPy type of a parameter: kind and size in bytes.
template <typename T>
static const char* type_code() {
    if (std::is_pointer<T>::value) return "u8 ";
    if (std::is_floating_point<T>::value) return sizeof(T) == 4 ? "f4 " : "f8 ";
    if (sizeof(T) == 4) return std::is_signed<T>::value ? "i4 " : "u4 ";
    return sizeof(T) == 8 ? (std::is_signed<T>::value ? "i8 " : "u8 ") : "? ";
}

template <typename... P>
static const char* type_codes(void (*)(P...)) {
    static char codes[4 * sizeof...(P) + 1];
    codes[0] = 0;
    (void)std::initializer_list<int>{(strcat(codes, type_code<P>()), 0)...};
    return codes;
}

}  // namespace host

// For HostCuda.module: the two functions by which ctypes reaches a kernel.
#define SSD_EDGE_KERNEL(name)                                                                                        \
    extern "C" const char* launch_##name(                                                                            \
        const unsigned* grid, const unsigned* block, size_t shared_bytes, void** arguments, unsigned order           \
    ) {                                                                                                              \
        return host::launch(name, grid, block, shared_bytes, arguments, order);                                      \
    }                                                                                                                \
    extern "C" const char* types_##name() { return host::type_codes(name); }
