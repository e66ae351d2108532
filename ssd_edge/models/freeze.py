"""Frozen backbones: fine-tune the later layers only."""

from __future__ import annotations

from ssd_edge.errors import UsageError
from ssd_edge.models.ssd import SSD


def freeze_backbone(model: SSD, trainable_layers: int) -> None:
    """Freeze the first stages of the backbone; call it again to freeze more or fewer.

    The stages are torchvision's (`trainable_backbone_layers`): five of VGG-16, six of MobileNetV3; ResNet-50 as SSD300
    uses it has four. Layers that no pretrained backbone has are never frozen. Unlike torchvision's, frozen batch norms
    keep their statistics too: they stay in evaluation mode when the model is put into training mode.

    Args:
        trainable_layers: how many of the last stages still train; 0 freezes all, the number of stages none.

    Raises:
        UsageError: the backbone has no such number of stages.
    """
    stages = model.backbone.stages()
    if not 0 <= trainable_layers <= len(stages):
        raise UsageError(
            f"{trainable_layers} trainable layers; the backbone of {model.config.arch} has {len(stages)} stages, "
            f"expected 0 to {len(stages)}"
        )
    model.freeze(module for stage in stages[: len(stages) - trainable_layers] for module in stage)
