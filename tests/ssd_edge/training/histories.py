"""What a training wrote to its history."""

from __future__ import annotations

import json
from typing import Any

from ssd_edge.training.config import TrainConfig


def history(config: TrainConfig) -> list[dict[str, Any]]:
    """The lines of `history.jsonl`, one for each epoch."""
    return [json.loads(line) for line in (config.run.output / "history.jsonl").read_text().splitlines()]


def epochs_in_history(config: TrainConfig) -> list[int]:
    return [line["epoch"] for line in history(config)]
