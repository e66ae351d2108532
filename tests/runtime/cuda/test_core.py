"""The real cuda.core and bindings on a driver without a GPU: what our calls become in the driver."""

from collections.abc import Callable

import pytest

from tests.fakes.cuda_driver import compile_driver
from tests.runtime.cuda.cuda_core_code import KERNELS, KERNELS_PRINTS, MEMORY, MEMORY_PRINTS, PREFACE

Run = Callable[..., tuple[list[str], list[str]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run code; the lines that it prints, and the calls to the driver."""
    pytest.importorskip("cuda.core")
    driver = compile_driver(tmp_path_factory.mktemp("driver"))

    def run_code(code: str, **environment: str) -> tuple[list[str], list[str]]:
        result = driver.run(PREFACE + code, SSD_EDGE_CUDA="core", **environment)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines(), [line.rstrip() for line in result.stderr.splitlines()]

    return run_code


def test_a_gpu_is_read_without_a_context(run: Run) -> None:
    printed, calls = run("print(find_gpu(), find_gpu().integrated)")
    assert printed == ["Fake (compute capability 8.7, CUDA 13.0) True"]
    assert set(calls) == {"cuInit"}


def test_memory(run: Run) -> None:
    printed, calls = run(MEMORY)
    assert printed == MEMORY_PRINTS
    assert calls[calls.index("cuStreamCreateWithPriority 1") :][:11] == [
        "cuStreamCreateWithPriority 1",  # non-blocking
        *("cuMemAlloc 12", "cuMemHostAlloc 8 3"),  # portable and mapped
        *("cuMemcpyAsync 12", "cuMemsetD8Async 99 1", "cuMemcpy2DAsync 4 4"),  # unified
        *("cuStreamSynchronize", "cuCtxSynchronize", "cuPointerGetAttribute 9", "cuMemFreeHost", "cuMemFree"),
    ]


def test_kernels_events_and_graphs(run: Run) -> None:
    printed, calls = run(KERNELS)
    assert printed == KERNELS_PRINTS
    assert calls[calls.index("cuEventCreate 1") :][:23] == [
        *("cuEventCreate 1", "cuEventCreate 3"),  # blocking, and without timing
        *("cuLibraryLoadData", "cuLibraryGetKernel k"),
        "cuLaunchKernelEx 1 2 3, 4 5 6, 0, 0x5000: 1099511627776 -7 2.5",
        "cuKernelSetAttribute 8 60000 0x5000 0",
        "cuLaunchKernelEx 1 2 3, 4 5 6, 60000, 0x5000: 1099511627776 -7 2.5",
        *("cuEventRecord 0x2000", "cuStreamWaitEvent", "cuEventSynchronize", "cuEventElapsedTime"),
        *("cuEventCreate 3", "cuEventRecord 0x1", "cuStreamWaitEvent", "cuEventDestroy"),
        *(
            "cuStreamBeginCapture 1",
            "cuStreamEndCapture",
            "cuGraphInstantiateWithFlags 0x6000",
            "cuGraphDestroy 0x6000",
        ),
        *("cuGraphLaunch 0x7000 0x2000", "cuGraphExecDestroy 0x7000"),
        *("cuEventDestroy", "cuEventDestroy"),
    ]


@pytest.mark.parametrize(
    ("fails", "expected"),
    [
        ("cuStreamSynchronize=700", "CudaFatalError Stream.sync failed: CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("cuMemAlloc=2", "CudaMemoryError cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuLibraryGetKernel=500", "CudaError ObjectCode.get_kernel failed: CUDA_ERROR_NOT_FOUND"),
        (
            "cuLibraryLoadData=222",
            "CudaError ObjectCode.get_kernel failed: CUDA_ERROR_UNSUPPORTED_PTX_VERSION; the driver refuses",
        ),
        ("cuStreamEndCapture=901", "CudaError cuStreamEndCapture failed: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"),
        ("cuDevicePrimaryCtxRetain=2", "CudaMemoryError cuDevicePrimaryCtxRetain failed"),
        ("cuInit=100", "CudaError cuInit failed: CUDA_ERROR_NO_DEVICE"),
    ],
)
def test_errors_by_their_kind(run: Run, fails: str, expected: str) -> None:
    code = """
try:
    with open_cuda() as gpu, gpu.stream() as stream, gpu.memory(1):
        gpu.module("", ["k"])
        stream.begin_capture()
        stream.end_capture().close()
        stream.synchronize()
except CudaError as error:
    print(type(error).__name__, error)
"""
    (printed,), _ = run(code, FAKE_CUDA_FAILS=fails)
    assert printed.startswith(expected)


def test_any_thread_may_use_it(run: Run) -> None:
    code = """
made = []
thread = threading.Thread(target=lambda: made.append(open_cuda()))
thread.start()
thread.join()
with made[0].memory(1):
    print("made")
"""
    printed, calls = run(code)
    assert printed == ["made"]
    assert calls[-2:] == ["cuMemAlloc 1", "cuMemFree"]
