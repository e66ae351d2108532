"""FP32, FP16 and INT8 from one checkpoint: exported into a folder, then measured like any other files."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_edge.bench.measure import unique_names
from ssd_edge.choices import CHECKPOINT_SUFFIXES, PRECISIONS
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import UsageError

if TYPE_CHECKING:
    from ssd_edge.export.int8.options import Int8Options

logger = logging.getLogger(__name__)

TORCH = "torch"  # the checkpoint itself
MEASURED = (TORCH, *PRECISIONS)


@dataclass(frozen=True)
class CalibrationChoice:
    """How an INT8 export is made.

    Attributes:
        data: images to calibrate on.
        target: the backend it is for, `cpu` or `tensorrt`.
        int8_heads: for `tensorrt`, quantise the heads too.
    """

    data: Path
    target: str
    int8_heads: bool = False

    def export_options(self, validation: DetectionDataset) -> Int8Options:
        """The same as `export_onnx` takes it.

        Args:
            validation: the images to measure on; ranges far from theirs, and images that are in both, are warned of.

        Raises:
            DatasetError: no images to calibrate on.
        """
        from ssd_edge.calib.images import calibration_images
        from ssd_edge.export.int8.options import Int8Options

        return Int8Options(
            calibration_images(self.data), target=self.target, int8_heads=self.int8_heads, validation=validation
        )


@dataclass(frozen=True)
class PrecisionOptions:
    """What to make of each checkpoint.

    Attributes:
        precisions: of `MEASURED`, in the order in which they are to be measured; `torch` is the checkpoint itself.
        int8: needed for `int8`.
        keep: folder that the files stay in; None: they are removed in the end.

    Raises:
        UsageError: an unknown precision, or int8 without `int8`.
    """

    precisions: tuple[str, ...]
    int8: CalibrationChoice | None = None
    keep: Path | None = None

    def __post_init__(self) -> None:
        if unknown := [precision for precision in self.precisions if precision not in MEASURED]:
            raise UsageError(
                f"unknown precision {', '.join(map(repr, unknown))}; expected some of {', '.join(MEASURED)}"
            )
        if "int8" in self.precisions and self.int8 is None:
            raise UsageError("int8 needs images to calibrate on; give --calib DATA")


@contextmanager
def in_precisions(
    models: Sequence[Path], options: PrecisionOptions | None, *, data: DetectionDataset
) -> Iterator[list[Path]]:
    """Give the models, each checkpoint among them replaced by its exports; without options as they are.

    Args:
        data: images that each export is compared with PyTorch on.

    Raises:
        UsageError: no checkpoint among the models.
        SsdEdgeError: as `export_onnx`.
    """
    if options is None:
        yield list(models)
        return
    stems = export_stems(models)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        chosen: list[Path] = []
        for path in models:
            if path not in stems:
                chosen.append(path)
                continue
            for precision in dict.fromkeys(options.precisions):
                output = folder / f"{stems[path]}.{precision}.onnx"
                chosen.append(path if precision == TORCH else _export(path, output, precision, data, options.int8))
        yield chosen


def export_stems(models: Sequence[Path]) -> dict[Path, str]:
    """What the exports of each checkpoint are called: its name, with folders where the name alone is another's too.

    Raises:
        UsageError: no checkpoint among the models.
    """
    checkpoints = [path for path in models if path.suffix in CHECKPOINT_SUFFIXES]
    if not checkpoints:
        raise UsageError("--precisions exports checkpoints (.pt, .safetensors), but none is given; add one")
    bare = [path.with_suffix("") for path in checkpoints]
    return {path: name.strip("/").replace("/", "-") for path, name in zip(checkpoints, unique_names(bare), strict=True)}


def _export(
    checkpoint: Path, output: Path, precision: str, data: DetectionDataset, int8: CalibrationChoice | None
) -> Path:
    """Write one export, and say what it is."""
    from ssd_edge.export.onnx_export import export_onnx

    logger.info("exporting %s as %s", checkpoint, precision)
    made = int8.export_options(data) if precision == "int8" and int8 is not None else None
    logger.info("%s", export_onnx(checkpoint, output, precision=precision, data=data, int8=made))
    return output
