"""What `last.pt` holds besides the model, and whether a run may go on from it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssd_edge.checkpoint import Checkpoint, load_checkpoint
from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.training.recipes import Recipe

# The keys of `Checkpoint.training`.
TRAINING_STATE = frozenset(
    (
        "settings",  # JSON of `TrainConfig.settings`
        "recipe",  # JSON of `Recipe`
        "val_data",  # fingerprint
        "weights",  # of the last step, where the model's are their average; else empty
        "ema_updates",
        "optimizer",
        "schedule",
        "scaler",
        "random",  # torch's generator
        "step",
        "epoch",  # sums over the epoch under way
        "best_ap",
    )
)


def load_earlier(last: Path, settings: dict[str, Any]) -> Checkpoint:
    """The checkpoint to resume from.

    Args:
        settings: of `TrainConfig.settings`.

    Raises:
        ModelFileError: it is not there, or holds no training state.
        UsageError: it was trained with other settings.
    """
    earlier = load_checkpoint(last)
    if not earlier.training.keys() >= TRAINING_STATE:
        raise ModelFileError(f"{last} holds no training state, so nothing to resume; train without --resume")
    _check(last, json.loads(earlier.training["settings"]), json.loads(json.dumps(settings)))
    return earlier


def check_recipe(last: Path, earlier: Checkpoint, recipe: Recipe) -> None:
    """Whether the preset still means what it meant when the run began.

    Raises:
        UsageError: it does not.
    """
    _check(last, json.loads(earlier.training["recipe"]), json.loads(json.dumps(asdict(recipe))))


def _check(last: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [f"{name} {before.get(name)!r} -> {value!r}" for name, value in now.items() if before.get(name) != value]
    if changed:
        raise UsageError(f"{last} was trained with other settings: {'; '.join(changed)}; resume with the same ones")
