"""The CUDA layer on PyCUDA, with a PyCUDA made from its documentation: contexts, order and errors."""

import importlib
import struct
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ssd_edge.errors import MissingDependencyError
from ssd_edge.runtime.cuda import pycuda as cuda_pycuda
from ssd_edge.runtime.cuda.base import Cuda, Gpu
from ssd_edge.runtime.cuda.errors import CudaError, CudaFatalError, CudaMemoryError
from ssd_edge.runtime.cuda.find import find_gpu, open_cuda
from ssd_edge.runtime.host.kind import Host
from tests.fakes.pycuda import CompileError, Driver, Script


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """A Jetson with JetPack 6, and PyCUDA alone."""
    script = Script()
    driver = Driver(script)
    monkeypatch.setattr(cuda_pycuda, "load_driver", lambda: driver)
    monkeypatch.setattr(cuda_pycuda, "atexit", SimpleNamespace(register=lambda function: None))
    monkeypatch.setattr(cuda_pycuda, "read_host", lambda: Host(jetson=True, nvidia=True, jetpack="6.2"))
    monkeypatch.setenv("SSD_EDGE_CUDA", "pycuda")
    cuda_pycuda.primary_context.cache_clear()
    yield script
    cuda_pycuda.primary_context.cache_clear()
    assert not any(script.stacks.values()), "a thread that ends so aborts the process"


@pytest.fixture
def gpu(script: Script) -> Cuda:
    opened = open_cuda()
    script.calls.clear()
    return opened


def test_the_gpu(script: Script) -> None:
    assert find_gpu() == Gpu("Orin", "8.7", "12.6", integrated=True)
    assert "cuDevicePrimaryCtxRetain" not in script.names()
    with pytest.raises(CudaError, match="there is no GPU 1; this machine has 1"):
        open_cuda(1)


def test_without_a_gpu(script: Script) -> None:
    script.fails["cuInit"] = "no CUDA-capable device is detected"
    with pytest.raises(CudaError, match="cuInit failed: no CUDA-capable device is detected; there is no NVIDIA GPU"):
        open_cuda()
    assert find_gpu() is None


def test_the_primary_context_is_retained_once(script: Script) -> None:
    open_cuda().close()
    open_cuda().close()
    assert script.names().count("cuDevicePrimaryCtxRetain") == 1


def test_memory_goes_up_and_comes_down(gpu: Cuda, script: Script) -> None:
    content = np.arange(12, dtype=np.uint8)
    with gpu.stream() as stream, gpu.memory(12) as memory, gpu.host_memory(8) as pinned:
        assert stream.handle == 77
        stream.copy(memory.address, content.ctypes.data, 12)
        stream.fill(memory.address + 11, 99, 1)
        stream.copy_rows(pinned.address, 4, memory.address, 6, 3, 2)  # 2 rows of 3 bytes: pitch 6 to pitch 4
        stream.synchronize()
        assert pinned.array.tolist() == [0, 1, 2, 0xA5, 6, 7, 8, 0xA5]
        assert (memory.size, len(script.memory)) == (12, 2)
    assert script.memory == []
    assert gpu.free_memory() == (3, 4)


def test_mapped_memory_is_asked_for(gpu: Cuda, script: Script) -> None:
    with gpu.host_memory(5, mapped=True) as mapped:
        assert mapped.address == int(script.memory[0])
    assert script.calls[0] == ("cuMemHostAlloc", 5, 3)


def test_events_wait_without_spinning_and_measure(gpu: Cuda, script: Script) -> None:
    with gpu.stream() as stream, gpu.event(timing=True) as start, gpu.event(timing=True) as end, gpu.event() as plain:
        stream.record(start)
        stream.wait(plain)
        stream.record(end)
        end.synchronize()
        assert end.elapsed_ms(start) == 2  # of the fake: calls between them
    assert [call for call in script.calls if "Create" in call[0]] == [
        *(("cuStreamCreate", 1), ("cuEventCreate", 1), ("cuEventCreate", 1), ("cuEventCreate", 3))
    ]
    assert script.names()[-4:] == [*("cuEventDestroy", "cuEventDestroy", "cuEventDestroy", "cuStreamDestroy")]


def test_arguments_are_packed_by_their_own_types(gpu: Cuda, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_pycuda, "compile_kernels", lambda source, compute_capability: b"code")
    kernel = gpu.module("", ["k"])["k"]
    assert ("cuModuleLoadDataEx", b"code") in script.calls
    with gpu.stream() as stream:
        for first in (np.uint64(1), np.float32(1)):
            stream.launch(kernel, (1, 2, 3), (4, 5, 6), [first, np.int32(1)], shared_bytes=7)
        with pytest.raises(CudaError, match="49153 bytes of shared memory, and PyCUDA cannot ask for more than 49152"):
            stream.launch(kernel, (1, 1, 1), (1, 1, 1), [], shared_bytes=49153)
    launches = [call[1:] for call in script.calls if call[0] == "cuLaunchKernel"]
    assert launches == [
        ((1, 2, 3), (4, 5, 6), struct.pack("Qi", 1, 1), 7),
        ((1, 2, 3), (4, 5, 6), struct.pack("fi", 1, 1), 7),
    ]


def test_without_nvrtc_nvcc_compiles(gpu: Cuda, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_nvrtc(source: str, compute_capability: str) -> bytes:
        raise MissingDependencyError("no NVRTC", extra="cuda13")

    asked: dict[str, Any] = {}

    def nvcc(source: str, **options: Any) -> bytes:
        asked.update(options, source=source)
        if source == "bad":
            raise CompileError("nvcc compilation of kernel.cu failed")
        return b"cubin"

    class Compiler:
        compile = staticmethod(nvcc)

    monkeypatch.setattr(cuda_pycuda, "compile_kernels", no_nvrtc)
    monkeypatch.setattr(importlib, "import_module", {"pycuda.compiler": Compiler}.__getitem__)
    gpu.module("source", ["k"])
    options = ["--std=c++17", "--fmad=false"]
    assert asked == {"source": "source", "options": options, "no_extern_c": True, "arch": "sm_87"}
    assert ("cuModuleLoadDataEx", b"cubin") in script.calls
    with pytest.raises(CudaError, match=r"nvcc does not compile the kernels: nvcc comp.*or NVRTC.*'\.\[cuda12\]'$"):
        gpu.module("bad", ["k"])


def test_there_are_no_graphs(gpu: Cuda) -> None:
    assert not gpu.has_graphs
    with gpu.stream() as stream:
        for capture in (stream.begin_capture, stream.end_capture):
            with pytest.raises(CudaError, match=r"PyCUDA has no CUDA graphs; .*'\.\[cuda12\]'$"):
                capture()


def test_another_librarys_stream_is_waited_for(gpu: Cuda, script: Script) -> None:
    with gpu.stream() as stream:
        stream.wait_stream(1234)
    assert "cuCtxSynchronize" in script.names()


def test_memory_that_is_not_there(gpu: Cuda, script: Script) -> None:
    script.fails["cuMemAlloc"] = "out of memory"
    with pytest.raises(CudaMemoryError, match=r"cuMemAlloc failed: out of memory; .* take a smaller batch"):
        gpu.memory(1 << 40)


def test_after_a_fatal_error_closing_is_silent(gpu: Cuda, script: Script) -> None:
    words = "an illegal memory access was encountered"
    with (  # noqa: PT012 - the point is that nothing at the end of these blocks covers the first error
        pytest.raises(CudaFatalError, match=f"cuStreamSynchronize failed: {words}.*start it again"),
        gpu,
        gpu.memory(1),
        gpu.host_memory(1),
        gpu.stream() as stream,
    ):
        script.fails = dict.fromkeys(("cuStreamSynchronize", "free"), words)
        stream.synchronize()


def test_closing_twice_and_in_any_order(gpu: Cuda, script: Script) -> None:
    stream = gpu.stream()
    closed = [stream, gpu.memory(1), gpu.host_memory(1), gpu.event(), gpu]
    for resource in [gpu, *closed, *reversed(closed)]:
        resource.close()
    assert script.memory == []
    assert {"cuStreamDestroy", "cuEventDestroy"} <= set(script.names())
    with pytest.raises(CudaError, match="this GPU was closed; open it again with open_cuda"):
        gpu.memory(1)


def test_any_thread_may_use_it(gpu: Cuda, script: Script) -> None:
    made: list[Any] = []

    def work() -> None:
        with gpu.stream() as stream, gpu.event() as event:
            stream.record(event)
            made.append(gpu.memory(1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    made[0].close()
    assert script.memory == []
    assert {"cuStreamDestroy", "cuEventDestroy"} <= set(script.names())
