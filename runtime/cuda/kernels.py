"""What runs on the GPU around the network: launches of the kernels in kernels.cu, and the memory that they need.

Nothing here waits for the GPU or allocates in a launch, so all of it can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.errors import UsageError
from ssd_edge.images import ImageError
from ssd_edge.runtime.cuda.base import Cuda, Memory, Resource, Stream

KERNEL_SOURCE = Path(__file__).with_name("kernels.cu").read_text(encoding="utf-8")
KERNELS = ("preprocess_bgr", "preprocess_nv12", "nms_collect", "nms_suppress", "nms_merge")  # for `Cuda.module`

PIXEL_BLOCK = (32, 8)  # threads: a warp reads and writes along a row
MOST_KEYS = 1024  # candidates, and detections: what fits into the 48 KiB of shared memory that every GPU has
WARP = 32
HISTOGRAM_BYTES = 2 * 4 * 512 + 16  # `histograms`, `found` and `taken` of kernels.cu's Selection
SCORES_PER_THREAD = 4  # `QUAD` of kernels.cu


@dataclass(frozen=True)
class YuvColours:
    """How YUV becomes RGB, in fixed point: integers of `POINT` bits behind the point.

    Attributes:
        black: the luma of black; luma below it is black too.
        luma, u_to_b, u_to_g, v_to_g, v_to_r: factors of luma − black, and of u − 128 and v − 128.
    """

    black: int
    luma: int
    u_to_b: int
    u_to_g: int
    v_to_g: int
    v_to_r: int

    POINT = 20

    @classmethod
    def of(cls, red: float, blue: float, *, full_range: bool = False) -> YuvColours:
        """From the weights of red and blue in luma (ITU-R BT.601: 0.299, 0.114; BT.709: 0.2126, 0.0722).

        Args:
            full_range: luma and chroma take all of 0–255 (JPEG); else 16–235 and 16–240 (video).
        """
        luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
        green = 1 - red - blue
        factors = (
            luma,
            2 * (1 - blue) * chroma,
            -2 * (1 - blue) * blue / green * chroma,
            -2 * (1 - red) * red / green * chroma,
            2 * (1 - red) * chroma,
        )
        return cls(0 if full_range else 16, *(round(factor * 2**cls.POINT) for factor in factors))


# The factors of cv2.COLOR_YUV2BGR_NV12, which are BT.601's to three digits (color_yuv.simd.hpp).
BT601 = YuvColours(16, 1220542, 2116026, -409993, -852492, 1673527)
BT601_FULL = YuvColours.of(0.299, 0.114, full_range=True)
BT709 = YuvColours.of(0.2126, 0.0722)
BT709_FULL = YuvColours.of(0.2126, 0.0722, full_range=True)


def preprocess_bgr(
    stream: Stream,
    kernels: Mapping[str, Any],
    frame: int,
    pitch: int,
    frame_hw: tuple[int, int],
    out: int,
    size_hw: tuple[int, int],
) -> None:
    """`runtime.preprocess.preprocess` on the GPU.

    Equal to OpenCV's own code, so within 1 level of every build of OpenCV: some take a processor's library instead.

    Args:
        kernels: of `Cuda.module`.
        frame: address of uint8 [H, W, 3] BGR, rows `pitch` bytes apart.
        frame_hw: (H, W) in pixels.
        out: address of uint8 [height, width, 3] RGB, contiguous: one image of the model's input.
        size_hw: (height, width) in pixels that the model takes.

    Raises:
        ImageError: the frame has no pixels, or rows that overlap.
    """
    _check_rows("frame", frame_hw, 3 * frame_hw[1], pitch)
    arguments = [*_u64(frame, pitch), *_i32(*frame_hw), *_u64(out), *_i32(*size_hw)]
    stream.launch(kernels["preprocess_bgr"], _pixel_grid(size_hw), (*PIXEL_BLOCK, 1), arguments)


def preprocess_nv12(
    stream: Stream,
    kernels: Mapping[str, Any],
    luma: int,
    luma_pitch: int,
    chroma: int,
    chroma_pitch: int,
    frame_hw: tuple[int, int],
    out: int,
    size_hw: tuple[int, int],
    *,
    colours: YuvColours = BT601,
) -> None:
    """The same from NV12, as video decoders give it.

    As `preprocess` of `cv2.cvtColor(…, cv2.COLOR_YUV2BGR_NV12)` with the default colours: each 2×2 pixels have one
    chroma (nearest neighbour), and colours are rounded to uint8 before they are blended.

    Args:
        luma: address of uint8 [H, W], rows `luma_pitch` bytes apart.
        chroma: address of uint8 [H/2, W/2, 2], u then v, rows `chroma_pitch` bytes apart.
        frame_hw: (H, W) in pixels, both even.

    Raises:
        ImageError: the frame has no pixels, an odd side, or rows that overlap.
    """
    check_nv12_size(frame_hw)
    _check_rows("luma", frame_hw, frame_hw[1], luma_pitch)
    _check_rows("chroma", frame_hw, frame_hw[1], chroma_pitch)
    factors = (colours.black, colours.luma, colours.u_to_b, colours.u_to_g, colours.v_to_g, colours.v_to_r)
    planes = _u64(luma, luma_pitch, chroma, chroma_pitch)
    arguments = [*planes, *_i32(*frame_hw, *factors), *_u64(out), *_i32(*size_hw)]
    stream.launch(kernels["preprocess_nv12"], _pixel_grid(size_hw), (*PIXEL_BLOCK, 1), arguments)


def check_nv12_size(frame_hw: tuple[int, int]) -> None:
    """
    Raises:
        ImageError: a side is odd, so that its last pixels have no chroma.
    """
    height, width = frame_hw
    if height % 2 or width % 2:
        raise ImageError(f"an NV12 frame of {width}×{height}; its sides have to be even: crop the frame, or take BGR")


class Nms(Resource):
    """`runtime.nms.nms` on the GPU for a batch, with equal results; boxes are clipped to the image before it.

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
        batch: int | None = None,
    ) -> None:
        """Put it on a stream.

        Args:
            boxes: address of float32 [batch, anchors, 4], x0 y0 x1 y1 as fractions of the image; a multiple of 16.
            scores: address of float32 [batch, anchors, classes]; a multiple of 4.
            batch: how many images there are, where fewer than at most; the results of the others are not to be read.

        Raises:
            UsageError: a threshold below 0, an address that the kernels cannot read, or too many images.
        """
        if not (score_threshold >= 0 and iou_threshold >= 0):
            raise UsageError(f"thresholds {score_threshold} (score) and {iou_threshold} (IoU); expected 0 or above")
        batch = self._batch if batch is None else batch
        self._check_input(boxes, scores, batch)
        boxes_at, anchors, classes = np.uint64(boxes), np.uint32(self._anchors), np.uint32(self._classes)
        candidates, detections = np.uint32(self._candidates), np.uint32(self._detections)
        kept_capacity = np.uint32(self._kept_capacity)
        counts, keys, kept = _u64(self._counts.address, self._keys.address, self._kept.address)
        kept_counts = np.uint64(self._counts.address + 4 * self._batch * self._classes)
        out = _u64(*(self.output + offset for offset in self._offsets))
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
        limits = [candidates, kept_capacity, detections, np.float32(iou_threshold)]
        stream.launch(
            self._kernels["nms_suppress"],
            (self._classes, batch, 1),
            block,
            [boxes_at, anchors, *limits, counts, keys, kept_counts, kept],
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


def _selection_bytes(limit: int) -> int:
    """Shared memory of kernels.cu's Selection."""
    return HISTOGRAM_BYTES + 2 * 8 * -(-limit // WARP) * WARP


def _u64(*values: int) -> list[np.generic]:
    return [np.uint64(value) for value in values]


def _i32(*values: int) -> list[np.generic]:
    return [np.int32(value) for value in values]


def _pixel_grid(size_hw: tuple[int, int]) -> tuple[int, int, int]:
    return -(-size_hw[1] // PIXEL_BLOCK[0]), -(-size_hw[0] // PIXEL_BLOCK[1]), 1


def _check_rows(name: str, frame_hw: tuple[int, int], row_bytes: int, pitch: int) -> None:
    if min(frame_hw) < 1:
        raise ImageError(f"a frame of {frame_hw[1]}×{frame_hw[0]}; expected at least one pixel")
    if pitch < row_bytes:
        raise ImageError(f"{name} with rows {pitch} bytes apart; expected at least {row_bytes}, which a row has")
