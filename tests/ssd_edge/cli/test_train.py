"""`ssd-edge train`."""

from dataclasses import fields
from pathlib import Path

from ssd_edge.cli.main import build_parser
from ssd_edge.training.config import TrainConfig


def test_train_defaults_are_those_of_the_library() -> None:
    args = build_parser().parse_args(["train", "data", "-o", "out"])
    config = TrainConfig(data="data", output=Path("out"))
    for field in fields(TrainConfig):
        assert getattr(args, field.name) == getattr(config, field.name), field.name
