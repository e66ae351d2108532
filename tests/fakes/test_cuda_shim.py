"""The host shim itself: warp functions and barriers do what CUDA says, and what CUDA leaves undefined is an error."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_edge.runtime.cuda.errors import CudaError
from tests.fakes.host_cuda import FORWARD, ORDERS, REVERSE, HostCuda

BACKWARDS = """
extern __shared__ float4 shared_memory[];
extern "C" __global__ void turn(unsigned* values) {
    unsigned* shared = (unsigned*)shared_memory;
    shared[threadIdx.x] = values[threadIdx.x];
    __syncthreads();
    values[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}
"""


def run_backwards(source: str, order: int, *, shared_bytes: int = 32) -> list[int]:
    cuda, values = HostCuda(order=order), np.arange(8, dtype=np.uint32)
    kernel = cuda.module(source, ["turn"])["turn"]
    arguments = [np.uint64(values.ctypes.data)]
    cuda.stream().launch(kernel, (1, 1, 1), (8, 1, 1), arguments, shared_bytes=shared_bytes)
    return values.tolist()


@pytest.mark.parametrize("order", ORDERS)
def test_threads_wait_for_each_other(order: int) -> None:
    assert run_backwards(BACKWARDS, order) == [7, 6, 5, 4, 3, 2, 1, 0]


def test_a_missing_barrier_shows() -> None:
    racing = BACKWARDS.replace("__syncthreads();", "")
    assert run_backwards(racing, FORWARD) != run_backwards(racing, REVERSE)


def test_a_barrier_that_not_all_threads_reach_is_an_error() -> None:
    with pytest.raises(CudaError, match="part ways"):
        run_backwards(BACKWARDS.replace("__syncthreads();", "if (threadIdx.x < 4) __syncthreads();"), FORWARD)


def test_too_little_shared_memory_is_an_error() -> None:
    with pytest.raises(CudaError, match="behind the shared memory"):
        run_backwards(BACKWARDS, FORWARD, shared_bytes=16)


def test_an_argument_of_another_type_is_an_error() -> None:
    cuda = HostCuda()
    kernel = cuda.module(BACKWARDS, ["turn"])["turn"]
    with pytest.raises(CudaError, match=r"takes .*u8.*, got .*i8"):
        cuda.stream().launch(kernel, (1, 1, 1), (8, 1, 1), [np.int64(0)])


def test_a_write_behind_the_end_of_memory_is_an_error() -> None:
    cuda = HostCuda()
    memory = cuda.memory(10)
    cuda.stream().fill(memory.address, 0, 11)
    with pytest.raises(CudaError, match="behind the end"):
        memory.close()


# Bodies of kernels, each run by one block on 64-bit values, one a thread. They are compiled together, which takes as
# long as one of them alone.
HEAD = """
extern __shared__ float4 shared_memory[];
typedef unsigned long long Value;
const unsigned ALL = 0xFFFFFFFF;
"""
KERNEL = """
extern "C" __global__ void NAME(Value* values) {
    const unsigned lane = threadIdx.x % 32;
    Value* shared = (Value*)shared_memory;
    Value value = values[threadIdx.x];
    BODY
    values[threadIdx.x] = value;
}
"""
VALUES = np.arange(64, dtype=np.uint64) * 2**33 + 5
BODIES: list[str] = []


def body(text: str) -> str:
    """A body, to be compiled with all others."""
    BODIES.append(text)
    return text


def run(text: str, order: int = FORWARD, *, threads: int = 64, readable: int = 64) -> np.ndarray:
    """uint64 [threads] that threads with VALUES end with.

    readable: how many of the values `__ldg` may read.
    """
    cuda, values = HostCuda(order=order), VALUES[:threads].copy()
    cuda.readable = [(values.ctypes.data, values.ctypes.data + 8 * readable)]
    kernel = cuda.module(source(), [name(each) for each in BODIES])[name(text)]
    arguments = [np.uint64(values.ctypes.data)]
    cuda.stream().launch(kernel, (1, 1, 1), (threads, 1, 1), arguments, shared_bytes=8 * threads)
    return values


def name(text: str) -> str:
    return f"work{BODIES.index(text)}"


def source() -> str:
    return HEAD + "".join(KERNEL.replace("NAME", name(text)).replace("BODY", text) for text in BODIES)


LANES = np.arange(64) % 32
WARPS = np.arange(64) // 32 * 32

EXPRESSIONS = {
    "__shfl_sync(ALL, value, 3)": VALUES[WARPS + 3],
    "__shfl_sync(ALL, value, 31 - lane)": VALUES[WARPS + 31 - LANES],
    "__shfl_sync(ALL, value, lane + 1)": VALUES[WARPS + (LANES + 1) % 32],  # round the warp
    "__shfl_xor_sync(ALL, value, 5)": VALUES[WARPS + (LANES ^ 5)],
    "__shfl_up_sync(ALL, value, 2)": VALUES[np.where(LANES < 2, WARPS + LANES, WARPS + LANES - 2)],
    "__shfl_down_sync(ALL, value, 2)": VALUES[np.where(LANES > 29, WARPS + LANES, WARPS + LANES + 2)],
    "(unsigned)__shfl_sync(ALL, (int)lane - 7, 2)": np.full(64, 2**32 - 5),
    "__ballot_sync(ALL, threadIdx.x % 3 == 0)": np.where(WARPS == 0, 0x49249249, 0x92492492),
    "__any_sync(ALL, threadIdx.x == 40)": WARPS // 32,
    "__match_any_sync(ALL, threadIdx.x / 4)": 0xF << LANES // 4 * 4,
    "__match_any_sync(ALL, value >> 62)": np.full(64, 0xFFFFFFFF),
    "__popc(255u << lane)": np.minimum(8, 32 - LANES),
    "__ffs(1 << lane)": LANES + 1,
    "__clz(1 << lane)": 31 - LANES,
}
for expression in EXPRESSIONS:
    body(f"value = {expression};")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_warp_functions(expression: str, order: int) -> None:
    assert run(f"value = {expression};", order).tolist() == EXPRESSIONS[expression].tolist()


HALVES = body("if (lane < 16) value = __ballot_sync(0xFFFF, 1);\n else value = __ballot_sync(0xFFFF0000, lane % 2);")
LEAVING = body("value = 0; for (unsigned i = 0; i <= lane; i++) value += __popc(__ballot_sync(ALL << i, 1));")


@pytest.mark.parametrize("order", ORDERS)
def test_parts_of_a_warp_may_exchange_on_their_own(order: int) -> None:
    # Halves at different places; then a loop that lanes leave one by one, the mask without those that left.
    assert run(HALVES, order).tolist() == np.where(LANES < 16, 0xFFFF, 0xAAAA0000).tolist()
    assert run(LEAVING, order).tolist() == [sum(32 - i for i in range(lane + 1)) for lane in LANES]


REVERSED = body("shared[threadIdx.x] = value; __syncwarp(); value = shared[threadIdx.x / 32 * 32 + 31 - lane];")
REVERSED_RACING = body(REVERSED.replace("__syncwarp();", ""))
ACROSS = body("shared[threadIdx.x] = value; __syncthreads(); value = shared[63 - threadIdx.x];")
ACROSS_RACING = [
    body(ACROSS.replace("__syncthreads();", wait))
    for wait in ("__syncwarp();", "__syncwarp(); value += __any_sync(ALL, 0); __syncwarp();")
]


@pytest.mark.parametrize("order", ORDERS)
def test_lanes_wait_for_each_other(order: int) -> None:
    assert run(REVERSED, order).tolist() == VALUES[WARPS + 31 - LANES].tolist()


def test_a_missing_syncwarp_shows() -> None:
    results = [run(REVERSED_RACING, order).tolist() for order in ORDERS]
    assert results[0] != results[1]
    assert VALUES[WARPS + 31 - LANES].tolist() not in results


def test_a_syncwarp_instead_of_a_barrier_shows() -> None:
    # A warp runs ahead as far as it can, so that its own waits do not hide that it does not wait for other warps.
    assert all(run(ACROSS, order).tolist() == VALUES[::-1].tolist() for order in ORDERS)
    for racing in ACROSS_RACING:
        assert run(racing, FORWARD).tolist() != run(racing, REVERSE).tolist()


UNDEFINED = {
    # The others end without a call, or before they are named.
    "if (lane < 16) value = __ballot_sync(ALL, 1);": "a thread that has ended",
    "if (lane == 5) return; value = __shfl_sync(ALL, value, 0);": "a thread that has ended",
    "if (lane == 5) return; __syncwarp();": "a thread that has ended",
    # Both branches call, at different places.
    "if (lane < 16) value = __ballot_sync(ALL, 1);\n else value = __ballot_sync(ALL, 0);": "part ways",
    "if (lane < 16) value = __ballot_sync(ALL, 1);\n else __syncwarp();": "part ways",
    "if (lane < 16) __syncwarp();\n __syncthreads();": "part ways",
    # Masks.
    "value = __ballot_sync(lane % 2 ? ALL : ALL / 2, 1);": "part ways",
    "value = __ballot_sync(0xFFFF, 1);": "not in the mask that it gives",
    "value = __ballot_sync(0, 1);": "not in the mask that it gives",
    "if (lane < 16) value = __shfl_sync(0xFFFF, value, 16);": "a lane outside the mask",
}
PLUS_ONE = body("value += 1;")
for text in UNDEFINED:
    body(text)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("text", UNDEFINED)
def test_what_cuda_leaves_undefined_is_an_error(text: str, order: int) -> None:
    with pytest.raises(CudaError, match=rf"work\d+: line \d+: .*{UNDEFINED[text]}"):
        run(text, order)
    assert run(PLUS_ONE, order).tolist() == (VALUES + 1).tolist()  # the next launch is none the worse


SYNC_WARP = body("__syncwarp();")
TO_40 = body("value = __ballot_sync(threadIdx.x < 32 ? ALL : 0xFF, 1);")


def test_a_warp_that_is_not_whole() -> None:
    with pytest.raises(CudaError, match="does not exist"):
        run(SYNC_WARP, threads=40)
    assert run(TO_40, threads=40).tolist() == [0xFFFFFFFF] * 32 + [0xFF] * 8


MARKED = body("\n /* here */ value = __ballot_sync(0, 1);")


def test_the_line_is_that_of_the_source() -> None:
    line = 1 + source()[: source().index("/* here */")].count("\n")
    with pytest.raises(CudaError, match=f": line {line}: "):
        run(MARKED)


BACK_TO_FRONT = body("value = __ldg(values + 63 - threadIdx.x);")
BETWEEN = body("value = __ldg((const Value*)((const unsigned*)values + 1));")


def test_loads_are_checked() -> None:
    assert run(BACK_TO_FRONT)[0] == VALUES[63]
    with pytest.raises(CudaError, match="from outside the readable memory"):
        run(BACK_TO_FRONT, readable=63)
    with pytest.raises(CudaError, match="from a misaligned address"):
        run(BETWEEN)
