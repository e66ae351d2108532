"""`ssd-edge train`."""

from pathlib import Path

from ssd_edge.cli.main import build_parser
from ssd_edge.training.config import RunSettings, TrainConfig
from ssd_edge.training.splits import DataSettings


def test_train_defaults_are_those_of_the_library() -> None:
    args = build_parser().parse_args(["train", "data", "-o", "out"])
    config = TrainConfig(DataSettings("data"), RunSettings(Path("out")))
    for name, value in config.flat().items():
        assert getattr(args, name) == value, name
