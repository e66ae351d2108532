"""The CUDA layer on cuda-python: which implementation, what is wrong with the machine, and every error by its kind."""

import importlib
import threading
from typing import Any

import numpy as np
import pytest

from ssd_edge.errors import MissingDependencyError, UsageError
from ssd_edge.runtime.cuda import core as cuda_core
from ssd_edge.runtime.cuda import find
from ssd_edge.runtime.cuda.base import Cuda, Gpu
from ssd_edge.runtime.cuda.errors import FATAL, REMEDIES, CudaError, CudaFatalError, CudaMemoryError, cuda_failure
from ssd_edge.runtime.cuda.find import find_gpu, open_cuda, read_gpu
from tests.fakes import cuda_core as fake_cuda_core
from tests.fakes.cuda_core import Script, Status, fake_api


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """A machine with cuda-python and one GPU."""
    script = Script()
    monkeypatch.setattr(cuda_core, "load_api", lambda: fake_api(script))
    monkeypatch.setenv("SSD_EDGE_CUDA", "core")
    return script


@pytest.fixture
def gpu(script: Script) -> Cuda:
    opened = open_cuda()
    script.calls.clear()
    return opened


@pytest.mark.parametrize(
    ("installed", "chosen", "expected"),
    [
        ({"cuda.core", "pycuda"}, "", "core"),
        ({"pycuda"}, "", "pycuda"),
        (set(), "", "core"),
        ({"cuda.core", "pycuda"}, "pycuda", "pycuda"),
        ({"pycuda"}, "core", "core"),
    ],
)
def test_the_implementation(monkeypatch: pytest.MonkeyPatch, installed: set[str], chosen: str, expected: str) -> None:
    monkeypatch.setattr(find, "is_installed", installed.__contains__)
    monkeypatch.setenv("SSD_EDGE_CUDA", chosen)
    for module in ("core", "pycuda"):
        name = f"ssd_edge.runtime.cuda.{module}"
        monkeypatch.setattr(importlib.import_module(name), "open_cuda", lambda device, module=module: (module, device))
    opened: Any = open_cuda(3)
    assert opened == (expected, 3)


def test_another_implementation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSD_EDGE_CUDA", "cupy")
    with pytest.raises(UsageError, match="SSD_EDGE_CUDA=cupy: expected core or pycuda, or nothing"):
        open_cuda()


@pytest.mark.parametrize(("chosen", "extra"), [("core", "cuda13"), ("pycuda", "pycuda")])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, chosen: str, extra: str) -> None:
    monkeypatch.setenv("SSD_EDGE_CUDA", chosen)
    without_package(monkeypatch, chosen, ModuleNotFoundError("No module", name="cuda" if chosen == "core" else chosen))
    monkeypatch.setattr(cuda_core, "installed_version", lambda _: None)
    with pytest.raises(MissingDependencyError, match=rf"which is not installed.*pip install '\.\[{extra}\]'"):
        read_gpu()
    assert find_gpu() is None


@pytest.mark.parametrize(
    ("chosen", "error", "message"),
    [
        (
            "core",
            ImportError("no symbol"),
            r"cuda-core 1\.2\.2 with cuda-bindings 13\.0\.3 is installed but does not load",
        ),
        ("pycuda", ImportError("libcurand.so.10"), r"pycuda is installed but does not load \(libcurand\.so\.10\)"),
        ("pycuda", ModuleNotFoundError("no", name="pytools"), "pycuda is installed but lacks pytools"),
    ],
)
def test_what_does_not_load_is_not_called_absent(
    monkeypatch: pytest.MonkeyPatch, chosen: str, error: ImportError, message: str
) -> None:
    monkeypatch.setenv("SSD_EDGE_CUDA", chosen)
    without_package(monkeypatch, chosen, error)
    monkeypatch.setattr(cuda_core, "installed_version", {"cuda-core": "1.2.2", "cuda-bindings": "13.0.3"}.get)
    with pytest.raises(CudaError, match=rf"{message}.*pip install --force-reinstall"):
        read_gpu()


@pytest.mark.parametrize(
    ("core", "bindings", "message"),
    [
        ("1.0.0", "12.9.4", r"cuda-core 1\.0\.0 is too old, .* needs 1\.0\.1 or later"),
        ("0.7.0", "13.0.3", r"cuda-core 0\.7\.0 is too old, .* needs 1\.0\.1 or later"),
        ("1.0.1", "13.0.1", r"cuda-bindings 13\.0\.1 is too old, .* needs 13\.0\.2 or later"),
        ("1.0.1", "12.9.2", r"cuda-bindings 12\.9\.2 is too old, .* needs 12\.9\.3 or later"),
        ("1.0.1", "11.8.7", r"cuda-bindings 11\.8\.7 is too old, .* needs 12\.9\.3 or later"),
    ],
)
def test_versions_that_are_too_old_name_the_extra(core: str, bindings: str, message: str) -> None:
    with pytest.raises(MissingDependencyError, match=rf"{message}.*pip install '\.\[cuda1[23]\]'"):
        cuda_core.check_versions(core, bindings)


@pytest.mark.parametrize(("core", "bindings"), [("1.0.1", "12.9.3"), ("1.10.0", "13.0.10"), ("2.0", "14.0.0")])
def test_versions_that_are_new_enough(core: str, bindings: str) -> None:
    cuda_core.check_versions(core, bindings)


def without_package(monkeypatch: pytest.MonkeyPatch, chosen: str, error: ImportError) -> None:
    """Let every import of what this implementation stands on fail with an error."""
    real = importlib.import_module

    def load(name: str) -> Any:
        if name.startswith(("cuda.", "pycuda.")):
            raise error
        return real(name)

    implementation = f"ssd_edge.runtime.cuda.{chosen}"
    real(implementation)
    monkeypatch.setattr(f"{implementation}.importlib.import_module", load)


def test_the_gpu(script: Script) -> None:
    assert find_gpu() == Gpu("Orin", "8.7", "13.0", integrated=True)
    assert script.current == {}, "a context was made"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"has_library": False}, "there is no NVIDIA driver here.*install it"),
        (
            {"version": 12060},
            r"driver here runs CUDA up to 12\.6, and cuda-bindings 13\.0\.1 need.*CUDA 13.*'\.\[cuda12\]'",
        ),
        ({"version": 11080}, r"CUDA up to 11\.8, and cuda-bindings 13\.0\.1 need .*CUDA 13; update the driver$"),
        ({"fails": {"cuInit": Status.CUDA_ERROR_NO_DEVICE}}, "there is no NVIDIA GPU here, or CUDA_VISIBLE_DEVICES"),
        ({"fails": {"cuInit": Status.CUDA_ERROR_SYSTEM_DRIVER_MISMATCH}}, "restart the machine"),
        ({"gpus": 0}, "there is no GPU 0; this machine has 0"),
    ],
)
def test_what_is_wrong_with_the_machine(script: Script, changes: dict[str, Any], message: str) -> None:
    vars(script).update(changes)
    with pytest.raises(CudaError, match=message) as raised:
        open_cuda()
    assert not raised.value.fatal
    assert find_gpu() is None


@pytest.mark.parametrize("device", [-1, 1])
def test_a_gpu_that_is_not_there(script: Script, device: int) -> None:
    with pytest.raises(CudaError, match=f"there is no GPU {device}; this machine has 1, numbered from 0"):
        open_cuda(device)


def test_a_gpu_that_is_full_is_told_when_it_is_opened(script: Script) -> None:
    script.fails["cuDevicePrimaryCtxRetain"] = Status.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(CudaMemoryError):
        open_cuda()


def test_statuses_are_named_and_worded_as_cuda_has_them() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    driver = pytest.importorskip("cuda.bindings.driver")
    for name, words in [*FATAL.items(), *REMEDIES, ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory")]:
        status = runtime.cudaError_t(int(getattr(driver.CUresult, name)))  # the runtime has the same numbers
        assert runtime.cudaGetErrorString(status)[1].decode() == words


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ("CUDA_ERROR_OUT_OF_MEMORY", CudaMemoryError),
        ("out of memory", CudaMemoryError),
        ("CUDA_ERROR_ILLEGAL_ADDRESS", CudaFatalError),
        ("an illegal memory access was encountered", CudaFatalError),
        ("CUDA_ERROR_INVALID_VALUE", CudaError),
        ("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", CudaError),
    ],
)
def test_kinds_of_errors(problem: str, kind: type[CudaError]) -> None:
    error = cuda_failure("cuMemAlloc", problem)
    assert type(error) is kind
    assert error.fatal == (kind is CudaFatalError)
    assert str(error).startswith(f"cuMemAlloc failed: {problem}; ")


def test_memory_goes_up_and_comes_down(gpu: Cuda, script: Script) -> None:
    content = np.arange(12, dtype=np.uint8)
    with gpu.stream() as stream, gpu.memory(12) as memory, gpu.host_memory(8) as pinned:
        assert stream.handle == 77
        stream.copy(memory.address, content.ctypes.data, 12)
        stream.fill(memory.address + 11, 99, 1)
        stream.copy_rows(pinned.address, 4, memory.address, 6, 3, 2)  # 2 rows of 3 bytes: pitch 6 to pitch 4
        stream.synchronize()
        assert pinned.array.tolist() == [0, 1, 2, 0xA5, 6, 7, 8, 0xA5]
        stream.copy(pinned.address, memory.address + 8, 4)
        assert pinned.array[:4].tolist() == [8, 9, 10, 99]
        assert (memory.size, len(script.memory)) == (12, 2)
    assert script.memory == {}
    assert gpu.free_memory() == (3, 4)


def test_mapped_memory_is_asked_for(gpu: Cuda, script: Script) -> None:
    with gpu.host_memory(5, mapped=True) as mapped:
        assert mapped.address == mapped.array.ctypes.data
    assert script.calls[0] == ("cuMemHostAlloc", 5, 3)
    with gpu.host_memory(5):
        pass
    assert "cuMemHostGetDevicePointer" not in script.names()[3:]


def test_events_wait_without_spinning_and_measure(gpu: Cuda, script: Script) -> None:
    with gpu.stream() as stream, gpu.event(timing=True) as start, gpu.event(timing=True) as end, gpu.event() as plain:
        options = [call[1] for call in script.calls if call[0] == "Device.create_event"]
        assert [(each.timing_enabled, each.blocking_sync) for each in options] == 2 * [(True, True)] + [(False, True)]
        stream.record(start)
        stream.wait(plain)
        stream.record(end)
        end.synchronize()
        assert end.elapsed_ms(start) == 2  # of the fake: calls between them
    assert script.names().count("Event.close") == 3


def test_another_librarys_stream_is_waited_for(gpu: Cuda, script: Script) -> None:
    with gpu.stream() as stream:
        stream.wait_stream(1234)
    recorded = next(call for call in script.calls if call[0] == "cuEventRecord")
    assert recorded[2] == 1234
    assert script.names()[-4:] == ["cuEventRecord", "Stream.wait", "Event.close", "Stream.close"]


@pytest.mark.parametrize(("shared_bytes", "asks"), [(0, False), (48 * 1024, False), (48 * 1024 + 1, True)])
def test_a_launch_asks_for_much_shared_memory(
    gpu: Cuda, script: Script, monkeypatch: pytest.MonkeyPatch, shared_bytes: int, asks: bool
) -> None:
    monkeypatch.setattr(cuda_core, "compile_kernels", lambda source, compute_capability: b"\x7fELF")
    kernel = gpu.module("", ["k"])["k"]
    with gpu.stream() as stream:
        stream.launch(kernel, (1, 2, 3), (4, 5, 6), [np.float32(7)], shared_bytes=shared_bytes)
    _, _, config, launched, argument = next(call for call in script.calls if call[0] == "Core.launch")
    assert (config.grid, config.block, config.shmem_size, launched) == ((1, 2, 3), (4, 5, 6), shared_bytes, kernel)
    assert type(argument) is np.float32
    assert (("cuKernelSetAttribute", 8, shared_bytes, "handle of k", 0) in script.calls) == asks


def test_a_kernel_that_the_source_has_not(gpu: Cuda, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_core, "compile_kernels", lambda source, compute_capability: b"\x7fELF")
    script.fails["Code.get_kernel"] = Status.CUDA_ERROR_NOT_FOUND
    with pytest.raises(CudaError, match=r"get_kernel failed: CUDA_ERROR_NOT_FOUND"):
        gpu.module("", ["absent"])


def test_work_is_captured_and_launched(gpu: Cuda, script: Script) -> None:
    with gpu.stream() as stream:
        stream.begin_capture()
        with stream.end_capture() as graph:
            graph.launch(stream)
    names = [name for name in script.names() if "Graph" in name or "Capture" in name]
    assert names == [
        *("cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy"),
        *("cuGraphLaunch", "cuGraphExecDestroy"),
    ]


def test_a_capture_that_fails_leaves_the_stream(gpu: Cuda, script: Script) -> None:
    with gpu.stream() as stream:
        stream.begin_capture()
        script.fails["cuStreamEndCapture"] = Status.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        with pytest.raises(CudaError, match="CUDA_ERROR_STREAM_CAPTURE_INVALIDATED") as raised:
            stream.end_capture()
        assert not raised.value.fatal
        script.fails = {"cuGraphInstantiate": Status.CUDA_ERROR_OUT_OF_MEMORY}
        with pytest.raises(CudaMemoryError):
            stream.end_capture()
        assert script.names()[-1] == "cuGraphDestroy"
        stream.synchronize()


def test_memory_that_is_not_there(gpu: Cuda, script: Script) -> None:
    script.fails["cuMemAlloc"] = Status.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(CudaMemoryError, match=r"cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY; .* take a smaller batch"):
        gpu.memory(1 << 40)
    script.fails.clear()
    gpu.memory(1).close()


def test_after_a_fatal_error_closing_is_silent(gpu: Cuda, script: Script) -> None:
    with (  # noqa: PT012 - the point is that nothing at the end of these blocks covers the first error
        pytest.raises(CudaFatalError, match=r"Stream\.sync failed: CUDA_ERROR_ILLEGAL_ADDRESS.*start it again"),
        gpu,
        gpu.stream() as stream,
        gpu.memory(1),
        gpu.host_memory(1),
        gpu.event(),
    ):
        script.fails["Stream.sync"] = Status.CUDA_ERROR_ILLEGAL_ADDRESS
        stream.synchronize()
    assert script.names()[-1] == "Stream.sync"


def test_a_fatal_error_that_shows_first_when_something_is_freed_is_raised_once(gpu: Cuda, script: Script) -> None:
    first, second = gpu.memory(1), gpu.memory(1)
    script.fails["cuMemFree"] = Status.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(CudaFatalError):
        first.close()
    second.close()
    first.close()


def test_closing_twice_and_in_any_order(gpu: Cuda, script: Script) -> None:
    stream = gpu.stream()
    stream.begin_capture()
    closed = [stream, gpu.memory(1), gpu.host_memory(1), gpu.event(), stream.end_capture(), gpu]
    for resource in [gpu, *closed, *reversed(closed)]:
        resource.close()
    assert script.memory == {}
    frees = ("cuMemFree", "cuMemFreeHost", "cuGraphExecDestroy")
    assert [name for name in script.names() if name in frees] == list(frees)
    with pytest.raises(CudaError, match="this GPU was closed; open it again with open_cuda"):
        stream.synchronize()


def test_any_thread_may_use_it(gpu: Cuda, script: Script) -> None:
    made: list[Any] = []

    def work() -> None:
        with gpu.stream() as stream, gpu.event() as event:
            stream.record(event)
            event.synchronize()
            made.append(gpu.memory(1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    made[0].close()
    assert script.memory == {}
    assert len(script.current) == 2


def test_a_function_that_an_old_driver_has_not(gpu: Cuda, script: Script) -> None:
    script.has_library = False  # the bindings say both by RuntimeError
    with pytest.raises(CudaError, match=r"cuMemAlloc failed: Failed to dlopen libcuda\.so\.1"):
        gpu.memory(1)


def test_what_is_a_mistake_of_ours_is_not_hidden(gpu: Cuda) -> None:
    with pytest.raises(TypeError):
        gpu.memory("many")  # type: ignore[arg-type]


def test_the_fakes_offer_what_cuda_python_has() -> None:
    core, driver = pytest.importorskip("cuda.core"), pytest.importorskip("cuda.bindings.driver")
    public = [name for name in vars(fake_cuda_core.Driver) if name.startswith(("cu", "CU"))]
    assert [name for name in public if not hasattr(driver, name)] == []
    for fake in (fake_cuda_core.Device, fake_cuda_core.Stream, fake_cuda_core.Event):
        names = {name for name in vars(fake) if not name.startswith("_")} - {"script", "options", "ordinal"}
        assert [name for name in names if not hasattr(getattr(core, fake.__name__), name)] == []
    statuses = [getattr(driver.CUresult, status.name) for status in Status]
    assert statuses == list(Status)
    assert [status.name for status in statuses] == [status.name for status in Status]
    assert all(isinstance(status, driver.CUresult) for status in statuses)
    for enum in ("CUmemorytype", "CUfunction_attribute", "CUpointer_attribute", "CUstreamCaptureMode"):
        for name, value in vars(getattr(fake_cuda_core.Driver, enum)).items():
            assert getattr(getattr(driver, enum), name) == value
    assert core.EventOptions(timing_enabled=True, blocking_sync=True).blocking_sync
    assert core.StreamOptions(nonblocking=True).nonblocking
    assert callable(core.launch)
    assert core.ObjectCode.from_cubin(b"\x7fELF").code == b"\x7fELF"
    assert core.ObjectCode.from_ptx(b".version").code == b".version"
    assert core.LaunchConfig(grid=(1, 2, 3), block=(4, 5, 6), shmem_size=7).shmem_size == 7
    copy = driver.CUDA_MEMCPY2D()
    copy.srcMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_UNIFIED
    copy.srcDevice, copy.srcPitch, copy.WidthInBytes, copy.Height = 1 << 40, 2, 3, 4
    assert (int(copy.srcDevice), copy.srcPitch, copy.WidthInBytes, copy.Height) == (1 << 40, 2, 3, 4)
