"""The CUDA layer on a GPU, with cuda-python and, where it is installed, with PyCUDA."""

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ssd_edge.images import ImageError
from ssd_edge.runtime.cuda.base import Cuda
from ssd_edge.runtime.cuda.device_frames import device_frame, is_device_frame
from ssd_edge.runtime.cuda.errors import CudaError, CudaMemoryError
from ssd_edge.runtime.cuda.find import find_gpu, open_cuda

pytestmark = pytest.mark.gpu

SOURCE = """
extern "C" __global__ void add(const unsigned char* x, unsigned char* y, int count, float value) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = (unsigned char)(x[i] + value);
}
extern "C" __global__ void reverse(unsigned char* x, int count) {
    extern __shared__ unsigned char copy[];
    for (int i = threadIdx.x; i < count; i += blockDim.x) copy[i] = x[i];
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += blockDim.x) x[i] = copy[count - 1 - i];
}
"""


@pytest.fixture(params=["core", "pycuda"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    monkeypatch.setenv("SSD_EDGE_CUDA", request.param)
    if request.param == "pycuda" and importlib.util.find_spec("pycuda") is None:
        pytest.skip("no PyCUDA")
    if find_gpu() is None:
        pytest.skip("no NVIDIA GPU")
    with open_cuda() as opened:
        yield opened


def up(gpu: Cuda, stream: Any, content: np.ndarray) -> Any:
    memory = gpu.memory(content.nbytes)
    stream.copy(memory.address, content.ctypes.data, content.nbytes)
    return memory


def down(stream: Any, address: int, size: int) -> np.ndarray:
    content = np.zeros(size, np.uint8)
    stream.copy(content.ctypes.data, address, size)
    stream.synchronize()
    return content


def add(kernels: Any, stream: Any, source: int, target: int, count: int, value: float) -> None:
    arguments = [np.uint64(source), np.uint64(target), np.int32(count), np.float32(value)]
    stream.launch(kernels["add"], (-(-count // 64), 1, 1), (64, 1, 1), arguments)


def test_memory_goes_up_and_comes_down(gpu: Cuda) -> None:
    content = np.arange(200, dtype=np.uint8)
    with gpu.stream() as stream, up(gpu, stream, content) as memory, gpu.host_memory(200) as pinned:
        stream.fill(memory.address + 10, 7, 5)
        stream.copy(pinned.address, memory.address, 200)
        stream.synchronize()
        content[10:15] = 7
        assert pinned.array.tolist() == content.tolist()
        free, total = gpu.free_memory()
        assert 0 < free <= total
        assert gpu.device_of(memory.address) in (0, None)


def test_rows_are_copied_from_pitch_to_pitch(gpu: Cuda) -> None:
    content = np.arange(60, dtype=np.uint8).reshape(5, 12)
    with gpu.stream() as stream, up(gpu, stream, content) as memory, gpu.memory(5 * 8) as packed:
        stream.copy_rows(packed.address, 8, memory.address + 2, 12, 8, 5)
        assert down(stream, packed.address, 40).tolist() == content[:, 2:10].ravel().tolist()
        back = np.zeros((5, 20), np.uint8)
        stream.copy_rows(back.ctypes.data, 20, packed.address, 8, 8, 5)
        stream.synchronize()
        assert back[:, :8].tolist() == content[:, 2:10].tolist()
        assert not back[:, 8:].any()


def test_kernels_run(gpu: Cuda) -> None:
    kernels = gpu.module(SOURCE, ["add", "reverse"])
    content = np.arange(100, dtype=np.uint8)
    with gpu.stream() as stream, up(gpu, stream, content) as source, gpu.memory(100) as target:
        add(kernels, stream, source.address, target.address, 100, 3.0)
        assert down(stream, target.address, 100).tolist() == (content + 3).tolist()
    with pytest.raises(CudaError, match=r"not found|NOT_FOUND"):
        gpu.module(SOURCE, ["absent"])


def test_much_shared_memory(gpu: Cuda) -> None:
    if not gpu.has_graphs:
        pytest.skip("PyCUDA cannot ask for it")
    size = 60 * 1024
    kernels = gpu.module(SOURCE, ["reverse"])
    content = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    with gpu.stream() as stream, up(gpu, stream, content) as memory:
        arguments: list[np.generic] = [np.uint64(memory.address), np.int32(size)]
        stream.launch(kernels["reverse"], (1, 1, 1), (256, 1, 1), arguments, shared_bytes=size)
        assert np.array_equal(down(stream, memory.address, size), content[::-1])


def test_mapped_memory_is_written_in_place(gpu: Cuda) -> None:
    kernels = gpu.module(SOURCE, ["add"])
    with gpu.stream() as stream, gpu.host_memory(64, mapped=True) as mapped:
        mapped.array[:] = np.arange(64)
        add(kernels, stream, mapped.address, mapped.address, 64, 1.0)
        stream.synchronize()
        assert mapped.array.tolist() == list(range(1, 65))


def test_streams_wait_for_events_which_measure(gpu: Cuda) -> None:
    size = 1 << 26
    with (
        gpu.stream() as first,
        gpu.stream() as second,
        gpu.memory(size) as memory,
        gpu.event(timing=True) as start,
        gpu.event(timing=True) as end,
    ):
        first.record(start)
        for byte in range(20):
            first.fill(memory.address, byte, size)
        first.record(end)
        second.wait(end)
        assert down(second, memory.address + size - 4, 4).tolist() == [19] * 4
        end.synchronize()
        assert end.elapsed_ms(start) > 0


def test_work_is_captured_and_replayed(gpu: Cuda) -> None:
    if not gpu.has_graphs:
        pytest.skip("PyCUDA has no graphs")
    kernels = gpu.module(SOURCE, ["add"])
    with gpu.stream() as stream, gpu.host_memory(50) as source, gpu.memory(50) as memory, gpu.host_memory(50) as target:
        stream.begin_capture()
        stream.copy(memory.address, source.address, 50)
        add(kernels, stream, memory.address, memory.address, 50, 5.0)
        stream.copy(target.address, memory.address, 50)
        with stream.end_capture() as graph:
            for value in (1, 2):
                source.array[:] = value
                graph.launch(stream)
                stream.synchronize()
                assert target.array.tolist() == [value + 5] * 50


def test_a_capture_that_fails_leaves_the_stream(gpu: Cuda) -> None:
    if not gpu.has_graphs:
        pytest.skip("PyCUDA has no graphs")
    with gpu.stream() as stream, gpu.memory(8) as memory:
        stream.begin_capture()
        with pytest.raises(CudaError):
            stream.synchronize()  # which no graph can hold
        with pytest.raises(CudaError) as raised:
            stream.end_capture()
        assert not raised.value.fatal
        stream.fill(memory.address, 3, 8)
        assert down(stream, memory.address, 8).tolist() == [3] * 8


def test_memory_that_is_not_there_is_told_apart(gpu: Cuda) -> None:
    with pytest.raises(CudaMemoryError, match="there is not enough memory"):
        gpu.memory(2 * gpu.free_memory()[1])
    with gpu.stream() as stream, gpu.memory(8) as memory:
        stream.fill(memory.address, 3, 8)
        assert down(stream, memory.address, 8).tolist() == [3] * 8


def test_any_thread_may_use_it(gpu: Cuda) -> None:
    made: list[Any] = []

    def work() -> None:
        with gpu.stream() as stream:
            made.append(up(gpu, stream, np.full(8, 9, np.uint8)))
            stream.synchronize()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with gpu.stream() as stream, made[0] as memory:
        assert down(stream, memory.address, 8).tolist() == [9] * 8


ILLEGAL = """
import numpy as np
from ssd_edge.runtime.cuda.errors import CudaFatalError
from ssd_edge.runtime.cuda.find import open_cuda
source = 'extern "C" __global__ void f(int* x) { *x = 1; }'
try:
    with open_cuda() as gpu, gpu.memory(8), gpu.host_memory(8), gpu.event(), gpu.stream() as stream:
        kernel = gpu.module(source, ["f"])["f"]
        stream.launch(kernel, (1, 1, 1), (1, 1, 1), [np.uint64(4096)])
        stream.synchronize()
except CudaFatalError as error:
    print(error.fatal, error)
"""


def test_an_illegal_address_is_fatal_and_closing_adds_nothing(gpu: Cuda) -> None:
    result = subprocess.run([sys.executable, "-c", ILLEGAL], capture_output=True, text=True, timeout=120)
    assert result.stdout.startswith("True "), result.stderr
    assert "illegal" in result.stdout.lower()
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_frames_of_other_libraries_are_read_in_place(gpu: Cuda, library: str) -> None:
    module = pytest.importorskip(library)
    content = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    if library == "torch":
        if not module.cuda.is_available():
            pytest.skip("PyTorch without CUDA")
        whole = module.from_numpy(content).to("cuda:0")
        address, flipped = whole.data_ptr(), whole.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    else:
        whole = module.asarray(content)
        address, flipped = whole.data.ptr, whole[:, ::-1]
    part = whole[:, 4:24]

    class ByInterface:
        __cuda_array_interface__ = part.__cuda_array_interface__

    with gpu.stream() as stream:
        for offered in (part, ByInterface()):
            assert is_device_frame(offered)
            frame = device_frame(offered, gpu, stream)
            assert (frame.address, frame.pitch, frame.height, frame.width) == (address + 12, 90, 20, 20)
            packed = np.zeros((20, 20, 3), np.uint8)
            stream.copy_rows(packed.ctypes.data, 60, frame.address, frame.pitch, 60, 20)
            stream.synchronize()
            assert np.array_equal(packed, content[:, 4:24])
        with pytest.raises(ImageError, match="make it contiguous"):
            device_frame(flipped, gpu, stream)


def test_an_address_of_the_processor_is_no_frame(gpu: Cuda) -> None:
    if not gpu.has_graphs:
        pytest.skip("PyCUDA cannot tell")
    content = np.zeros((4, 5, 3), np.uint8)

    class Liar:
        __cuda_array_interface__ = content.__array_interface__ | {"version": 3}

    with gpu.stream() as stream, pytest.raises(ImageError, match="on no GPU that CUDA knows"):
        device_frame(Liar(), gpu, stream)


def test_the_context_is_pytorchs(gpu: Cuda) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch without CUDA")
    theirs = torch.cuda.Stream()
    with gpu.stream() as stream, gpu.memory(1 << 20) as memory:
        with torch.cuda.stream(theirs):
            tensor = torch.zeros(1 << 20, dtype=torch.uint8, device="cuda:0")
            for _ in range(50):
                tensor += 1
        stream.wait_stream(theirs.cuda_stream)
        stream.copy(memory.address, tensor.data_ptr(), 1 << 20)
        assert set(down(stream, memory.address, 1 << 20).tolist()) == {50}
        ours = torch.cuda.ExternalStream(stream.handle)
        with torch.cuda.stream(ours):
            tensor.fill_(7)
        assert set(down(stream, tensor.data_ptr(), 16).tolist()) == {7}
    assert int(tensor[0]) == 7, "PyTorch goes on after we have closed"
