"""Changes to a state dict, under our names, that leave the detections as they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.models.ssd import SSD

FIRST, LAST = BACKGROUNDS = ("first", "last")  # where the background column of the logits is


def rgb_from_bgr(model: SSD, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights for RGB of those for BGR: the first convolution's input channels the other way round.

    Raises:
        ModelFileError: the model's first convolution does not read the three channels of an image.
    """
    first = next((name for name, layer in model.backbone.named_modules() if isinstance(layer, nn.Conv2d)), None)
    key = f"backbone.{first}.weight"
    if first is None or state[key].shape[1] != 3:
        raise ModelFileError(f"{key} does not read an image of three channels, so BGR cannot be turned into RGB")
    return {**state, key: state[key].flip(1)}


def background_first(state: Mapping[str, Tensor], num_classes: int, where: str) -> dict[str, Tensor]:
    """Class layers with the background's column first, of those that have it `first` or `last`.

    Raises:
        UsageError: it is neither.
    """
    if where not in BACKGROUNDS:
        raise UsageError(f"--background {where}: weights have a column for it, {' or '.join(BACKGROUNDS)}")
    if where == FIRST:
        return dict(state)
    giving_logits = _last_layers(state)
    return {
        name: _rolled(value, num_classes + 1) if name.rpartition(".")[0] in giving_logits else value
        for name, value in state.items()
    }


def _last_layers(state: Mapping[str, Tensor]) -> set[str]:
    """The layers that give the logits: the last convolution of each level of the class head."""
    begin = "head.classification_head.module_list."
    levels = {  # the last of several wins
        name.removeprefix(begin).split(".")[0]: name.rpartition(".")[0]
        for name, value in state.items()
        if name.startswith(begin) and value.ndim == 4
    }
    return set(levels.values())


def _rolled(value: Tensor, columns: int) -> Tensor:
    """[boxes × columns, …] with the last column of each box as its first."""
    return torch.roll(value.reshape(-1, columns, *value.shape[1:]), 1, dims=1).flatten(0, 1)
