"""What an ONNX file of another project takes and gives, and the refusal of files that are no raw SSD."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from ssd_edge.card import ONNX_METADATA_KEY
from ssd_edge.errors import ModelFileError
from ssd_edge.runtime.onnx_file.check import check_onnx_file
from ssd_edge.runtime.onnx_file.file import OnnxFile

INPUT_TYPES = ("float", "float16", "uint8")
# Parts of the names of operators that suppress overlapping boxes; also of TensorRT's, OpenVINO's and TFLite's plugins.
SUPPRESSION = ("nms", "nonmaxsuppression", "detectionoutput", "detection_postprocess")
QUANTISED = ("quantizelinear", "qlinearconv", "convinteger")
CONTROL_FLOW = ("Loop", "Scan")  # an If that does not depend on the image is folded away


@dataclass(frozen=True)
class ForeignInput:
    """How a network takes images.

    Attributes:
        element_type: one of `INPUT_TYPES`.
        planes_first: [batch, 3, height, width]; else [batch, height, width, 3].
        batch: a fixed batch; None: a dynamic one.
    """

    name: str
    element_type: str
    planes_first: bool
    height: int
    width: int
    batch: int | None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """For the fixed batch, or for one image."""
        sizes = (3, self.height, self.width) if self.planes_first else (self.height, self.width, 3)
        return (self.batch or 1, *sizes)


def read_foreign(path: Path, size_hw: tuple[int, int] | None) -> tuple[OnnxFile, ForeignInput]:
    """Look into a file before any runtime opens it.

    Args:
        size_hw: the input's size where the file leaves it open.

    Raises:
        ModelFileError: `check_onnx_file` refuses it, it is a file of ssd-edge, or it cannot be an SSD that gives all
            boxes and scores; the message says what does not fit.
    """
    file = check_onnx_file(path)
    if ONNX_METADATA_KEY in file.metadata:
        raise ModelFileError(f"{path} is a file of ssd-edge already: every command takes it as it is")
    _refuse_operators(file)
    _refuse_outputs(file)
    return file, _find_input(file, size_hw)


def _refuse_operators(file: OnnxFile) -> None:
    known = onnx.defs.onnx_opset_version()
    if not 7 <= file.opset <= known:
        raise ModelFileError(
            f"{file.path} has opset {file.opset}; expected 7 to {known}: export it again with such an opset_version"
        )
    for name in file.operators:
        plain = name.lower()
        if any(word in plain for word in SUPPRESSION):
            raise ModelFileError(
                f"{file.path}: {name} is inside the graph; expected all boxes and scores, as ssd-edge suppresses "
                "itself: export the network without it"
            )
        if any(word in plain for word in QUANTISED):
            raise ModelFileError(f"{file.path} is int8 already ({name}); expected a float network: give that one")
        if "::" in name:
            raise ModelFileError(
                f"{file.path}: operator {name} is not ONNX's own; expected a graph without plugins: export it again"
            )
        if name in CONTROL_FLOW:
            raise ModelFileError(
                f"{file.path}: {name} is inside the graph; expected a network without control flow, that gives all "
                "boxes and scores: export it without its postprocessing"
            )


def _refuse_outputs(file: OnnxFile) -> None:
    """What the declared shapes tell; what they leave open shows when the network runs."""
    shapes = [output.shape for output in file.outputs]
    if len(shapes) == 1 and shapes[0] is not None:
        shape, what = shapes[0], f"its only output is {file.outputs[0]}"
        if len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1)):
            raise ModelFileError(f"{file.path} seems to be a classifier: {what}; expected boxes and scores of an SSD")
        rows, columns = shape[1:] if len(shape) == 3 else (None, None)
        if isinstance(rows, int) and isinstance(columns, int) and 4 < rows < columns:
            raise ModelFileError(
                f"{file.path} seems to be a YOLO: {what}; expected boxes [batch, anchors, 4] and scores of an SSD"
            )


def _find_input(file: OnnxFile, size_hw: tuple[int, int] | None) -> ForeignInput:
    expected = "expected one image, float [batch, 3, height, width]"
    if len(file.inputs) != 1:
        names = "; ".join(map(str, file.inputs)) or "none"
        raise ModelFileError(f"{file.path} has {len(file.inputs)} inputs ({names:.200}); {expected}")
    (tensor,) = file.inputs
    shape = tensor.shape or ()
    if tensor.element_type not in INPUT_TYPES or len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise ModelFileError(f"{file.path}: input {tensor}; {expected}")
    planes_first = shape[1] == 3
    height, width = shape[2:] if planes_first else shape[1:3]
    if size_hw is not None:
        said = tuple(
            given if isinstance(given, int) else wanted for given, wanted in zip((height, width), size_hw, strict=True)
        )
        if said != size_hw:
            raise ModelFileError(
                f"{file.path}: input {tensor}, not {size_hw[0]}×{size_hw[1]} pixels; leave the size out"
            )
        height, width = size_hw
    if not isinstance(height, int) or not isinstance(width, int):
        raise ModelFileError(f"{file.path}: input {tensor} leaves its size open; say which with --size HEIGHTxWIDTH")
    if min(height, width) < 1 or shape[0] == 0:
        raise ModelFileError(f"{file.path}: input {tensor} has no pixels; {expected}")
    batch = shape[0] if isinstance(shape[0], int) else None
    return ForeignInput(tensor.name, tensor.element_type, planes_first, height, width, batch)
