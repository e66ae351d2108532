"""`OnnxFile`: what is read of an ONNX file before a runtime opens it."""

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
