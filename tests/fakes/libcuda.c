/* A libcuda.so.1 without a GPU: so the real cuda.core can be run where there is none.
 *
 * Each call is written to standard error with what tests/runtime/cuda/test_core.py looks at. FAKE_CUDA_FAILS, such as
 * "cuStreamSynchronize=700", makes a function fail with a status. FAKE_CUDA_VERSION, such as 12060, is the newest CUDA
 * that it runs: of later functions, as in the real driver, there are none. Others that are not here do nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long Address;
#define CALL(name, ...)                                       \
    do {                                                      \
        int status_ = status_of(#name);                       \
        fprintf(stderr, #name " " __VA_ARGS__);               \
        fputc('\n', stderr);                                  \
        if (status_) return status_;                          \
    } while (0)
#define CONTEXT ((void*)0x1000)

static __thread void* current;

static int status_of(const char* name) {
    const char* fails = getenv("FAKE_CUDA_FAILS");
    size_t length = strlen(name);
    return fails && !strncmp(fails, name, length) && fails[length] == '=' ? atoi(fails + length + 1) : 0;
}

static int driver_version(void) {
    const char* version = getenv("FAKE_CUDA_VERSION");
    return version ? atoi(version) : 13000;
}

int cuInit(unsigned flags) { CALL(cuInit); return 0; }
int cuDriverGetVersion(int* version) { *version = driver_version(); return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char* name, int size, int device) { snprintf(name, size, "Fake"); return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : 1; /* compute capability 8.7 */
    return 0;
}
static int context_is_active;
static unsigned context_flags;
int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
    *flags = context_flags;
    *active = context_is_active;
    return 0;
}
int cuDevicePrimaryCtxSetFlags(int device, unsigned flags) { context_flags = flags; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) {
    CALL(cuDevicePrimaryCtxRetain);
    context_is_active = 1;
    *context = CONTEXT;
    return 0;
}
int cuCtxSetCurrent(void* context) { current = context; return 0; }
int cuCtxGetCurrent(void** context) { *context = current; return 0; }
int cuCtxSynchronize(void) { CALL(cuCtxSynchronize); return 0; }
int cuCtxGetDevice(int* device) { *device = 0; return 0; }
int cuStreamGetCtx(void* stream, void** context) { *context = CONTEXT; return 0; }
int cuCtxGetStreamPriorityRange(int* least, int* greatest) { *least = 0; *greatest = -5; return 0; }
int cuGetErrorName(int status, const char** name) {
    *name = status == 2     ? "CUDA_ERROR_OUT_OF_MEMORY"
            : status == 100 ? "CUDA_ERROR_NO_DEVICE"
            : status == 222 ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
            : status == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS"
            : status == 803 ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"
                            : "CUDA_ERROR_NOT_FOUND";
    return 0;
}
int cuGetErrorString(int status, const char** words) { *words = "in words"; return 0; }

int cuMemGetInfo(size_t* free_bytes, size_t* total) { *free_bytes = 3; *total = 4; return 0; }
int cuMemAlloc(Address* address, size_t size) {
    if (!current) return 201;
    CALL(cuMemAlloc, "%zu", size);
    *address = (Address)calloc(1, size);
    return 0;
}
int cuMemFree(Address address) { CALL(cuMemFree); free((void*)address); return 0; }
int cuMemHostAlloc(void** pointer, size_t size, unsigned flags) {
    CALL(cuMemHostAlloc, "%zu %u", size, flags);
    *pointer = calloc(1, size);
    return 0;
}
int cuMemHostGetDevicePointer(Address* address, void* pointer, unsigned flags) {
    *address = (Address)pointer;
    return 0;
}
int cuMemFreeHost(void* pointer) { CALL(cuMemFreeHost); free(pointer); return 0; }
int cuPointerGetAttribute(void* value, int attribute, Address address) {
    CALL(cuPointerGetAttribute, "%d", attribute);
    *(int*)value = 0;
    return 0;
}
int cuMemcpyAsync(Address target, Address source, size_t size, void* stream) {
    CALL(cuMemcpyAsync, "%zu", size);
    memcpy((void*)target, (void*)source, size);
    return 0;
}
struct side { size_t x, y; int kind; void* host; Address device; void* array; size_t pitch; };
struct copy { struct side source, target; size_t width, height; };
static char* row_of(const struct side* side, size_t row) {
    return (side->kind == 1 ? side->host : (char*)side->device) + row * side->pitch; /* 1: CU_MEMORYTYPE_HOST */
}
int cuMemcpy2DAsync(const struct copy* copy, void* stream) {
    CALL(cuMemcpy2DAsync, "%d %d", copy->source.kind, copy->target.kind);
    for (size_t row = 0; row < copy->height; row++)
        memcpy(row_of(&copy->target, row), row_of(&copy->source, row), copy->width);
    return 0;
}
int cuMemsetD8Async(Address target, unsigned char byte, size_t size, void* stream) {
    CALL(cuMemsetD8Async, "%u %zu", byte, size);
    memset((void*)target, byte, size);
    return 0;
}

int cuStreamCreateWithPriority(void** stream, unsigned flags, int priority) {
    CALL(cuStreamCreateWithPriority, "%u", flags);
    *stream = (void*)0x2000;
    return 0;
}
int cuStreamDestroy(void* stream) { CALL(cuStreamDestroy); return 0; }
int cuStreamSynchronize(void* stream) { CALL(cuStreamSynchronize); return 0; }
int cuStreamWaitEvent(void* stream, void* event, unsigned flags) { CALL(cuStreamWaitEvent); return 0; }
int cuEventCreate(void** event, unsigned flags) { CALL(cuEventCreate, "%u", flags); *event = (void*)0x3000; return 0; }
int cuEventRecord(void* event, void* stream) { CALL(cuEventRecord, "%p", stream); return 0; }
int cuEventSynchronize(void* event) { CALL(cuEventSynchronize); return 0; }
int cuEventElapsedTime(float* ms, void* start, void* end) { CALL(cuEventElapsedTime); *ms = 1.5; return 0; }
int cuEventDestroy(void* event) { CALL(cuEventDestroy); return 0; }

int cuLibraryLoadData(void** library, const void* code, void* a, void* b, unsigned c, void* d, void* e, unsigned f) {
    CALL(cuLibraryLoadData);
    *library = (void*)0x4000;
    return 0;
}
int cuLibraryGetKernel(void** kernel, void* library, const char* name) {
    CALL(cuLibraryGetKernel, "%s", name);
    *kernel = (void*)0x5000;
    return 0;
}
int cuKernelSetAttribute(int attribute, int value, void* kernel, int device) {
    CALL(cuKernelSetAttribute, "%d %d %p %d", attribute, value, kernel, device);
    return 0;
}
struct launch { unsigned grid[3], block[3], shared; void* stream; };
int cuLaunchKernelEx(const struct launch* at, void* kernel, void** arguments, void** extra) {
    CALL(cuLaunchKernelEx, "%u %u %u, %u %u %u, %u, %p: %llu %d %g", at->grid[0], at->grid[1], at->grid[2],
         at->block[0], at->block[1], at->block[2], at->shared, kernel, *(Address*)arguments[0],
         *(int*)arguments[1], *(float*)arguments[2]);
    return 0;
}
int cuStreamBeginCapture(void* stream, int mode) { CALL(cuStreamBeginCapture, "%d", mode); return 0; }
int cuStreamEndCapture(void* stream, void** graph) { CALL(cuStreamEndCapture); *graph = (void*)0x6000; return 0; }
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
    CALL(cuGraphInstantiateWithFlags, "%p", graph);
    *executable = (void*)0x7000;
    return 0;
}
int cuGraphLaunch(void* executable, void* stream) { CALL(cuGraphLaunch, "%p %p", executable, stream); return 0; }
int cuGraphDestroy(void* graph) { CALL(cuGraphDestroy, "%p", graph); return 0; }
int cuGraphExecDestroy(void* executable) { CALL(cuGraphExecDestroy, "%p", executable); return 0; }

/* By the names that FFmpeg looks for. */
static __thread void* contexts[8];
static __thread int depth;
int cuCtxPushCurrent_v2(void* context) {
    contexts[depth++] = current;
    current = context;
    return 0;
}
int cuCtxPopCurrent_v2(void** context) {
    *context = current;
    current = contexts[--depth];
    return 0;
}
int cuMemAlloc_v2(Address* address, size_t size) { return cuMemAlloc(address, size); }
int cuMemFree_v2(Address address) { return cuMemFree(address); }
int cuMemcpy2DAsync_v2(const struct copy* copy, void* stream) { return cuMemcpy2DAsync(copy, stream); }

static int nothing(void) { return 0; }
int cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags, int* found) {
    if (getenv("FAKE_CUDA_VERSION") && version > driver_version()) {
        *function = NULL;
        if (found) *found = 2; /* CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT */
        return 500;            /* CUDA_ERROR_NOT_FOUND */
    }
    void* known = dlsym(dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_NOW), name);
    *function = known ? known : (void*)nothing;
    if (found) *found = 0;
    return 0;
}
int cuGetProcAddress(const char* name, void** function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
