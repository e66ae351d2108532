"""What is read of an ONNX file before a runtime opens it, and whether it obeys the ONNX contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

REMEDY = "write the file with: ssd-edge export CHECKPOINT -o model.onnx"
LARGEST_BYTES = 1 << 31  # of a file (protobuf's own limit) and of a tensor
Shape: TypeAlias = tuple[int | str | None, ...]  # a dynamic size is its name, or None where it has none


@dataclass(frozen=True)
class OnnxTensor:
    """An input or output of a graph.

    Attributes:
        element_type: as ONNX Runtime names it: `uint8`, `float`, `float16`; `sequence` and so on for what is no tensor.
        shape: sizes; a dynamic one is its name, or None. None altogether where the file does not say.
    """

    name: str
    element_type: str
    shape: Shape | None

    def __str__(self) -> str:
        shape = "of unknown shape" if self.shape is None else list(self.shape)
        return f"{self.name}: {self.element_type} {shape}"


@dataclass(frozen=True)
class OnnxFile:
    """What an ONNX file says about itself.

    Attributes:
        opset: version of ONNX's own operators; 0 where none is imported.
        inputs: without those that are initializers.
        metadata: `metadata_props`.
        operators: how many nodes of each operator, subgraphs and functions included; `domain::name` outside ONNX's own.
        parameters: elements of all initializers of the main graph.
    """

    path: Path
    size_bytes: int
    ir_version: int
    opset: int
    producer: str
    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    metadata: Mapping[str, str]
    operators: Mapping[str, int]
    parameters: int


def contract_misfits(file: OnnxFile) -> tuple[str, ...]:
    """What keeps a file of another tool from being run by ssd-edge, one clause each; empty where nothing is seen.

    The contract: uint8 `images` [batch, height, width, 3] in, float `boxes` [batch, anchors, 4] and `scores` [batch,
    anchors, classes] out, batch dynamic, suppression left to the runtime.
    """
    found = []
    if [tensor.name for tensor in file.inputs] != ["images"] or {t.name for t in file.outputs} != {"boxes", "scores"}:
        names = f"inputs {sorted(t.name for t in file.inputs)} and outputs {sorted(t.name for t in file.outputs)}"
        found.append(f"{names}; expected input images and outputs boxes and scores")
    for tensor in file.inputs:
        shape = tensor.shape or ()
        if tensor.element_type != "uint8":
            found.append(f"input {tensor}; expected uint8 RGB pixels, with the normalisation inside the graph")
        if len(shape) == 4 and shape[1] == 3 and shape[3] != 3:
            found.append(f"input {tensor.name} has its colour planes first; expected [batch, height, width, 3]")
        if shape and isinstance(shape[0], int):
            found.append(f"the batch of input {tensor.name} is fixed at {shape[0]}; expected a dynamic first dimension")
    if suppression := [name for name in file.operators if "nms" in name.lower() or "nonmaxsuppression" in name.lower()]:
        found.append(f"{suppression[0]} is inside the graph; expected all boxes and scores: ssd-edge suppresses itself")
    return tuple(found)
