"""`Slot`: what one batch under way on the GPU has for itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.runtime.cuda.base import Cuda, Graph, Resource, Stream
from ssd_edge.runtime.cuda.device_frames import Chroma, DeviceFrame
from ssd_edge.runtime.cuda.preprocess import Plane
from ssd_edge.runtime.pixels import YuvPlanes, size_hw_of

Frame = NDArray[np.uint8] | YuvPlanes | DeviceFrame
ALIGNMENT = 256  # bytes, between the starts of frames in one piece of memory


class Placed(NamedTuple):
    """Frames where the GPU will find them, and how many bytes of them are still to be uploaded."""

    frames: Sequence[DeviceFrame]
    upload_bytes: int


class Slot(Resource):
    """What one part of a batch uses alone while it is under way: memory, events and graphs.

    Attributes:
        frames: held until the GPU has read them.
        results: pinned memory that results are copied to.
        uploaded, done: events.
        graphs: by batch size.

    Args:
        mapped: the GPU reads frames in the pinned memory itself.
    """

    def __init__(self, cuda: Cuda, results_bytes: int, mapped: bool) -> None:
        self._cuda = cuda
        self._mapped = mapped
        self._open, self._staged = ExitStack(), ExitStack()
        self._capacity = 0  # bytes of frames
        self.frames: Sequence[DeviceFrame] = ()
        self.graphs: dict[int, Graph] = {}
        self.results = self._open.enter_context(cuda.host_memory(results_bytes))
        self.uploaded = self._open.enter_context(cuda.event())
        self.done = self._open.enter_context(cuda.event())

    @property
    def sizes_hw(self) -> list[tuple[int, int]]:
        return [(frame.height, frame.width) for frame in self.frames]

    def place(self, frames: Sequence[Frame]) -> Placed:
        """Copy those in the processor's memory into pinned memory."""
        self._reserve(sum(_aligned(_size_of(frame)) for frame in frames if not isinstance(frame, DeviceFrame)))
        placed, end = [], 0
        for frame in frames:
            if not isinstance(frame, DeviceFrame):
                start, end = end, end + _aligned(_size_of(frame))
                frame = self._copied(frame, start)
            placed.append(frame)
        self.frames = placed
        return Placed(placed, 0 if self._mapped else end)

    def _copied(self, frame: NDArray[np.uint8] | YuvPlanes, start: int) -> DeviceFrame:
        """Copy a frame to an offset; YUV as luma and then u and v in turns, as NV12 has them."""
        address, device = self._frames_address + start, self._cuda.ordinal
        height, width = size_hw_of(frame)
        if isinstance(frame, np.ndarray):
            np.copyto(self._staging.array[start:][: frame.size].reshape(frame.shape), frame)
            return DeviceFrame(address, 3 * width, height, width, device, owner=None)
        luma, chroma = frame.luma, frame.chroma
        np.copyto(self._staging.array[start:][: luma.size].reshape(luma.shape), luma)
        uv_hw = chroma[0].shape[:2]
        uv = self._staging.array[start + luma.size :][: 2 * uv_hw[0] * uv_hw[1]].reshape(*uv_hw, 2)
        if len(chroma) == 1:
            np.copyto(uv, chroma[0])
        else:
            cv2.merge(chroma, dst=uv)
        plane = Plane(address + luma.size, 2 * uv_hw[1], *uv_hw)
        return DeviceFrame(address, width, height, width, device, owner=None, chroma=Chroma(plane, frame.colours))

    def upload(self, stream: Stream, size: int) -> None:
        """Put the copy of the first bytes of pinned memory to the GPU on a stream."""
        stream.copy(self._frames_address, self._staging.address, size)

    def forget_graphs(self) -> None:
        """Free them; none may be running."""
        while self.graphs:
            self.graphs.popitem()[1].close()

    def close(self) -> None:
        self.forget_graphs()
        self._staged.close()
        self._open.close()

    def _reserve(self, size: int) -> None:
        """Make memory for so many bytes of frames."""
        if size <= self._capacity:
            return
        self._staged.close()
        self._capacity = 0  # until all of it is there
        self._staging = self._staged.enter_context(self._cuda.host_memory(size, mapped=self._mapped))
        on_gpu = self._staging if self._mapped else self._staged.enter_context(self._cuda.memory(size))
        self._frames_address = on_gpu.address
        self._capacity = size


def _size_of(frame: NDArray[np.uint8] | YuvPlanes) -> int:
    """Bytes of its pixels."""
    return frame.size if isinstance(frame, np.ndarray) else frame.luma.size + sum(plane.size for plane in frame.chroma)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
