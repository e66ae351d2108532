"""Training starts from detectors of other projects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssd_edge.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ssd_edge.errors import UsageError
from ssd_edge.importers.family import Facts
from ssd_edge.importers.importing import import_model
from ssd_edge.models.create import create_model
from ssd_edge.models.layer_graph import DESCRIBED
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.initial_model import ModelSettings, arch_of_weights
from ssd_edge.training.run import train
from tests.ssd_edge.importers.caffe_import import write
from tests.ssd_edge.importers.caffe_networks import small
from tests.ssd_edge.training.configs import changed


@pytest.fixture
def caffe(tmp_path: Path) -> Path:
    names = ("square", "circle", "star")
    imported = import_model(write(tmp_path, small()), Facts(class_names=names, mean=(90.0, 91.0, 92.0)))
    save_checkpoint(tmp_path / "caffe.pt", Checkpoint(imported.card, imported.state_dict))
    return tmp_path / "caffe.pt"


def test_a_network_of_caffe_trains_and_goes_on(config: TrainConfig, caffe: Path) -> None:
    start = load_checkpoint(caffe)
    assert arch_of_weights(str(caffe)) == DESCRIBED
    still = changed(config, arch=DESCRIBED, weights=str(caffe), epochs=1, lr=1e-9, weight_decay=0.0)
    tuned = load_checkpoint(train(still))
    assert tuned.card.network == start.card.network
    for name in ("height", "width", "mean", "std", "box_coding", "clip_before_nms"):
        assert getattr(tuned.card, name) == getattr(start.card, name)
    heads = [name for name in start.state_dict if name.startswith("head.classification_head")]
    for name, value in tuned.state_dict.items():
        if name not in heads and "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, start.state_dict[name], atol=1e-6, rtol=1e-5)
    resumed = train(changed(still, resume=True))
    assert load_checkpoint(resumed).card.arch == DESCRIBED


def test_a_description_has_to_be_given() -> None:
    with pytest.raises(UsageError, match="give that with --weights"):
        ModelSettings(DESCRIBED)


def test_names_that_no_file_has_are_the_datasets_where_their_number_fits(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arch = "ssdlite320_mobilenet_v3_large"
    for classes, kept in ((1, None), (2, "none kept, square start anew")):
        torch.save(create_model(arch, classes).state_dict(), tmp_path / "theirs.pth")
        assert arch_of_weights(str(tmp_path / "theirs.pth")) == arch
        output = tmp_path / f"run{classes}"
        weights = str(tmp_path / "theirs.pth")
        train(changed(config, arch=arch, weights=weights, epochs=1, output=output, batch=2, workers=0))
        said = capsys.readouterr().err
        assert (kept is None) == ("other classes than those of the weights" not in said)
        assert kept is None or kept in said
