"""What is exported, as a float32 ONNX graph that every back-end runs: a checkpoint, traced; or such a graph itself.

The graph is the trace of `Predictor`:

    images  uint8   [batch, height, width, 3]    RGB, already resized; the first op on it is a Cast
    boxes   float32 [batch, anchors, 4]          x0 y0 x1 y1 as fractions of the image
    scores  float32 [batch, anchors, classes]    softmax with the background column dropped

It comes from PyTorch's `torch.export`-based exporter. The TorchScript one gives an equally fast graph, but it
is deprecated, and it recomputes the batch size before every reshape (12 Shape-Gather-Concat chains).
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from ssd_edge.card import ModelCard, file_sha256
from ssd_edge.checkpoint import model_from_checkpoint
from ssd_edge.errors import MissingDependencyError, ModelFileError, UsageError
from ssd_edge.models.predict import Predictor
from ssd_edge.models.ssd import SSD
from ssd_edge.onnx_graph import IR_VERSION, OPSET, without_notes
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.onnxruntime import OnnxDetector
from ssd_edge.runtime.backends.torch import TorchDetector

TORCH_NEEDED = (2, 6)  # the first with torch.onnx.export(dynamo=True, dynamic_shapes=...) as used here


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        path: its file.
        model: of a checkpoint; None for an fp32 ONNX file.
        card: of the file to be written: the source's, with the precision and the parent's fingerprint.
    """

    path: Path
    model: SSD | None
    card: ModelCard

    @classmethod
    def read(cls, path: Path, precision: str) -> Source:
        """Read a checkpoint, or an fp32 ONNX file of ssd-edge, to be exported in this precision.

        Raises:
            ModelFileError: no such file, or neither of them.
            UsageError: an ONNX file is to be exported in fp32, which it is.
        """
        if path.suffix == ".onnx":
            model, card = None, _card_of_float_file(path)
            if precision == "fp32":
                raise UsageError(f"{path} is an fp32 ONNX file already; give --precision fp16 or int8")
        else:
            model, card = model_from_checkpoint(path)
        return cls(path, model, replace(card, precision=precision, parent_sha256=file_sha256(path)))

    @property
    def size_hw(self) -> tuple[int, int]:
        """(height, width) in pixels of the model's input."""
        return self.card.height, self.card.width

    def trace(self) -> onnx.ModelProto:
        """The float32 graph.

        Raises:
            MissingDependencyError: PyTorch is too old.
        """
        if self.model is None:
            graph = onnx.load(self.path)
            del graph.metadata_props[:]
            return graph
        return onnx_from_predictor(Predictor(self.model).eval(), self.size_hw)

    def reference(self) -> Detector:
        """Detects as the source does: what a file that is made of it is compared with."""
        if self.model is None:
            return OnnxDetector(self.path)
        return TorchDetector(self.model, self.card)


def _card_of_float_file(path: Path) -> ModelCard:
    """The card of an ONNX file, after it was opened as every command does.

    Raises:
        ModelFileError: as `OnnxDetector`; it is not fp32.
    """
    if not path.is_file():
        raise ModelFileError(f"no model file {path}; check the path")
    with OnnxDetector(path) as detector:
        card = detector.card
    if card.precision != "fp32":
        raise ModelFileError(f"{path} is {card.precision}; expected a checkpoint or an fp32 file to export from")
    return card


def onnx_from_predictor(predictor: Predictor, size_hw: tuple[int, int]) -> onnx.ModelProto:
    """Trace a predictor into an ONNX graph with a dynamic batch dimension.

    Raises:
        MissingDependencyError: PyTorch is too old.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < TORCH_NEEDED:
        raise MissingDependencyError(
            f"export needs torch {TORCH_NEEDED[0]}.{TORCH_NEEDED[1]} or later, found {torch.__version__}",
            extra="export",
        )
    predictor = copy.deepcopy(predictor)
    _pool_by_mean(predictor)
    example = torch.zeros(2, *size_hw, 3, dtype=torch.uint8)  # a batch of 1 would be taken for a constant
    with _quiet():
        program = torch.onnx.export(
            predictor,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["boxes", "scores"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None  # it is None only when the exporter writes a file itself
    graph = without_notes(program.model_proto)
    graph.ir_version = IR_VERSION
    return graph


class _SpatialMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, rows, columns] -> [batch, channels, 1, 1]."""
        return x.mean(dim=(2, 3), keepdim=True)


def _pool_by_mean(module: nn.Module) -> None:
    """Replace global average pooling, which the exporter turns into gathers, by the mean that it is."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
            setattr(module, name, _SpatialMean())
        else:
            _pool_by_mean(child)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and logs from the user; its errors are exceptions."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
