// CUDA C++ for the host: enough of the language that g++ compiles runtime/cuda/kernels.cu and runs it on the processor.
//
// The threads of a block are fibres. Each runs until it reaches a barrier or a warp function, or ends. A warp runs
// until all its lanes wait at a barrier or have ended; then the next warp runs. The caller picks the order of lanes and
// warps: forward, reverse, or shuffled for every step, where warps also interleave. Code whose result depends on the
// order of threads between two barriers therefore gives different results.
//
// Warp functions (__syncwarp, __ballot_sync, __any_sync, __shfl_*_sync, __match_any_sync) return when all lanes in the
// mask have called the same function on the same line with the same mask. These are errors: a mask without the caller, a
// mask with a thread that has ended (CUDA is less strict here), lanes that wait for each other at different places, a
// shuffle from a lane outside the mask. On a GPU only __syncwarp and __syncthreads order memory. Code that relies on a
// ballot or a shuffle for that passes here; compute-sanitizer finds it on a GPU.
//
// Dynamic shared memory starts as garbage and has a guard behind it. __ldg checks alignment and, where the caller names
// the readable memory, bounds. Blocks run one after the other. __shared__ arrays other than `extern` ones are not
// supported.
//
// One file because fibres, warps and shared memory know each other: all are parts of one scheduler.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
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
#define __syncwarp() host::warp_sync(__LINE__)
#define __ballot_sync(mask, predicate) host::ballot(__LINE__, mask, predicate)
#define __any_sync(mask, predicate) (host::ballot(__LINE__, mask, predicate) != 0)
#define __match_any_sync(mask, value) host::match(__LINE__, mask, value)
#define __shfl_sync(mask, value, lane) host::shuffle(__LINE__, mask, value, (lane) & 31)
#define __shfl_xor_sync(mask, value, lanes) host::shuffle(__LINE__, mask, value, host::lane() ^ (lanes))
#define __shfl_up_sync(mask, value, lanes) host::shuffle(__LINE__, mask, value, host::lane() - (lanes))
#define __shfl_down_sync(mask, value, lanes) host::shuffle(__LINE__, mask, value, host::lane() + (lanes))
#define __ldg(address) host::load(__LINE__, address)

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

static inline int __popc(unsigned value) { return __builtin_popcount(value); }
static inline int __ffs(int value) { return __builtin_ffs(value); }
static inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(value); }

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

const unsigned WARP = 32;
typedef unsigned long long Word;  // any value that lanes exchange

enum Place { NOWHERE, BARRIER, SYNC, BALLOT, MATCH, SHUFFLE };

// What a fibre waits at; `mask` and what follows are of warp functions.
struct Call {
    Place place;
    int line;
    unsigned mask;
    Word value;
    unsigned source;  // lane that a shuffle reads
    size_t size;      // of the value, in bytes
};

// A fibre runs `body` once in every block, and waits in between: made once, it is cheap to use again.
struct Fibre {
    jmp_buf resume;
    ucontext_t context;  // only to start it
    bool started = false;
    bool done = true;
    Call call = {};
    Word result = 0;  // of the latest warp function
};

struct Range {
    uintptr_t begin, end;
};

static std::vector<Fibre*> fibres;
static Fibre* running;
static jmp_buf scheduler;
static ucontext_t scheduler_context;
static void (*body)(void*);
static void* body_data;
static const char* fault;  // of the fibre that ran last
static const Range* readable;
static unsigned readable_count;  // 0: no bounds are checked

static const char* problem(int line, const char* text) {
    static char message[200];
    snprintf(message, sizeof message, "line %d: %s", line, text);
    return message;
}

// setjmp and longjmp switch without the system call of swapcontext.
static void __attribute__((noinline)) yield() {
    if (_setjmp(running->resume) == 0) _longjmp(scheduler, 1);
}

static void __attribute__((noinline)) barrier(int line) {
    running->call = {BARRIER, line};
    yield();
}

static Word __attribute__((noinline)) wait_for_warp(const Call& call) {
    running->call = call;
    yield();
    return running->result;
}

static unsigned lane() {
    return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % WARP;
}

static void warp_sync(int line) { wait_for_warp({SYNC, line, ~0u}); }

static unsigned ballot(int line, unsigned mask, bool predicate) {
    return (unsigned)wait_for_warp({BALLOT, line, mask, predicate});
}

template <typename T>
static Call exchange(Place place, int line, unsigned mask, T value) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "what CUDA exchanges between lanes");
    Call call = {place, line, mask, 0, 0, sizeof(T)};
    memcpy(&call.value, &value, sizeof(T));
    return call;
}

template <typename T>
static unsigned match(int line, unsigned mask, T value) {
    return (unsigned)wait_for_warp(exchange(MATCH, line, mask, value));
}

// A source beyond the warp, as of __shfl_up_sync in lane 0, gives the lane's own value.
template <typename T>
static T shuffle(int line, unsigned mask, T value, unsigned source) {
    Call call = exchange(SHUFFLE, line, mask, value);
    call.source = source < WARP ? source : lane();
    const Word word = wait_for_warp(call);
    T result;
    memcpy(&result, &word, sizeof(T));
    return result;
}

static bool may_read(uintptr_t begin, uintptr_t end) {
    return readable_count == 0 || std::any_of(readable, readable + readable_count, [=](const Range& range) {
               return range.begin <= begin && end <= range.end;
           });
}

template <typename T>
static T load(int line, const T* address) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
    if (begin % sizeof(T)) {
        fault = problem(line, "a load from a misaligned address");
        yield();
    }
    if (!may_read(begin, begin + sizeof(T))) {
        fault = problem(line, "a load from outside the readable memory");
        yield();
    }
    return *address;
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

// One warp of the block: its fibres, and how they take turns.
struct Warp {
    unsigned first;  // thread
    std::vector<unsigned> turns;  // lanes

    Fibre& at(unsigned lane) const { return *fibres[first + lane]; }
    bool holds(unsigned lane) const { return lane < turns.size() && !at(lane).done; }

    // Every lane that can, until it waits or ends; what went wrong, or null.
    const char* run() const {
        for (unsigned lane : turns) {
            if (at(lane).done || at(lane).call.place != NOWHERE) continue;
            const unsigned i = first + lane;
            threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
            run_until_yield(&at(lane));
            if (fault) return fault;
        }
        return nullptr;
    }

    // Let the lanes go on whose warp function is complete; what went wrong, or null.
    // halted: all lanes have ended or wait at a barrier.
    const char* answer(bool& halted) const {
        bool answered = false;
        int line = 0;  // at which a lane waits for others
        for (unsigned lane = 0; lane < turns.size(); lane++) {
            const Call call = at(lane).call;
            if (at(lane).done || call.place <= BARRIER) continue;
            if (!(call.mask >> lane & 1)) return problem(call.line, "a lane is not in the mask that it gives");
            bool complete = true;
            for (unsigned other = 0; other < WARP; other++) {
                if (!(call.mask >> other & 1)) continue;
                if (!holds(other)) return problem(call.line, "the mask has a thread that has ended or does not exist");
                const Call& its = at(other).call;
                complete &= its.place == call.place && its.line == call.line && its.mask == call.mask;
            }
            if (complete) {
                if (const char* wrong = complete_call(call)) return wrong;
                answered = true;
            } else
                line = call.line;
        }
        halted = !answered && line == 0;
        if (!answered && line != 0)
            return problem(line, "the lanes of a warp part ways: not all in the mask reach this with the same mask");
        return nullptr;
    }

    const char* complete_call(const Call& call) const {
        for (unsigned lane = 0; lane < turns.size(); lane++) {
            if (!(call.mask >> lane & 1)) continue;
            const Call& mine = at(lane).call;
            if (mine.place == SHUFFLE) {
                if (!(mine.mask >> mine.source & 1))
                    return problem(mine.line, "a shuffle from a lane outside the mask");
                at(lane).result = at(mine.source).call.value;
            } else {
                Word lanes = 0;
                for (unsigned other = 0; other < turns.size(); other++)
                    if (mine.mask >> other & 1 && (mine.place == MATCH ? at(other).call.value == mine.value
                                                                       : at(other).call.value != 0))
                        lanes |= Word(1) << other;
                at(lane).result = lanes;
            }
        }
        for (unsigned lane = 0; lane < turns.size(); lane++)
            if (call.mask >> lane & 1) at(lane).call.place = NOWHERE;
        return nullptr;
    }
};

// All warps, until every thread waits at a barrier or has ended; what went wrong, or null.
static const char* run_to_barrier(std::vector<Warp>& warps, unsigned order, std::mt19937& random) {
    std::vector<Warp*> left;
    for (Warp& warp : warps) left.push_back(&warp);
    while (!left.empty()) {
        const size_t turn = order == 0 ? 0 : order == 1 ? left.size() - 1 : random() % left.size();
        Warp& warp = *left[turn];
        if (order > 1) std::shuffle(warp.turns.begin(), warp.turns.end(), random);
        bool halted = false;
        if (const char* wrong = warp.run()) return wrong;
        if (const char* wrong = warp.answer(halted)) return wrong;
        if (halted) left.erase(left.begin() + turn);
    }
    return nullptr;
}

static const char* run_threads(unsigned order, std::mt19937& random) {
    const unsigned count = blockDim.x * blockDim.y * blockDim.z;
    while (fibres.size() < count) fibres.push_back(new Fibre);
    for (unsigned i = 0; i < count; i++) {
        fibres[i]->done = false;
        fibres[i]->call = {};
    }
    std::vector<Warp> warps;
    for (unsigned first = 0; first < count; first += WARP) {
        warps.push_back({first, {}});
        for (unsigned lane = 0; lane < min(WARP, count - first); lane++) warps.back().turns.push_back(lane);
        if (order == 1) std::reverse(warps.back().turns.begin(), warps.back().turns.end());
    }
    for (;;) {
        if (const char* wrong = run_to_barrier(warps, order, random)) return wrong;
        const auto reached = [](const Fibre* fibre) { return fibre->done ? 0 : fibre->call.line; };
        const int line = reached(fibres[0]);
        for (unsigned i = 0; i < count; i++)
            if (reached(fibres[i]) != line)
                return "the threads of a block part ways: not all reach the same __syncthreads";
        if (line == 0) return nullptr;
        for (unsigned i = 0; i < count; i++) fibres[i]->call.place = NOWHERE;
    }
}

// All threads of one block; what went wrong, or null. order: 0 forward, 1 reverse, else shuffled.
static const char* run_block(unsigned order, std::mt19937& random) {
    fault = nullptr;
    const char* wrong = run_threads(order, random);
    if (wrong) fibres.clear();  // those that wait are lost
    return wrong;
}

template <typename... P, size_t... I>
static void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<P*>(arguments[I])...);
}

// As cuLaunchKernel: arguments are addresses of the parameters' values. What went wrong, or null.
template <typename... P>
static const char* launch(
    void (*kernel)(P...), const unsigned* grid, const unsigned* block, size_t shared_bytes, void** arguments,
    unsigned order, const Range* ranges, unsigned range_count
) {
    if (shared_bytes > SHARED_BYTES) return "more shared memory than any GPU has";
    const std::pair<void (*)(P...), void**> job(kernel, arguments);
    body = [](void* data) {
        const auto* job = static_cast<std::pair<void (*)(P...), void**>*>(data);
        call(job->first, job->second, std::index_sequence_for<P...>());
    };
    body_data = const_cast<void*>(static_cast<const void*>(&job));
    readable = ranges;
    readable_count = range_count;
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
        const unsigned* grid, const unsigned* block, size_t shared_bytes, void** arguments, unsigned order,          \
        const host::Range* ranges, unsigned range_count                                                              \
    ) {                                                                                                              \
        return host::launch(name, grid, block, shared_bytes, arguments, order, ranges, range_count);                 \
    }                                                                                                                \
    extern "C" const char* types_##name() { return host::type_codes(name); }
