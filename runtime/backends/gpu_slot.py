"""`Slot`: what one batch under way on the GPU has for itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_edge.runtime.cuda.base import Cuda, Graph, Resource, Stream
from ssd_edge.runtime.cuda.device_frames import DeviceFrame

Frame = NDArray[np.uint8] | DeviceFrame
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
        self._reserve(sum(_aligned(frame.nbytes) for frame in frames if isinstance(frame, np.ndarray)))
        placed, end = [], 0
        for frame in frames:
            if isinstance(frame, np.ndarray):
                height, width = frame.shape[:2]
                np.copyto(self._staging.array[end : end + frame.nbytes].reshape(frame.shape), frame)
                address, device = self._frames_address + end, self._cuda.ordinal
                end += _aligned(frame.nbytes)
                frame = DeviceFrame(address, 3 * width, height, width, device, owner=None)
            placed.append(frame)
        self.frames = placed
        return Placed(placed, 0 if self._mapped else end)

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


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
