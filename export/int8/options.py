"""What an int8 export is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssd_edge.calib.calibrate import DEFAULT_SETTINGS
from ssd_edge.calib.images import CalibrationImages
from ssd_edge.calib.table import CalibrationSettings
from ssd_edge.choices import DEFAULT_METHOD, DEFAULT_TARGET, METHODS, TARGETS
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import UsageError
from ssd_edge.parity.max_drop import MaxDrop


@dataclass(frozen=True)
class QatOptions:
    """Quantisation-aware fine-tuning as the last resort: passes over labelled training images."""

    epochs: int
    data: DetectionDataset


@dataclass(frozen=True)
class Int8Options:
    """How an int8 file is made.

    Attributes:
        images: to calibrate on.
        target: `tensorrt` or `cpu`: whose kernels the Q/DQ pairs are placed for.
        int8_heads: for `tensorrt`, quantise the heads' convolutions too; for `cpu` they are quantised anyway.
        method: how a range follows from what was seen, one of `METHODS`.
        table: JSON file of the ranges: read if it is there, else written.
        settings: of the ranges.
        max_drop: how much mAP may be lost; None: it is not measured.
        validation: labelled images to measure mAP on, and to compare ranges with.
        reference_ap: AP that `max_drop` is counted from; None: that of the float graph.
        qat: fine-tune where recovery fails or costs more than a fifth of the speed; None: never.
        threads: for ONNX Runtime.
        progress: show progress bars where standard error is a terminal.

    Raises:
        UsageError: an unknown target or method, `int8_heads` for `cpu`, or a largest drop without images to measure it
            on.
    """

    images: CalibrationImages
    target: str = DEFAULT_TARGET
    method: str = DEFAULT_METHOD
    int8_heads: bool = False
    table: Path | None = None
    settings: CalibrationSettings = DEFAULT_SETTINGS
    max_drop: MaxDrop | None = None
    validation: DetectionDataset | None = None
    reference_ap: float | None = None
    qat: QatOptions | None = None
    threads: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UsageError(f"unknown target {self.target!r}; expected {' or '.join(TARGETS)}")
        if self.method not in METHODS:
            raise UsageError(f"unknown calibration method {self.method!r}; expected one of {', '.join(METHODS)}")
        if self.int8_heads and self.target != "tensorrt":
            raise UsageError(f"int8 heads are for the target tensorrt; for {self.target} they are int8 in any case")
        if self.max_drop is not None and self.validation is None:
            raise UsageError("a largest drop of mAP needs labelled images to measure it on; give --data VALIDATION")
        if self.qat is not None and self.max_drop is None:
            raise UsageError("fine-tuning is for where a bound fails; give --max-drop too")
