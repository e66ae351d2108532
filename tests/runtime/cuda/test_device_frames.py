"""Frames on the GPU are taken as they lie, or refused: with arrays that say the processor's memory is a GPU's."""

import ctypes
import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ssd_edge.images import ImageError
from ssd_edge.runtime.cuda.base import Cuda, Stream, capturing
from ssd_edge.runtime.cuda.device_frames import Chroma, DeviceFrame, Nv12Frame, device_frame, is_device_frame
from ssd_edge.runtime.cuda.dlpack import DlpackTensor, DlpackVersioned
from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.cuda.kernels import BT601, BT709

CPU, CUDA, CUDA_HOST, MANAGED = 1, 2, 3, 13
UINT8, FLOAT32 = (1, 8, 1), (2, 32, 1)


class FakeStream:
    handle = 77

    def __init__(self) -> None:
        self.waited: list[int] = []

    def wait_stream(self, handle: int) -> None:
        self.waited.append(handle)


class FakeGpu:
    """GPU 0; which GPU holds an address is as the test says."""

    ordinal = 0

    def __init__(self, holder: int | CudaError | None = 0) -> None:
        self.holder = holder
        self.waits = 0

    def synchronize(self) -> None:
        assert capturing.locked(), "it would break the capture of another thread"
        self.waits += 1

    def device_of(self, address: int) -> int | None:
        if isinstance(self.holder, CudaError):
            raise self.holder
        return self.holder


def take(frame: Any, gpu: Any = None, stream: Any = None) -> DeviceFrame:
    cuda: Cuda = gpu or FakeGpu()
    on: Stream = stream or FakeStream()
    return device_frame(frame, cuda, on)


class ByInterface:
    """An array with `__cuda_array_interface__`, version 3."""

    def __init__(self, array: np.ndarray, **changes: Any) -> None:
        self.array = array
        interface = {"shape": array.shape, "typestr": array.dtype.str, "data": (array.ctypes.data, True), "version": 3}
        contiguous = array.flags.c_contiguous
        self.__cuda_array_interface__ = interface | {"strides": None if contiguous else array.strides} | changes


class ByDlpack:
    """An array with `__dlpack__`, whose capsules are made by hand; it counts those that were freed."""

    def __init__(
        self, array: np.ndarray, device: tuple[int, int] = (CUDA, 0), *, kind: Any = None, versioned: bool = True
    ) -> None:
        self.array, self.device, self.versioned = array, device, versioned
        self.kind = kind or {"u": UINT8, "f": FLOAT32}[array.dtype.kind]
        self.version = (1, 1)
        self.offset = 0
        self.error: Exception | None = None
        self.on_given: Callable[[], object] = lambda: None
        self.asked: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: Any) -> Any:
        if not self.versioned and "max_version" in options:
            raise TypeError("unexpected keyword argument 'max_version'")
        if self.error:
            raise self.error
        self.asked.append(options)
        self.on_given()
        numbers = ctypes.c_int64 * self.array.ndim
        strides = (
            None if self.array.flags.c_contiguous else numbers(*[s // self.array.itemsize for s in self.array.strides])
        )
        self.numbers = numbers(*self.array.shape), strides
        tensor = DlpackTensor(self.array.ctypes.data - self.offset, *self.device, self.array.ndim, *self.kind)
        tensor.shape, tensor.byte_offset = self.numbers[0], self.offset
        if strides is not None:
            tensor.strides = strides
        if self.versioned:
            self.managed: Any = DlpackVersioned(self.version, None, None, 1, tensor)  # read-only
        else:
            self.managed = tensor
        return new_capsule(ctypes.addressof(self.managed), self.name, None)

    @property
    def name(self) -> bytes:
        return b"dltensor_versioned" if self.versioned else b"dltensor"


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


def frame_of(height: int, width: int, margin: int = 0) -> np.ndarray:
    """uint8 [height, width, 3], a cut of rows that are wider by `margin` pixels."""
    return np.zeros((height, width + margin, 3), np.uint8)[:, :width]


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


class NoArguments(ByDlpack):
    """The first form of the protocol."""

    def __dlpack__(self) -> Any:  # type: ignore[override]
        return super().__dlpack__()


class NoStream(ByDlpack):
    """A plane of PyAV 18.1 on the GPU (av/video/plane.py): neither versions nor streams."""

    refusal: Exception = NotImplementedError(
        "CUDA stream synchronization is not supported. Pass stream=None and synchronize before calling __dlpack__."
    )

    def __dlpack__(self, *, stream: int | None = None) -> Any:  # type: ignore[override]
        if stream is not None:
            raise self.refusal
        return super().__dlpack__()


class RefusesStream(NoStream):
    refusal = BufferError("stream must be None")


class OddStream(NoStream):
    refusal = ValueError("stream must be one of ours")


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
    assert frame.chroma == Chroma(chroma.ctypes.data, 6, BT601)
    assert waits_when_given == [1, 2, 3]
    take(ByDlpack(array), gpu)  # takes a stream
    assert gpu.waits == 3


@pytest.mark.parametrize(
    ("attributes", "found"),
    [({"sw_format": SimpleNamespace(name="yuv444p")}, "yuv444p"), ({}, "3 planes")],  # PyAV 17.1 names no format
)
def test_hardware_frames_of_other_formats_say_what_they_are(attributes: dict[str, Any], found: str) -> None:
    planes = tuple(NoStream(np.zeros((4, 6), np.uint8)) for _ in range(3))
    frame = SimpleNamespace(format=SimpleNamespace(name="cuda"), planes=planes, **attributes)
    assert is_device_frame(frame)
    with pytest.raises(ImageError, match=f"a frame of PyAV in {found} on the GPU; expected nv12"):
        take(frame)


def test_an_array_that_cannot_name_its_device_says_why() -> None:
    class OtherHardware(ByDlpack):
        """A plane of PyAV that another device decoded."""

        def __dlpack_device__(self) -> tuple[int, int]:
            raise NotImplementedError("DLPack export is only implemented for CUDA hw frames")

    offered = OtherHardware(frame_of(4, 5))
    assert is_device_frame(offered)
    with pytest.raises(ImageError, match="a OtherHardware that does not give its memory: DLPack export is only"):
        take(offered)


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


@pytest.mark.parametrize("offer", [ByInterface, ByDlpack])
@pytest.mark.parametrize("luma_shape", [(4, 6), (4, 6, 1)])  # the latter in PyNvVideoCodec
@pytest.mark.parametrize("chroma_shape", [(2, 3, 2), (2, 6)])
def test_nv12_in_two_arrays(offer: Any, luma_shape: tuple[int, ...], chroma_shape: tuple[int, ...]) -> None:
    luma = np.lib.stride_tricks.as_strided(np.zeros((4, 11), np.uint8), luma_shape, (11, 1, 1)[: len(luma_shape)])
    chroma = np.zeros((2, 7 * 2), np.uint8)[:, :6].reshape(chroma_shape)
    chroma = np.lib.stride_tricks.as_strided(chroma, strides=(14, *chroma.strides[1:]))
    given = Nv12Frame(offer(luma), offer(chroma), BT709)
    assert is_device_frame(given)
    frame = take(given)
    assert (frame.address, frame.pitch, frame.height, frame.width) == (luma.ctypes.data, 11, 4, 6)
    assert frame.chroma == Chroma(chroma.ctypes.data, 14, BT709)


@pytest.mark.parametrize("offer", [ByInterface, ByDlpack])
@pytest.mark.parametrize(("margin", "pitch"), [(0, 8), (3, 11)])
def test_nv12_in_one_array(offer: Any, margin: int, pitch: int) -> None:
    planes = np.zeros((9, 8 + margin), np.uint8)[:, :8]
    frame = take(Nv12Frame(offer(planes)))
    assert (frame.address, frame.pitch, frame.height, frame.width) == (planes.ctypes.data, pitch, 6, 8)
    assert frame.chroma == Chroma(planes[6:].ctypes.data, pitch, BT601)


@pytest.mark.parametrize("offer", [ByInterface, ByDlpack])
@pytest.mark.parametrize(
    ("luma", "chroma", "message"),
    [
        (np.zeros((4, 6, 3), np.uint8), None, r"the luma .* shape \[4, 6, 3\]; expected uint8 \[height, width\]"),
        (np.zeros((4, 6), np.float32), np.zeros((2, 6), np.uint8), "the luma of an NV12 frame on the GPU of type"),
        (np.zeros((4, 6), np.uint8), np.zeros((2, 6), np.float32), "the chroma of an NV12 frame on the GPU of type"),
        (np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8), r"expected uint8 \[2, 3, 2\] or \[2, 6\] with"),
        (np.zeros((4, 6), np.uint8), np.zeros((2, 3), np.uint8), r"shape \[2, 3\]; expected"),
        (np.zeros((4, 6), np.uint8), np.zeros((2, 2, 3), np.uint8), r"shape \[2, 2, 3\]; expected"),
        (np.zeros((0, 6), np.uint8), None, "at least one pixel"),
        (np.zeros((4, 6), np.uint8), None, r"one array of shape \[4, 6\]; expected \[height · 3/2, width\]"),
        (np.zeros((6, 5), np.uint8), None, "5×4; its sides have to be even"),
        (np.zeros((5, 6), np.uint8), np.zeros((2, 6), np.uint8), "6×5; its sides have to be even"),
        (np.zeros((4, 12), np.uint8)[:, ::2], np.zeros((2, 6), np.uint8), r"luma .* strides of \[12, 2\] bytes"),
        (np.zeros((4, 6), np.uint8)[::-1], np.zeros((2, 6), np.uint8), r"luma .* strides of \[-6, 1\] bytes"),
        (np.zeros((4, 6), np.uint8), np.zeros((2, 2, 3), np.uint8).swapaxes(1, 2), r"chroma .* \[6, 1, 3\] bytes"),
    ],
)
def test_what_is_no_nv12_is_refused(offer: Any, luma: np.ndarray, chroma: np.ndarray | None, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        take(Nv12Frame(offer(luma), None if chroma is None else offer(chroma)))


def test_both_planes_are_of_this_gpu_and_waited_for() -> None:
    luma, chroma = np.zeros((4, 6), np.uint8), np.zeros((2, 6), np.uint8)
    with pytest.raises(ImageError, match="a frame on GPU 1, and the detector runs on GPU 0"):
        take(Nv12Frame(ByDlpack(luma), ByDlpack(chroma, (CUDA, 1))))
    for planes in ((luma, ByInterface(chroma)), (ByInterface(luma), chroma)):
        with pytest.raises(ImageError, match=r"a ndarray in the processor's memory.*COLOR_YUV2BGR_NV12"):
            take(Nv12Frame(*planes))
    on = FakeStream()
    take(Nv12Frame(ByInterface(luma, stream=1), ByInterface(chroma, stream=5)), stream=on)
    assert on.waited == [1, 5]


def test_both_planes_are_kept_as_long_as_the_frame() -> None:
    planes = ByInterface(np.zeros((4, 6), np.uint8)), ByInterface(np.zeros((2, 6), np.uint8))
    alive = [weakref.ref(plane) for plane in planes]
    frame = take(Nv12Frame(*planes))
    del planes
    gc.collect()
    assert all(each() is not None for each in alive)
    del frame
    gc.collect()
    assert all(each() is None for each in alive)


def test_pytorchs_capsules_are_read_and_its_tensors_on_the_cpu_refused() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros((4, 7, 3), dtype=torch.uint8)[:, :5]
    assert not is_device_frame(tensor)
    with pytest.raises(ImageError, match="a Tensor in the processor's memory"):
        take(tensor)

    class OnGpu:
        """The tensor, were it on a GPU."""

        def __dlpack_device__(self) -> tuple[int, int]:
            return (CUDA, 0)

        def __dlpack__(self, stream: int, **options: Any) -> Any:
            return tensor.__dlpack__(**options)

    frame = take(OnGpu())
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
