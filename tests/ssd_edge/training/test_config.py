"""Settings: values out of range are refused; files on disk hold them flat, by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssd_edge.errors import UsageError
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.run import train
from tests.ssd_edge.training.configs import changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip": -1.0}, "clip is -1.0; expected a number from 0"),
        ({"hflip": 2.0}, "hflip is 2.0; expected a number from 0 to 1"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"data": "codes", "hflip": 0.5}, "hflip: the scenes of codes have no splits"),
        ({"default_boxes": "mine"}, "unknown default_boxes 'mine'; there are own, fit, ssd300"),
        ({"weights": "coco"}, "no weights coco are published for tiny; there are none"),
        ({"eval_every": 0}, "eval_every is 0"),
    ],
)
def test_values_out_of_range(config: TrainConfig, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        changed(config, **changes)


# By these names runs are resumed, also those that began with an earlier version.
COMPARED = {
    "arch",
    *("preset", "epochs", "batch", "accumulate", "lr", "weight_decay", "ema", "clip", "warmup", "hflip", "zoom_out"),
    *("augment", "seed", "scenes", "weights", "trainable_layers", "default_boxes", "amp"),
}
FREE = {
    *("data", "output", "split", "val_split", "eval_every", "workers", "threads", "device", "compile", "tensorboard"),
    *("strict", "resume"),
}


def test_settings_have_one_name_each() -> None:
    config = TrainConfig.from_flat({"data": "images", "output": Path("run"), "scenes": 5, "other": 1})
    assert (config.data.data, config.run.output, config.data.scenes) == ("images", Path("run"), 5)
    assert config.flat().keys() == COMPARED | FREE
    assert config.settings().keys() == COMPARED
    assert TrainConfig.from_flat(config.flat()) == config


def test_the_folder_of_a_run_says_how_it_was_made(config: TrainConfig) -> None:
    train(config)
    written = json.loads((config.run.output / "config.json").read_text())
    assert written == config.flat() | {"output": str(config.run.output)}
