"""Inputs on which the GPU's suppression has to equal `runtime/nms.py` bit by bit; one list for tests and programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.runtime.cuda.base import Cuda, Stream
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS
from ssd_edge.runtime.cuda.nms import MOST_KEYS, Nms
from ssd_edge.runtime.nms import nms

Floats = NDArray[np.float32]

SSD300_ANCHORS, COCO_CLASSES = 8732, 90
SCORES_ABOVE = 3000  # scores per image above the threshold that random weights are made to give
# Feature maps of SSD300 and the boxes of a cell on each: https://arxiv.org/abs/1512.02325, section 3.1.
SSD300_GRIDS = ((38, 4), (19, 6), (10, 6), (5, 6), (3, 4), (1, 4))


@dataclass(frozen=True)
class NmsCase:
    """A batch of outputs of a network, and the settings to suppress them with.

    Attributes:
        boxes: float32 [batch, anchors, 4], x0 y0 x1 y1 as fractions of the image.
        scores: float32 [batch, anchors, classes].
    """

    name: str
    boxes: Floats
    scores: Floats
    score_threshold: float = 0.01
    iou_threshold: float = 0.45
    candidates: int = 400
    detections: int = 200

    def expected(self) -> list[Detections]:
        """What the reference finds in each image; the kernels clip boxes to the image first."""
        return [
            nms(
                np.clip(boxes, 0, 1),
                scores,
                score_threshold=self.score_threshold,
                iou_threshold=self.iou_threshold,
                candidates=self.candidates,
                detections=self.detections,
            )
            for boxes, scores in zip(self.boxes, self.scores, strict=True)
        ]


def found_by(cuda: Cuda, case: NmsCase, *, repeat: int = 1, threads: int = 512) -> Iterator[list[Detections]]:
    """What the kernels find in each image, once for each of `repeat` runs."""
    with ExitStack() as stack:
        stream = stack.enter_context(cuda.stream())
        batch, anchors, classes = case.scores.shape
        sizes = batch, anchors, classes, case.candidates, case.detections
        kernels = cuda.module(KERNEL_SOURCE, KERNELS)
        suppression = stack.enter_context(Nms(cuda, kernels, *sizes, threads=threads))
        addresses = [uploaded(stack, cuda, stream, values) for values in (case.boxes, case.scores)]
        output = np.empty(suppression.output_bytes, np.uint8)
        for _ in range(repeat):
            suppression.launch(
                stream, *addresses, score_threshold=case.score_threshold, iou_threshold=case.iou_threshold
            )
            stream.copy(output.ctypes.data, suppression.output, output.nbytes)
            stream.synchronize()
            yield suppression.read(output, [(1, 1)] * len(case.scores))


def uploaded(stack: ExitStack, cuda: Cuda, stream: Stream, array: NDArray[np.generic]) -> int:
    """Address of a copy on the GPU, which is freed with the stack."""
    array = np.ascontiguousarray(array)
    memory = stack.enter_context(cuda.memory(array.nbytes))
    stream.copy(memory.address, array.ctypes.data, array.nbytes)
    stream.synchronize()
    return memory.address


def differing_images(found: list[Detections], expected: list[Detections]) -> list[int]:
    """Images whose detections differ in any bit."""
    pairs = enumerate(zip(found, expected, strict=True))
    return [image for image, (one, other) in pairs if not equal_detections(one, other)]


def equal_detections(one: Detections, other: Detections) -> bool:
    """Bit by bit, in the same order."""
    pairs = ((one.labels, other.labels), (one.scores, other.scores), (one.boxes_xyxy, other.boxes_xyxy))
    return all(np.array_equal(a, b) for a, b in pairs)


def hard_cases() -> list[NmsCase]:
    """Ties, duplicates, values that are no numbers, and counts at the limits."""
    return [case for make in HARD for case in make()]


def ssd300_case(batch: int = 1) -> NmsCase:
    """The size and the limits of torchvision's SSD300."""
    scores = background_dropped(ssd300_logits(batch))
    return NmsCase("SSD300's size", ssd300_boxes(batch), scores)


def random_boxes(rng: np.random.Generator, count: int) -> Floats:
    """float32 [count, 4], anywhere in the image."""
    corners = rng.random((count, 2, 2))
    corners.sort(axis=1)
    return corners.reshape(count, 4).astype(np.float32)


def separate_boxes(count: int) -> Floats:
    """float32 [count, 4], none of which overlaps another: a square grid."""
    side = int(np.ceil(np.sqrt(count)))
    y, x = np.divmod(np.arange(count), side)
    low = np.stack([x, y], axis=1) / side
    return np.concatenate([low, low + 0.8 / side], axis=1).astype(np.float32)


def _mixed() -> list[NmsCase]:
    """Six images of a batch, each odd in its way."""
    rng = np.random.default_rng(2)
    boxes = np.stack([random_boxes(rng, 600) for _ in range(6)])
    scores = rng.random((6, 600, 3), np.float32)
    scores[0] = 0.5  # all equal
    boxes[1] = boxes[1, 0]  # all in one place
    scores[2] = 0  # nothing
    scores[3][rng.random((600, 3)) < 0.3] = np.nan
    scores[3][rng.random((600, 3)) < 0.1] = np.inf
    boxes[4][rng.random((600, 4)) < 0.1] = np.nan
    scores[5] = np.round(scores[5], 1)  # ties
    return [
        NmsCase(f"six odd images, score > {score}, IoU > {iou}", boxes, scores, score, iou, 100, 50)
        for score, iou in ((0.0, 0.5), (0.5, 0.45), (0.01, 0.0))
    ]


def _small() -> list[NmsCase]:
    box = np.array([[[0.25, 0.25, 0.5, 0.5]]], np.float32)
    rng = np.random.default_rng(3)
    many = rng.random((2, 1, 300), np.float32)
    return [
        NmsCase("one anchor, one class", box, np.full((1, 1, 1), 0.5, np.float32)),
        NmsCase("one anchor, one class, at the threshold", box, np.full((1, 1, 1), 0.01, np.float32)),
        NmsCase("one anchor, 300 classes", np.tile(box, (2, 1, 1)), many, detections=100),
        NmsCase("513 anchors, one class", random_boxes(rng, 513)[None], rng.random((1, 513, 1), np.float32)),
        NmsCase("50 anchors, 300 classes", random_boxes(rng, 50)[None], rng.random((1, 50, 300), np.float32)),
    ]


def _tied() -> list[NmsCase]:
    """Thousands of equal scores: which candidates are taken is decided by class and anchor alone."""
    anchors, half = 4000, np.float32(0.5)
    one_place = np.tile(np.array([0.1, 0.1, 0.9, 0.9], np.float32), (1, anchors, 1))
    tied = np.full((1, anchors, 2), half)
    two_levels = tied.copy()
    two_levels[:, ::3] = np.nextafter(half, np.float32(1))
    return [
        NmsCase("4000 equal boxes with equal scores", one_place, tied),
        NmsCase("4000 separate boxes with equal scores", separate_boxes(anchors)[None], tied),
        NmsCase("4000 separate boxes with two scores one bit apart", separate_boxes(anchors)[None], two_levels),
        NmsCase("all scores infinite", separate_boxes(anchors)[None], np.full((1, anchors, 2), np.inf, np.float32)),
    ]


def _at_the_limits() -> list[NmsCase]:
    """One fewer than fits, exactly what fits, and one more; in the images of one batch."""
    rng = np.random.default_rng(4)
    boxes = np.tile(separate_boxes(1200), (3, 1, 1))
    cases = []
    for limit in (64, MOST_KEYS):
        scores = np.zeros((3, 1200, 1), np.float32)
        for image, count in enumerate((limit - 1, limit, limit + 1)):
            scores[image, rng.permutation(1200)[:count], 0] = 0.1 + 0.8 * rng.random(count, np.float32)
        cases.append(NmsCase(f"{limit} candidates, ± 1", boxes, scores, candidates=limit, detections=MOST_KEYS))
        cases.append(NmsCase(f"{limit} detections, ± 1", boxes, scores, candidates=MOST_KEYS, detections=limit))
    classes = np.zeros((3, 60, 2), np.float32)  # the limit is met by two classes together
    for image, count in enumerate((24, 25, 26)):
        classes[image, :count, 0] = classes[image, -25:, 1] = 0.5
    cases.append(NmsCase("50 detections of two classes, ± 1", boxes[:, :60], classes, detections=50))
    return cases


def _no_numbers() -> list[NmsCase]:
    rng = np.random.default_rng(5)
    special = np.array(
        [
            [np.nan, 0, 1, 1],
            [0, 0, 1, np.nan],
            [-np.inf, 0, np.inf, 1],
            [0.2, 0.2, 0.2, 0.2],  # empty
            [0.8, 0.1, 0.1, 0.8],  # inside out
            [-3, -3, -2, -2],  # outside the image
            [-0.0, 0.0, 2.0, 1e-30],
        ],
        np.float32,
    )
    boxes = special[rng.integers(0, len(special), (2, 700))]
    scores = rng.random((2, 700, 4), np.float32)
    tiny = np.full((2, 700, 4), 1e-42, np.float32)  # subnormal: a GPU that flushes them to 0 finds none above 0
    return [
        NmsCase("boxes that are none", boxes, scores),
        NmsCase("all scores NaN", boxes, np.full_like(scores, np.nan)),
        NmsCase("all boxes NaN", np.full_like(boxes, np.nan), scores),
        NmsCase("subnormal scores", np.tile(separate_boxes(700), (2, 1, 1)), tiny, score_threshold=0.0),
    ]


HARD: tuple[Callable[[], list[NmsCase]], ...] = (_mixed, _small, _tied, _at_the_limits, _no_numbers)


def ssd300_logits(batch: int) -> Floats:
    """Seeded Student's t logits [batch, 8732, 91], background first: most anchors see nothing, a few see much."""
    rng = np.random.default_rng(0)
    logits = rng.standard_t(4, (batch, SSD300_ANCHORS, COCO_CLASSES + 1)).astype(np.float32)
    for each in logits:
        each *= 0.7 + 0.35 * np.maximum(rng.standard_t(2, (SSD300_ANCHORS, 1)), 0)
        each[:, 0] = 0
        each[:, 0] += background_for(each, 0.01, SCORES_ABOVE)
    return logits


def background_dropped(logits: Floats) -> Floats:
    """Softmax over the last axis, without the background: [batch, anchors, classes]."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    exponents /= exponents.sum(axis=-1, keepdims=True)
    return np.ascontiguousarray(exponents[..., 1:])


def background_for(logits: Floats, threshold: float, wanted: int) -> float:
    """What to add to the background's logits so that about `wanted` scores of classes are above the threshold.

    Suppression costs what the scores make it cost, and in a trained model nearly all of an image is background.

    Args:
        logits: float32 [anchors, classes + 1], the background first.
    """
    low, high = -50.0, 50.0
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    for _ in range(40):
        middle = (low + high) / 2
        total = exponents[:, 1:].sum(axis=1, keepdims=True) + exponents[:, :1] * np.exp(middle)
        low, high = (middle, high) if (exponents[:, 1:] / total > threshold).sum() > wanted else (low, middle)
    return (low + high) / 2


def ssd300_boxes(batch: int) -> Floats:
    """Boxes on the grids of SSD300, shifted and stretched at random as a network does: float32 [batch, 8732, 4]."""
    rng = np.random.default_rng(1)
    centres, sides = [], []
    for level, (cells, boxes) in enumerate(SSD300_GRIDS):
        y, x = np.divmod(np.arange(cells * cells).repeat(boxes), cells)
        centres.append((np.stack([x, y], axis=1) + 0.5) / cells)
        sides.append(np.full((len(x), 2), 0.1 + 0.16 * level))
    shape = (batch, SSD300_ANCHORS, 2)
    side = np.concatenate(sides) * np.exp(0.3 * rng.standard_normal(shape))
    centre = np.concatenate(centres) + 0.1 * side * rng.standard_normal(shape)
    return np.concatenate([centre - side / 2, centre + side / 2], axis=2).astype(np.float32)
