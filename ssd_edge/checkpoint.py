"""Checkpoints: plain tensors and JSON. `weights_only=True` always, so a foreign file can run no code."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ssd_edge.card import CHECKPOINT_FORMAT, ModelCard
from ssd_edge.errors import ModelFileError, reason
from ssd_edge.files import atomic_path
from ssd_edge.importers.importing import import_model
from ssd_edge.importers.state_dicts import is_state_dict, load_safetensors, load_tensors_only
from ssd_edge.models.create import create_from_card
from ssd_edge.models.ssd import SSD

logger = logging.getLogger(__name__)

CARD_KEY = "card"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        card: what the model is.
        state_dict: parameters and buffers; names equal torchvision's.
        training: optimiser state, epoch and so on of a `last.pt`; empty where the file is for use only.
    """

    card: ModelCard
    state_dict: dict[str, Tensor]
    training: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a `.safetensors` name leaves the training state out. The old file survives a failure.

    Raises:
        SinkError: the file cannot be written.
    """
    with atomic_path(path) as part:
        if path.suffix == ".safetensors":
            state = {name: value.contiguous() for name, value in checkpoint.state_dict.items()}
            save_file(state, part, metadata={CARD_KEY: checkpoint.card.to_json()})
            return
        content = {
            "format": CHECKPOINT_FORMAT,
            CARD_KEY: checkpoint.card.to_json(),
            "model": checkpoint.state_dict,
            "training": checkpoint.training,
        }
        try:
            torch.save(content, part)
        except RuntimeError as error:  # torch's file writer tells a full disk this way
            raise OSError(f"torch could not write it ({reason(error)})") from error


def load_checkpoint(path: Path, *, class_names: tuple[str, ...] | None = None) -> Checkpoint:
    """Read a checkpoint, onto the CPU: ours, or a detector of another project of which nothing has to be asked.

    Args:
        class_names: those that a detector of another project gets where its file has none, if it has as many classes;
            with others its made-up names stay. None: they have to be known.

    Raises:
        ModelFileError: no such file, no checkpoint of ssd-edge, or one that only pickle could load.
    """
    if not path.is_file():
        raise ModelFileError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        return _load_safetensors(path, class_names)
    content = load_tensors_only(path)
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        return _from_another_project(path, class_names)
    card, model, training = content.get(CARD_KEY), content.get("model"), content.get("training", {})
    if not isinstance(card, str) or not is_state_dict(model) or not isinstance(training, dict):
        raise ModelFileError(
            f"{path} is not whole: expected `{CARD_KEY}` as JSON text, `model` as tensors by name and `training` as "
            "a dictionary; write it with save_checkpoint"
        )
    return Checkpoint(ModelCard.from_json(card, source=str(path)), model, training)


def _from_another_project(path: Path, class_names: tuple[str, ...] | None) -> Checkpoint:
    """A detector of another project, where nothing has to be asked.

    Raises:
        ModelFileError: it is none that is known, or its class names are not.
    """
    imported = import_model([path])
    count = len(imported.card.class_names)
    if not imported.named and class_names is not None and len(class_names) == count:
        logger.info("%s: class names are not in the file; taken as %s, in this order", path, ", ".join(class_names))
        imported = replace(imported, card=replace(imported.card, class_names=class_names))
    if not imported.named and class_names is None:
        raise ModelFileError(
            f"{path} is {imported.family}'s {imported.variant} with {count} classes, whose "
            f"names are not in the file; run ssd-edge import {path} -o model.pt --classes NAMES, and take model.pt"
        )
    for assumption in imported.assumptions:
        logger.info("%s: %s", path, assumption)
    return Checkpoint(imported.card, imported.state_dict)


def _load_safetensors(path: Path, class_names: tuple[str, ...] | None) -> Checkpoint:
    state, metadata = load_safetensors(path)
    if CARD_KEY not in metadata:
        return _from_another_project(path, class_names)
    return Checkpoint(ModelCard.from_json(metadata[CARD_KEY], source=str(path)), state)


def model_from_checkpoint(path: Path) -> tuple[SSD, ModelCard]:
    """The model of a checkpoint, in float32 and evaluation mode, with its card.

    Raises:
        ModelFileError: as `load_checkpoint`; or the card's architecture is unknown, or it does not fit the weights.
    """
    checkpoint = load_checkpoint(path)
    return model_from(checkpoint, source=str(path)), checkpoint.card


def model_from(checkpoint: Checkpoint, *, source: str) -> SSD:
    """The model of a checkpoint in memory; `source` names it in messages.

    Raises:
        ModelFileError: the card's architecture is unknown, or it or its default boxes do not fit the weights.
    """
    card = checkpoint.card
    model = create_from_card(card, source=source)
    try:
        model.load_state_dict(
            {
                name: value.float() if value.is_floating_point() else value
                for name, value in checkpoint.state_dict.items()
            }
        )
    except RuntimeError as error:
        raise ModelFileError(
            f"{source}: the weights do not fit the card ({card.arch}, {len(card.class_names)} classes): "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    return model.eval()
