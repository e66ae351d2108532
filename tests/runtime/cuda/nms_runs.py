"""Runs of the suppression's kernels, and what the reference finds."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np

from ssd_edge.detections import Detections
from ssd_edge.runtime.cuda.base import Stream
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS
from ssd_edge.runtime.cuda.nms import Nms
from ssd_edge.runtime.nms import nms
from tests.fakes.host_cuda import HostCuda


def run_nms(
    cuda: HostCuda,
    boxes: np.ndarray,
    scores: np.ndarray,
    *,
    source: str = KERNEL_SOURCE,
    threads: int = 64,
    score_offset: int = 0,
    score_threshold: float,
    iou_threshold: float,
    candidates: int,
    detections: int,
    iou_epsilon: float = 0.0,
    clip_first: bool = True,
) -> list[Detections]:
    """Of float32 [batch, anchors, 4] and [batch, anchors, classes]; in fractions of the image.

    Args:
        score_offset: bytes from an address that is a multiple of 256 to the first score. Nothing but boxes and
            scores may be read by the kernels' loads of either.
    """
    kernels = cuda.module(source, KERNELS)
    with ExitStack() as stack:
        stream = stack.enter_context(cuda.stream())
        addresses = []
        for array, offset in ((boxes, 0), (scores, score_offset)):
            addresses.append(stack.enter_context(cuda.memory(array.nbytes + offset)).address + offset)
            stream.copy(addresses[-1], array.ctypes.data, array.nbytes)
        ends = (addresses[0] + boxes.nbytes, addresses[1] + scores.nbytes)
        cuda.readable = list(zip(addresses, ends, strict=True))
        batch, anchors, classes = scores.shape
        sizes = batch, anchors, classes, candidates, detections
        nms = stack.enter_context(Nms(cuda, kernels, *sizes, threads=threads))
        nms.launch(
            stream,
            *addresses,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            iou_epsilon=iou_epsilon,
            clip_first=clip_first,
        )
        return nms.read(downloaded(nms, stream), [(1, 1)] * len(boxes))


def downloaded(nms: Nms, stream: Stream) -> np.ndarray:
    """uint8 [output_bytes]: the results."""
    output = np.empty(nms.output_bytes, np.uint8)
    stream.copy(output.ctypes.data, nms.output, nms.output_bytes)
    return output


def references(boxes: np.ndarray, scores: np.ndarray, *, clip_first: bool = True, **settings: Any) -> list[Detections]:
    """What `nms` finds in each image, with boxes clipped to the image before it or behind it."""
    compared = np.clip(boxes, 0, 1) if clip_first else boxes
    found = [nms(boxes, scores, **settings) for boxes, scores in zip(compared, scores, strict=True)]
    return [Detections(each.boxes_xyxy.clip(0, 1), each.scores, each.labels) for each in found]
