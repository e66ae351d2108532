"""`DeviceFrame`: a frame that is already on the GPU, taken from another library's arrays without a copy.

PyTorch, CuPy, PyCUDA, PyAV, PyNvVideoCodec and jetson-utils offer such arrays through DLPack
(https://dmlc.github.io/dlpack/latest/) or the CUDA array interface
(https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from ssd_edge.images import ImageError
from ssd_edge.runtime.colours import BT601, YuvColours, colours_of_ffmpeg
from ssd_edge.runtime.cuda.base import Cuda, Stream, capturing
from ssd_edge.runtime.cuda.dlpack import DLPACK_CUDA, DLPACK_CUDA_MANAGED, DLPACK_UINT8, tensor_of
from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.cuda.preprocess import Plane

DEFAULT_STREAM = 1  # CU_STREAM_LEGACY
REFUSALS = (BufferError, RuntimeError, TypeError, ValueError)  # what exporters raise when they do not give their memory


@dataclass(frozen=True, eq=False)
class Nv12Frame:
    """A frame on the GPU in NV12, the format of video decoders, for detectors that run there.

    Each array has `__dlpack__` or `__cuda_array_interface__`; its rows may lie any pitch apart.

    Attributes:
        luma: uint8 [H, W] or [H, W, 1], both even. Without chroma: uint8 [H·3/2, W], with the chroma in its last third.
        chroma: uint8 [H/2, W/2, 2] or [H/2, W], u then v.
        colours: what the video says of itself: `BT601`, `BT709`, `BT601_FULL`, `BT709_FULL` of `runtime.colours`.
        stream: the `cudaStream_t` on which the frame is made, such as `DEFAULT_STREAM`, for arrays that cannot wait
            for a stream themselves. None: each is asked to, and where it refuses, all work on the GPU is waited for.
    """

    luma: Any
    chroma: Any = None
    colours: YuvColours = BT601
    stream: int | None = None


class Chroma(NamedTuple):
    """The chroma of a frame in YUV, uint8 [height, width, 2], u then v; and what the numbers of the frame mean."""

    plane: Plane
    colours: YuvColours


@dataclass(frozen=True)
class DeviceFrame:
    """A frame on the GPU, whose rows lie `pitch` bytes apart: uint8 [height, width, 3] BGR, or [height, width] luma.

    Attributes:
        address: of its first byte.
        pitch: bytes from row to row.
        device: number of its GPU.
        owner: what keeps the memory; to be held until the work on the frame is done.
        chroma: of a frame in YUV, such as NV12; None: it is BGR.
    """

    address: int
    pitch: int
    height: int
    width: int
    device: int
    owner: Any
    chroma: Chroma | None = None


def is_device_frame(frame: Any) -> bool:
    """Whether an object offers memory of a GPU, or cannot tell, which `device_frame` then reports."""
    if isinstance(frame, Nv12Frame) or _is_hardware_frame(frame):
        return True
    try:
        return _has_cuda_dlpack(frame) or hasattr(frame, "__cuda_array_interface__")
    except REFUSALS:
        return True


def device_frame(frame: Any, cuda: Cuda, stream: Stream) -> DeviceFrame:
    """Take a frame that is on the GPU. What `stream` does from here on waits for the work that makes the frame.

    Args:
        frame: an `Nv12Frame`, PyAV's `VideoFrame` in format `cuda`, or uint8 [H, W, 3] BGR with `__dlpack__` or
            `__cuda_array_interface__`; its rows may lie any pitch apart.

    Raises:
        ImageError: another type or shape, no pixels, pixels that are not side by side, memory of the processor, or of
            another GPU, or memory that its owner does not give.
        CudaError: work that makes the frame failed.
    """
    if _is_hardware_frame(frame):
        frame = _nv12_of(frame)
    if isinstance(frame, Nv12Frame):
        return _from_nv12(frame, cuda, stream)
    pixels = _take(frame, cuda, stream, "a BGR frame", ("height", "width", 3))
    height, width, _ = pixels.shape
    return DeviceFrame(pixels.address, pixels.pitch, height, width, cuda.ordinal, pixels.owner)


def _is_hardware_frame(frame: Any) -> bool:
    """Whether it is PyAV's `VideoFrame` on the GPU."""
    return getattr(getattr(frame, "format", None), "name", None) == "cuda"


def _nv12_of(frame: Any) -> Nv12Frame:
    """PyAV's frame by its planes; colours that the video does not name are BT.601's, as libswscale takes them."""
    planes = frame.planes
    sw_format = getattr(frame, "sw_format", None)  # since PyAV 18; without it, the planes' types and shapes tell
    if len(planes) != 2 or (sw_format is not None and sw_format.name != "nv12"):
        found = f"{len(planes)} planes" if sw_format is None else sw_format.name
        raise ImageError(
            f"a frame of PyAV in {found} on the GPU; expected nv12: take a video of 8 bits with 4:2:0 chroma, or "
            "decode on the processor"
        )
    luma, chroma = planes
    return Nv12Frame(luma, chroma, colours_of_ffmpeg(frame.colorspace, frame.color_range))


def _from_nv12(frame: Nv12Frame, cuda: Cuda, stream: Stream) -> DeviceFrame:
    waiting: Stream | None = stream
    if frame.stream is not None:
        stream.wait_stream(frame.stream)
        waiting = None
    shapes: tuple[Shape, ...] = (("height", "width"), ("height", "width", 1))  # the latter in PyNvVideoCodec
    luma = _take(frame.luma, cuda, waiting, "the luma of an NV12 frame", *shapes)
    rows, width = luma.shape[:2]
    if frame.chroma is not None:
        height = rows
        _check_nv12_size(height, width)
        shapes = (height // 2, width // 2, 2), (height // 2, width)
        chroma = _take(frame.chroma, cuda, waiting, "the chroma of an NV12 frame", *shapes)
    else:
        height = rows * 2 // 3
        if rows % 3:
            raise ImageError(
                f"an NV12 frame in one array of shape {list(luma.shape)}; expected [height · 3/2, width]: luma, then "
                "half as many rows of chroma; or give luma and chroma as two arrays"
            )
        _check_nv12_size(height, width)
        chroma = luma._replace(address=luma.address + height * luma.pitch)
    owners = luma.owner, chroma.owner
    plane = Plane(chroma.address, chroma.pitch, height // 2, width // 2)
    where = Chroma(plane, frame.colours)
    return DeviceFrame(luma.address, luma.pitch, height, width, cuda.ordinal, owners, where)


def _check_nv12_size(height: int, width: int) -> None:
    if height % 2 or width % 2:
        raise ImageError(f"an NV12 frame of {width}×{height}; its sides have to be even: crop the frame, or take BGR")


class _Array(NamedTuple):
    """uint8 on the GPU: along the first axis `pitch` bytes apart, otherwise contiguous."""

    address: int
    pitch: int
    shape: tuple[int, ...]
    owner: Any


Shape = tuple[int | str, ...]  # a word stands for any length


def _take(array: Any, cuda: Cuda, stream: Stream | None, name: str, *shapes: Shape) -> _Array:
    """
    Args:
        stream: that is to wait for the work that makes the array; None: it does already.
        name: of the array in messages.
        shapes: allowed ones.
    """
    with _asked(array):
        is_dlpack = _has_cuda_dlpack(array)
    if is_dlpack:
        return _from_dlpack(array, cuda, stream, name, shapes)
    if hasattr(array, "__cuda_array_interface__"):
        return _from_array_interface(array, cuda, stream, name, shapes)
    raise ImageError(
        f"{name} is a {type(array).__name__} in the processor's memory, not on a GPU; give it as a NumPy array in BGR, "
        "such as numpy.asarray(frame) or cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_NV12)"
    )


def _has_cuda_dlpack(array: Any) -> bool:
    return hasattr(array, "__dlpack_device__") and array.__dlpack_device__()[0] in (DLPACK_CUDA, DLPACK_CUDA_MANAGED)


def _from_array_interface(array: Any, cuda: Cuda, stream: Stream | None, name: str, shapes: Sequence[Shape]) -> _Array:
    with _asked(array):
        interface = array.__cuda_array_interface__
    kind, address = str(interface["typestr"]), int(interface["data"][0])
    shape = tuple(int(length) for length in interface["shape"])
    _check_shape(shape, kind[1:] == "u1", kind, name, shapes)
    pitch = _pitch(shape, interface.get("strides"), name)
    try:
        device = cuda.device_of(address)
    except CudaError as error:
        raise ImageError(f"a {type(array).__name__} whose memory is on no GPU that CUDA knows: {error}") from error
    _check_device(cuda.ordinal if device is None else device, cuda)
    if stream is not None and interface.get("stream") is not None:  # 1 and 2, the default streams, are handles too
        stream.wait_stream(int(interface["stream"]))
    return _Array(address, pitch, shape, array)


def _from_dlpack(array: Any, cuda: Cuda, stream: Stream | None, name: str, shapes: Sequence[Shape]) -> _Array:
    _check_device(array.__dlpack_device__()[1], cuda)
    capsule = _capsule(array, cuda, stream)
    tensor = tensor_of(capsule)
    kind, shape = (tensor.code, tensor.bits, tensor.lanes), tuple(tensor.shape[: tensor.ndim])
    _check_shape(shape, kind == DLPACK_UINT8, f"{kind} (DLPack)", name, shapes)
    pitch = _pitch(shape, tensor.strides[: tensor.ndim] if tensor.strides else None, name)  # in elements: bytes
    return _Array((tensor.data or 0) + tensor.byte_offset, pitch, shape, capsule)  # the capsule frees it at its end


def _capsule(array: Any, cuda: Cuda, stream: Stream | None) -> Any:
    """An array as a DLPack capsule whose memory `stream` may read from here on; None: it is waited for elsewhere."""
    if stream is None:
        with _asked(array):
            return array.__dlpack__()
    for options in ({"max_version": (1, 0)}, {}):  # version 1 also exports read-only memory; older ones do not know it
        try:
            return array.__dlpack__(stream=stream.handle, **options)
        except TypeError:
            continue
        except REFUSALS:
            break
    # PyAV's planes, among others, take no stream and do not say which stream writes them. So wait for all streams.
    with capturing:
        cuda.synchronize()
    with _asked(array):
        return array.__dlpack__()


@contextmanager
def _asked(array: Any) -> Iterator[None]:
    """Turn refusals of another library's array into `ImageError`."""
    try:
        yield
    except REFUSALS as error:
        raise ImageError(f"a {type(array).__name__} that does not give its memory: {error}") from error


def _check_device(device: int, cuda: Cuda) -> None:
    if device != cuda.ordinal:
        raise ImageError(
            f"a frame on GPU {device}, and the detector runs on GPU {cuda.ordinal}; move it there, such as "
            f"frame.to('cuda:{cuda.ordinal}')"
        )


def _check_shape(shape: tuple[int, ...], is_uint8: bool, kind: str, name: str, shapes: Sequence[Shape]) -> None:
    def fits(wanted: Shape) -> bool:
        pairs = zip(shape, wanted, strict=False)
        return len(shape) == len(wanted) and all(isinstance(word, str) or word == length for length, word in pairs)

    if not is_uint8 or 0 in shape or not any(map(fits, shapes)):
        expected = " or ".join(f"[{', '.join(map(str, wanted))}]" for wanted in shapes)
        raise ImageError(
            f"{name} on the GPU of type {kind} and shape {list(shape)}; expected uint8 {expected} with at least one "
            "pixel"
        )


def _pitch(shape: tuple[int, ...], strides: Sequence[int] | None, name: str) -> int:
    """Bytes from row to row.

    Args:
        strides: in bytes; None: all values lie side by side.
    """
    row_bytes, *inner = wanted = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    pitch, *steps = strides or wanted
    differ = any(step != one for step, one, length in zip(steps, inner, shape[1:], strict=True) if length > 1)
    if differ or (pitch < row_bytes and shape[0] > 1):
        raise ImageError(
            f"{name} on the GPU of shape {list(shape)} with strides of {[pitch, *steps]} bytes; expected {inner} "
            f"within rows at least {row_bytes} apart: make it contiguous, such as frame.contiguous() or "
            "cupy.ascontiguousarray(frame)"
        )
    return max(pitch, row_bytes)
