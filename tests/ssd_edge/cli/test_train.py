"""`ssd-edge train`."""

from pathlib import Path

import torch

from ssd_edge.cli.main import build_parser
from ssd_edge.cli.train import config_of
from ssd_edge.models.create import create_model
from ssd_edge.training.config import RunSettings, TrainConfig
from ssd_edge.training.splits import DataSettings


def test_train_defaults_are_those_of_the_library() -> None:
    args = build_parser().parse_args(["train", "data", "-o", "out"])
    config = TrainConfig(DataSettings("data"), RunSettings(Path("out")))
    for name, value in config_of(args).flat().items():
        assert value == config.flat()[name], name
        assert name == "arch" or getattr(args, name) == value, name


def test_the_architecture_is_that_of_the_weights(tmp_path: Path) -> None:
    torch.save(create_model("ssd300_vgg16", 2).state_dict(), tmp_path / "theirs.pth")
    weights = ["train", "data", "-o", "out", "--weights", str(tmp_path / "theirs.pth")]
    assert config_of(build_parser().parse_args(weights)).model.arch == "ssd300_vgg16"
    chosen = build_parser().parse_args([*weights, "--arch", "ssd512_vgg16"])
    assert config_of(chosen).model.arch == "ssd512_vgg16"
