"""How far a stage may be from the reference before it departs: one table for each precision.

fp32 differs by the order of additions alone, so the largest difference is bounded: 1e-4, as `export` asks for, of the
value where that is above the unit (1; the image's side for boxes).

fp16 and int8 round every layer. What that leaves grows with the numbers, so it is measured against the reference's own
spread: the signal-to-noise ratio over all anchors of all images. 40 dB is noise of 1 % of the spread, 20 dB of 10 %.
Of SSDlite320 on ONNX Runtime, half precision gave 67 to 72 dB for logits and offsets; an int8 file that loses 0.5
points of mAP 25 to 34 dB (boxes 45), one that loses 1.8 points 12 to 14 dB (boxes 29). The bounds are drawn between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssd_edge.parity.difference import Difference

TENSORS = ("logits", "offsets", "boxes", "scores")
DECODING = 1e-4  # of boxes and scores against a model's own head outputs: decoding is float32 in every precision


@dataclass(frozen=True)
class Tolerance:
    """What a stage may differ by.

    Attributes:
        precision: of the coarser of the two models.
        largest: bound of `Difference.max_scaled`, or None.
        snr_db: least signal-to-noise ratio of each of `TENSORS`, or None.
        edge: difference of scores with which a detection still sits on the edge of the threshold.
        detections: share of the reference's detections that may be missed, extra or shifted, the edge aside.
    """

    precision: str
    largest: float | None
    snr_db: dict[str, float] | None
    edge: float
    detections: float

    def departs(self, tensor: str, difference: Difference) -> bool:
        """Whether a tensor is out of bounds; one that is not finite always is."""
        if difference.non_finite or math.isnan(difference.max):
            return True
        if self.largest is not None:
            return not difference.max_scaled <= self.largest
        assert self.snr_db is not None
        return not difference.snr_db >= self.snr_db[tensor]

    def allowed(self, tensor: str) -> str:
        """The bound of a tensor, as text."""
        return f"≤ {self.largest:.0e}" if self.snr_db is None else f"≥ {self.snr_db[tensor]:g} dB"


TOLERANCES = {
    "fp32": Tolerance("fp32", largest=1e-4, snr_db=None, edge=1e-3, detections=0.001),
    "fp16": Tolerance(
        "fp16",
        largest=None,
        snr_db={"logits": 40.0, "offsets": 40.0, "boxes": 50.0, "scores": 40.0},
        edge=0.01,
        detections=0.01,
    ),
    "int8": Tolerance(
        "int8",
        largest=None,
        snr_db={"logits": 20.0, "offsets": 20.0, "boxes": 35.0, "scores": 20.0},
        edge=0.05,
        detections=0.05,
    ),
}


def tolerance_of(*precisions: str) -> Tolerance:
    """The table of the coarsest of several precisions; one that is not known counts as int8."""
    order = list(TOLERANCES)
    return TOLERANCES[max((name if name in order else "int8" for name in precisions), key=order.index)]
