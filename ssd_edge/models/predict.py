"""`Predictor`: image bytes in, decoded boxes and class scores out: the graph that every stage runs.

Evaluation in PyTorch calls it, export traces it; so there is one definition of decoding. The tensors are those of
the ONNX contract.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssd_edge.card import SIGMOID
from ssd_edge.models.box_coder import decode_boxes
from ssd_edge.models.ssd import SSD


class Predictor(nn.Module):
    """An SSD with normalisation before it, box decoding and scores behind it; suppression is the runtime's."""

    def __init__(self, model: SSD):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Decode a batch.

        Args:
            images: uint8 [batch, height, width, 3], RGB, of the model's size.

        Returns:
            boxes: float32 [batch, anchors, 4], x0 y0 x1 y1 as fractions of the image, not clipped.
            scores: float32 [batch, anchors, classes], softmax or sigmoid with the background column dropped.
        """
        x = images.float().permute(0, 3, 1, 2)  # TensorRT takes uint8 into a Cast only, so it comes first
        raw = self.model(x)
        config = self.model.config
        boxes = decode_boxes(raw.bbox_regression.float(), self.model.default_boxes_xyxy, config.box_coding)
        logits = raw.cls_logits.float()
        if config.score_function == SIGMOID:
            return boxes, torch.sigmoid(logits[:, :, 1:])
        return boxes, torch.softmax(logits, dim=2)[:, :, 1:]
