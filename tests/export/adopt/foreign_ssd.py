"""A small SSD as another project would write it, and its ONNX files in many forms."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

HEIGHT, WIDTH = 64, 96
COLUMNS = 4  # of the scores, the background among them
BOXES = 4  # per cell
LABELS = ("BACKGROUND", "cat", "dog", "cow")
MEAN, STD = 127.0, 128.0


@dataclass(frozen=True)
class Form:
    """How a project writes its network.

    Attributes:
        scores: `softmax`, `logits` or `sigmoid`.
        boxes: `corners`, `centre`, `offsets` (not decoded) or `rows_first`.
        background: `first`, `last` or `none`.
        images: `planes` (float NCHW), `pixels` (float NHWC) or `bytes` (uint8 NHWC, normalised inside).
        joined: one output with boxes and scores.
        norms: batch norms, which the exporter is told to keep.
    """

    scores: str = "softmax"
    boxes: str = "corners"
    in_pixels: bool = False
    background: str = "first"
    images: str = "planes"
    joined: bool = False
    half: bool = False
    norms: bool = False


class ForeignSSD(nn.Module):
    """Three levels of steps 8, 16 and 32; boxes from default boxes of four shapes."""

    default_boxes: Tensor

    def __init__(self, form: Form) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.form = form
        widths = (3, 8, 16, 16, 16, 16)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.BatchNorm2d(after) if form.norms else nn.Identity(),
                nn.ReLU(),
            )
            for before, after in pairwise(widths)
        )
        self.classes = nn.ModuleList(nn.Conv2d(16, BOXES * COLUMNS, 3, padding=1) for _ in range(3))
        self.offsets = nn.ModuleList(nn.Conv2d(16, BOXES * 4, 3, padding=1) for _ in range(3))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        boxes = []
        for step in (8, 16, 32):
            for row in range(HEIGHT // step):
                for column in range(WIDTH // step):
                    for ratio in (0.5, 1.0, 1.5, 2.0):
                        centre = (column + 0.5) * step / WIDTH, (row + 0.5) * step / HEIGHT
                        boxes.append((*centre, 2 * step * ratio / WIDTH, 2 * step / ratio / HEIGHT))
        self.register_buffer("default_boxes", torch.tensor(boxes))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Boxes and scores in the form asked for."""
        form, x = self.form, images
        if form.images == "bytes":
            x = (x.float() - MEAN) / STD
        if form.images != "planes":
            x = x.permute(0, 3, 1, 2)
        classes: list[Tensor] = []
        offsets: list[Tensor] = []
        for stage, layer in enumerate(self.stages):
            x = layer(x)
            if stage >= 2:
                for found, heads, columns in ((classes, self.classes, COLUMNS), (offsets, self.offsets, 4)):
                    values = heads[stage - 2](x).permute(0, 2, 3, 1).contiguous()
                    found.append(values.view(values.size(0), -1, columns))
        scores, boxes = self._scores(torch.cat(classes, 1)), self._boxes(torch.cat(offsets, 1))
        return (torch.cat([boxes, scores], 2),) if form.joined else (scores, boxes)

    def _scores(self, logits: Tensor) -> Tensor:
        if self.form.background == "last":
            logits = torch.cat([logits[..., 1:], logits[..., :1] + 4], 2)
        if self.form.scores == "logits":
            return logits
        return torch.sigmoid(logits) if self.form.scores == "sigmoid" else torch.softmax(logits, 2)

    def _boxes(self, offsets: Tensor) -> Tensor:
        if self.form.boxes == "offsets":
            return offsets
        default = self.default_boxes.unsqueeze(0)
        centre = offsets[..., :2] * 0.1 * default[..., 2:] + default[..., :2]
        size = torch.exp(offsets[..., 2:] * 0.2) * default[..., 2:]
        if self.form.boxes == "centre":
            return torch.cat([centre, size], 2)
        boxes = torch.cat([centre - size / 2, centre + size / 2], 2)
        if self.form.in_pixels:
            boxes = boxes * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT], dtype=boxes.dtype)
        return boxes[..., [1, 0, 3, 2]] if self.form.boxes == "rows_first" else boxes


USUAL = Form()  # what jetson-inference writes


def write(
    path: Path,
    form: Form = USUAL,
    *,
    opset: int = 17,
    batch: int = 1,
    dynamic: bool = False,
    names: tuple[str, ...] = ("input_0", "scores", "boxes"),
) -> Path:
    """The ONNX file that PyTorch's older exporter makes, as `onnx_export.py` of jetson-inference calls it."""
    network = ForeignSSD(form).eval()
    shape = (batch, 3, HEIGHT, WIDTH) if form.images == "planes" else (batch, HEIGHT, WIDTH, 3)
    example = torch.zeros(shape, dtype=torch.uint8 if form.images == "bytes" else torch.float32)
    if form.half:
        network, example = network.half(), example.half()
    outputs = ["detections"] if form.joined else list(names[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=[names[0]],
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in (names[0], *outputs)} if dynamic else None,
            do_constant_folding=not form.norms,
            training=torch.onnx.TrainingMode.PRESERVE if form.norms else torch.onnx.TrainingMode.EVAL,
        )
    return path


def expected(images_rgb: NDArray[np.uint8], form: Form = USUAL) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Corners in fractions and scores of all columns, as PyTorch computes them in float32."""
    network = ForeignSSD(Form(background=form.background, norms=form.norms, scores=form.scores)).eval()
    if form.scores == "logits":
        network = ForeignSSD(Form(background=form.background)).eval()
    images = (torch.from_numpy(images_rgb).float() - MEAN) / STD
    with torch.no_grad():
        scores, boxes = network(images.permute(0, 3, 1, 2))
    return boxes.numpy(), scores.numpy()
