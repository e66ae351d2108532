"""Frames on the GPU are taken as they lie, or refused: with arrays that say the processor's memory is a GPU's."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ssd_edge.images import ImageError
from ssd_edge.runtime.colours import BT601
from ssd_edge.runtime.cuda.device_frames import DEFAULT_STREAM, Chroma, Nv12Frame, is_device_frame
from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.cuda.preprocess import Plane
from tests.fakes.device_arrays import (
    CPU,
    CUDA,
    CUDA_HOST,
    MANAGED,
    ByDlpack,
    ByInterface,
    FakeGpu,
    FakeStream,
    NoArguments,
    NoStream,
    OddStream,
    RefusesStream,
    frame_of,
    take,
)


@pytest.mark.parametrize("offer", [ByInterface, ByDlpack])
@pytest.mark.parametrize(("margin", "pitch"), [(0, 15), (2, 21)])
def test_a_frame_is_taken_as_it_lies(offer: Any, margin: int, pitch: int) -> None:
    array = frame_of(4, 5, margin)
    frame = take(offer(array))
    assert (frame.address, frame.pitch, frame.height, frame.width, frame.device) == (array.ctypes.data, pitch, 4, 5, 0)


@pytest.mark.parametrize("offer", [ByInterface, ByDlpack])
@pytest.mark.parametrize(
    ("array", "pitch"),
    [
        (frame_of(1, 5), 15),
        (frame_of(4, 1, 3), 12),
        (np.zeros((2, 5, 3), np.uint8)[::-1][:1], 15),  # one row: how far the next would be does not matter
        (np.zeros((4, 2, 3), np.uint8)[:, ::2], 6),  # one column: as with pixels
    ],
)
def test_strides_of_what_is_there_once_do_not_matter(offer: Any, array: np.ndarray, pitch: int) -> None:
    assert take(offer(array)).pitch == pitch


@pytest.mark.parametrize("offer", [ByInterface, ByDlpack])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"a BGR frame .* expected uint8 \[height, width, 3\] with"),
        (np.zeros((4, 5), np.uint8), r"shape \[4, 5\]; expected"),
        (np.zeros((1, 4, 5, 3), np.uint8), r"shape \[1, 4, 5, 3\]; expected"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \[3, 4, 5\]; expected"),
        (np.zeros((4, 5, 4), np.uint8), r"shape \[4, 5, 4\]; expected"),
        (np.zeros((0, 5, 3), np.uint8), "at least one pixel"),
        (np.zeros((4, 0, 3), np.uint8), "at least one pixel"),
        (
            np.zeros((4, 5, 4), np.uint8)[..., :3],
            r"strides of \[20, 4, 1\] bytes; expected \[3, 1\] within rows at least 15",
        ),
        (np.zeros((4, 5, 3), np.uint8)[..., ::-1], r"strides of \[15, 3, -1\] bytes"),
        (np.zeros((4, 5, 3), np.uint8)[:, ::-1], r"strides of \[15, -3, 1\] bytes"),
        (np.zeros((4, 5, 3), np.uint8)[::-1], r"strides of \[-15, 3, 1\] bytes"),
        (np.zeros((3, 4, 5), np.uint8).transpose(1, 2, 0), r"strides of \[5, 1, 20\] bytes.*make it contiguous"),
        (np.broadcast_to(np.zeros((1, 5, 3), np.uint8), (4, 5, 3)), r"strides of \[0, 3, 1\] bytes"),
    ],
)
def test_what_the_kernel_cannot_read_is_refused(offer: Any, array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        take(offer(array))


@pytest.mark.parametrize("kind", [(0, 8, 1), (1, 16, 1), (1, 8, 3)])
def test_other_types_of_dlpack_are_refused(kind: tuple[int, int, int]) -> None:
    with pytest.raises(ImageError, match="expected uint8"):
        take(ByDlpack(frame_of(4, 5), kind=kind))


def test_signed_bytes_are_refused() -> None:
    with pytest.raises(ImageError, match=r"type \|i1"):
        take(ByInterface(np.zeros((4, 5, 3), np.int8)))


def test_both_versions_of_dlpack_and_managed_memory() -> None:
    for versioned in (True, False):
        array = frame_of(4, 5, 1)
        offered = ByDlpack(array, (MANAGED, 0), versioned=versioned)
        offered.offset = 6
        frame = take(offered)
        assert (frame.address, frame.pitch) == (array.ctypes.data, 18)
        assert offered.asked == [{"stream": 77} | ({"max_version": (1, 0)} if versioned else {})]


def test_a_dlpack_from_the_future_or_consumed_is_refused() -> None:
    offered = ByDlpack(frame_of(4, 5))
    offered.version = (2, 0)
    with pytest.raises(ImageError, match="DLPack 2; expected version 0 or 1"):
        take(offered)
    used = type("Used", (ByDlpack,), {"name": b"used_dltensor"})(frame_of(4, 5))
    with pytest.raises(ImageError, match=r"'used_dltensor'.*nothing has consumed"):
        take(used)


def test_what_does_not_give_its_memory_says_why() -> None:
    offered = ByDlpack(frame_of(4, 5))
    offered.error = BufferError("Can't export tensors that require gradient")
    with pytest.raises(ImageError, match="a ByDlpack that does not give its memory: Can't export tensors"):
        take(offered)


@pytest.mark.parametrize("offer", [NoArguments, NoStream, RefusesStream, OddStream])
def test_all_work_is_waited_for_where_no_stream_is_taken(offer: Callable[..., ByDlpack]) -> None:
    gpu = FakeGpu()
    array, luma, chroma = frame_of(4, 5, 1), np.zeros((4, 11), np.uint8)[:, :6], np.zeros((2, 3, 2), np.uint8)
    waits_when_given = []

    def offered(array: np.ndarray) -> ByDlpack:
        plane = offer(array, versioned=False)
        plane.on_given = lambda: waits_when_given.append(gpu.waits)
        return plane

    frame = take(offered(array), gpu)
    assert (frame.address, frame.pitch) == (array.ctypes.data, 18)
    frame = take(Nv12Frame(offered(luma), offered(chroma)), gpu)
    assert (frame.address, frame.pitch, frame.height, frame.width) == (luma.ctypes.data, 11, 4, 6)
    assert frame.chroma == Chroma(Plane(chroma.ctypes.data, 6, 2, 3), BT601)
    assert waits_when_given == [1, 2, 3]
    take(ByDlpack(array), gpu)  # takes a stream
    assert gpu.waits == 3


def test_an_array_that_cannot_name_its_device_says_why() -> None:
    class OtherHardware(ByDlpack):
        """A plane of PyAV that another device decoded."""

        def __dlpack_device__(self) -> tuple[int, int]:
            raise NotImplementedError("DLPack export is only implemented for CUDA hw frames")

    offered = OtherHardware(frame_of(4, 5))
    assert is_device_frame(offered)
    with pytest.raises(ImageError, match="a OtherHardware that does not give its memory: DLPack export is only"):
        take(offered)


@pytest.mark.parametrize("offer", [ByInterface, ByDlpack, NoArguments, NoStream])
def test_a_stream_that_is_named_is_waited_for_instead(offer: Callable[..., Any]) -> None:
    gpu, on = FakeGpu(), FakeStream()
    luma, chroma = np.zeros((4, 6), np.uint8), np.zeros((2, 6), np.uint8)
    take(Nv12Frame(offer(luma), offer(chroma), stream=DEFAULT_STREAM), gpu, on)
    assert (gpu.waits, on.waited) == (0, [1])


@pytest.mark.parametrize(("stream", "waited"), [(None, []), (1, [1]), (2, [2]), (0x7F00, [0x7F00])])
def test_the_interfaces_stream_is_waited_for(stream: int | None, waited: list[int]) -> None:
    on = FakeStream()
    take(ByInterface(frame_of(4, 5), stream=stream), stream=on)
    assert on.waited == waited
    take(ByInterface(frame_of(4, 5)), stream=on)  # version 2 has none
    assert on.waited == waited


def test_another_gpu_is_refused() -> None:
    message = r"a frame on GPU 1, and the detector runs on GPU 0; move it there, such as frame\.to\('cuda:0'\)"
    offered = ByDlpack(frame_of(4, 5), (CUDA, 1))
    with pytest.raises(ImageError, match=message):
        take(offered)
    assert offered.asked == [], "asked for before it was refused"
    with pytest.raises(ImageError, match=message):
        take(ByInterface(frame_of(4, 5)), FakeGpu(1))
    assert take(ByInterface(frame_of(4, 5)), FakeGpu(None)).device == 0


def test_an_address_that_cuda_does_not_know_is_refused() -> None:
    with pytest.raises(ImageError, match="memory is on no GPU that CUDA knows: cuPointerGetAttribute failed"):
        take(ByInterface(frame_of(4, 5)), FakeGpu(CudaError("cuPointerGetAttribute failed")))


def test_memory_of_the_processor_goes_the_other_way() -> None:
    for frame in (frame_of(4, 5), ByDlpack(frame_of(4, 5), (CPU, 0)), ByDlpack(frame_of(4, 5), (CUDA_HOST, 0)), "text"):
        assert not is_device_frame(frame)
        with pytest.raises(ImageError, match=r"in the processor's memory, not on a GPU; give it as a NumPy array"):
            take(frame)
    assert is_device_frame(ByInterface(frame_of(4, 5)))
    assert is_device_frame(ByDlpack(frame_of(4, 5)))


def test_pytorchs_capsules_are_read_and_its_tensors_on_the_cpu_refused() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros((4, 7, 3), dtype=torch.uint8)[:, :5]
    assert not is_device_frame(tensor)
    with pytest.raises(ImageError, match="a Tensor in the processor's memory"):
        take(tensor)

    offered = SimpleNamespace(
        __dlpack_device__=lambda: (CUDA, 0), __dlpack__=lambda stream, **options: tensor.__dlpack__(**options)
    )
    frame = take(offered)
    assert (frame.address, frame.pitch, frame.height, frame.width) == (tensor.data_ptr(), 21, 4, 5)


def test_numpys_read_only_capsules_are_read() -> None:
    array = frame_of(4, 5)
    array.flags.writeable = False
    offered = SimpleNamespace(
        __dlpack_device__=lambda: (CUDA, 0), __dlpack__=lambda stream, **options: array.__dlpack__(**options)
    )
    if np.lib.NumpyVersion(np.__version__) < "2.1.0":
        pytest.skip("this NumPy gives no read-only memory by DLPack")
    assert take(offered).address == array.ctypes.data


@pytest.mark.parametrize("offer", [ByInterface, "torch"])
def test_the_owner_is_kept_as_long_as_the_frame(offer: Any) -> None:
    if offer == "torch":
        torch = pytest.importorskip("torch")
        array = np.zeros((4, 5, 3), np.uint8)
        alive = weakref.ref(array)
        tensor = torch.from_numpy(array)
        offered: Any = SimpleNamespace(
            __dlpack_device__=lambda: (CUDA, 0), __dlpack__=lambda stream, **options: tensor.__dlpack__(**options)
        )
    else:
        array = frame_of(4, 5)
        offered = offer(array)
        alive = weakref.ref(offered)
    frame = take(offered)
    tensor = None
    del offered, array
    gc.collect()
    assert alive() is not None
    del frame
    gc.collect()
    assert alive() is None
