"""`runtime.nms` on the GPU: launches of the kernels in kernels.cu, and the memory that they need.

Nothing here waits for the GPU or allocates in a launch, so all of it can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.errors import UsageError
from ssd_edge.runtime.cuda.base import Cuda, Memory, Resource, Stream
from ssd_edge.runtime.cuda.kernels import u64

MOST_KEYS = 1024  # candidates, and detections: what fits into the 48 KiB of shared memory that every GPU has
WARP = 32
HISTOGRAM_BYTES = 2 * 4 * 512 + 16  # `histograms`, `found` and `taken` of kernels.cu's Selection
SCORES_PER_THREAD = 4  # `QUAD` of kernels.cu


class Nms(Resource):
    """`runtime.nms.nms` on the GPU for a batch, with equal results; boxes are clipped to the image.

    Three launches, for sizes that never change; kernels.cu says how they work. The results are one block of memory, so
    that one copy brings them to the processor: boxes float32 [batch, detections, 4] in fractions of the image, scores
    float32 [batch, detections], labels int32 [batch, detections], counts int32 [batch], zeros behind the last detection
    of an image.

    Args:
        kernels: of `Cuda.module`.
        threads: of a block, a multiple of 32, up to 1024; `nms_merge` has twice as many, as its grid has so few blocks.

    Attributes:
        output: address of the results.
        output_bytes: their size.

    Raises:
        UsageError: a size is out of range.
        CudaMemoryError: not enough memory; most of it is 8 bytes a score.
    """

    def __init__(
        self,
        cuda: Cuda,
        kernels: Mapping[str, Any],
        batch: int,
        anchors: int,
        classes: int,
        candidates: int,
        detections: int,
        *,
        threads: int = 512,
    ) -> None:
        for name, value in (("candidates", candidates), ("detections", detections)):
            if not 1 <= value <= MOST_KEYS:
                raise UsageError(
                    f"{value} {name}; suppression on the GPU takes 1 to {MOST_KEYS}: lower it in the "
                    "architecture's configuration, and export again"
                )
        if min(batch, anchors, classes) < 1 or anchors * classes >= 2**31 or batch > 65535:
            raise UsageError(
                f"a batch of {batch} with {anchors} anchors and {classes} classes; suppression on the GPU takes 1 to "
                "65535 images, and at least 1 but fewer than 2³¹ scores in each"
            )
        if threads % WARP or not WARP <= threads <= 1024:
            raise UsageError(f"a block of {threads} threads; expected a multiple of {WARP}, up to 1024")
        self._kernels = kernels
        self._batch, self._anchors, self._classes = batch, anchors, classes
        self._candidates, self._detections = min(candidates, anchors), detections
        self._kept_capacity = classes * min(self._candidates, detections)  # of an image
        self._threads = threads
        self._layout = np.dtype(
            [
                ("boxes", np.float32, (batch, detections, 4)),
                ("scores", np.float32, (batch, detections)),
                ("labels", np.int32, (batch, detections)),
                ("counts", np.int32, (batch,)),
            ]
        )
        self._offsets = np.cumsum([0, *(self._layout[part].itemsize for part in range(3))]).tolist()
        self.output_bytes = self._layout.itemsize
        self._open = ExitStack()
        try:
            self._counts = self._memory(cuda, 4 * batch * (classes + 1))  # [batch, classes] collected, [batch] kept
            self._keys = self._memory(cuda, 8 * batch * classes * anchors)
            self._kept = self._memory(cuda, 8 * batch * self._kept_capacity)
            self._output = self._memory(cuda, self.output_bytes)
        except BaseException:
            self.close()
            raise
        self.output = self._output.address

    def launch(
        self,
        stream: Stream,
        boxes: int,
        scores: int,
        *,
        score_threshold: float,
        iou_threshold: float,
        iou_epsilon: float = 0.0,
        clip_first: bool = True,
        batch: int | None = None,
    ) -> None:
        """Put it on a stream.

        Args:
            boxes: address of float32 [batch, anchors, 4], x0 y0 x1 y1 as fractions of the image; a multiple of 16.
            scores: address of float32 [batch, anchors, classes]; a multiple of 4.
            clip_first: boxes are clipped before they are compared; else only those that are kept.
            batch: how many images there are, where fewer than at most; the results of the others are not to be read.

        Raises:
            UsageError: a threshold below 0, an address that the kernels cannot read, or too many images.
        """
        batch = self._batch if batch is None else batch
        self._check_input(boxes, scores, batch)
        _check_thresholds(score_threshold, iou_threshold)
        boxes_at, anchors, classes = np.uint64(boxes), np.uint32(self._anchors), np.uint32(self._classes)
        limits = self._candidates, self._kept_capacity, self._detections
        candidates, kept_capacity, detections = map(np.uint32, limits)
        counts, keys, kept = u64(self._counts.address, self._keys.address, self._kept.address)
        kept_counts = np.uint64(self._counts.address + 4 * self._batch * self._classes)
        out = u64(*(self.output + offset for offset in self._offsets))
        block = (self._threads, 1, 1)

        # In front of an image's first score may lie others in the same 16 bytes.
        scores_and_gap = self._anchors * self._classes + SCORES_PER_THREAD - 1
        stream.fill(self._counts.address, 0, self._counts.size)
        stream.launch(
            self._kernels["nms_collect"],
            (-(-scores_and_gap // (SCORES_PER_THREAD * self._threads)), batch, 1),
            block,
            [boxes_at, np.uint64(scores), anchors, classes, np.float32(score_threshold), counts, keys],
        )
        corners = (0.0, 1.0) if clip_first else (-np.inf, np.inf)
        floats = map(np.float32, (iou_threshold, iou_epsilon, *corners))
        stream.launch(
            self._kernels["nms_suppress"],
            (self._classes, batch, 1),
            block,
            [boxes_at, anchors, candidates, kept_capacity, detections, *floats, counts, keys, kept_counts, kept],
            # Two keys a candidate, in whole warps; a box and a word a candidate, and a word a lane.
            shared_bytes=_selection_bytes(self._candidates) + 20 * self._candidates + 4 * WARP,
        )
        stream.launch(
            self._kernels["nms_merge"],
            (batch, 1, 1),
            (min(2 * self._threads, 1024), 1, 1),
            [boxes_at, anchors, kept_capacity, detections, kept_counts, kept, *out],
            shared_bytes=_selection_bytes(self._detections),
        )

    def read(self, output: NDArray[np.uint8], sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections from a copy of the results on the processor, which can be overwritten afterwards.

        Args:
            output: uint8 [output_bytes].
            sizes_hw: (height, width) of each frame in pixels; there may be fewer frames than images in the batch.

        Returns:
            One `Detections` a frame, boxes in pixels of that frame.
        """
        boxes, scores, labels, counts = output.view(self._layout)[0]
        found = []
        for image, (count, (height, width)) in enumerate(zip(counts, sizes_hw, strict=False)):
            scale = np.array([width, height, width, height], np.float32)
            found.append(
                Detections(
                    boxes[image, :count] * scale, scores[image, :count].copy(), labels[image, :count].astype(np.int64)
                )
            )
        return found

    def close(self) -> None:
        self._open.close()

    def _check_input(self, boxes: int, scores: int, batch: int) -> None:
        if boxes % 16:
            raise UsageError(f"boxes at address {boxes}; expected a multiple of 16: copy them to memory of their own")
        if scores % 4:
            raise UsageError(f"scores at address {scores}; expected a multiple of 4: copy them to memory of their own")
        if not 1 <= batch <= self._batch:
            raise UsageError(f"{batch} images; expected 1 to {self._batch}, for which the memory was made")

    def _memory(self, cuda: Cuda, size: int) -> Memory:
        return self._open.enter_context(cuda.memory(size))


def _check_thresholds(score_threshold: float, iou_threshold: float) -> None:
    if not (score_threshold >= 0 and iou_threshold >= 0):
        raise UsageError(f"thresholds {score_threshold} (score) and {iou_threshold} (IoU); expected 0 or above")


def _selection_bytes(limit: int) -> int:
    """Shared memory of kernels.cu's Selection."""
    return HISTOGRAM_BYTES + 2 * 8 * -(-limit // WARP) * WARP
