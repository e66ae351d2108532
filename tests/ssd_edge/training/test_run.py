"""A training reads a dataset, learns, and leaves checkpoints and a history; what cannot be trained shows before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssd_edge.checkpoint import load_checkpoint
from ssd_edge.data.codes.write import write_coco
from ssd_edge.data.readers import read_dataset
from ssd_edge.errors import DatasetError, SinkError, UsageError
from ssd_edge.training.config import RunSettings, TrainConfig
from ssd_edge.training.initial_model import ModelSettings
from ssd_edge.training.optimisation import Optimisation
from ssd_edge.training.run import train, train_on
from ssd_edge.training.splits import DataSettings
from tests.detectors.tiny_arch import WITH_NORM, write_yolo
from tests.ssd_edge.training.configs import changed
from tests.ssd_edge.training.histories import history


def test_training_writes_checkpoints_and_history(config: TrainConfig) -> None:
    best = train(config)
    checkpoint = load_checkpoint(best)
    assert checkpoint.card.class_names == ("square",)
    assert checkpoint.card.metrics.keys() == {"val_AP", "val_AP50", "val_AP75"}
    assert checkpoint.card.training_data
    last = load_checkpoint(config.run.output / "last.pt")
    assert last.training["step"] == 4  # 5 images (one is held out) in batches of 2, twice
    lines = history(config)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in lines)


def test_the_loss_falls(config: TrainConfig) -> None:
    train(changed(config, epochs=60, eval_every=60))
    losses = [line["loss"] for line in history(config)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("images", [1, 2])
def test_the_smallest_datasets_train(config: TrainConfig, tmp_path: Path, images: int) -> None:
    data = write_yolo(tmp_path / "tiny", images)
    assert train(changed(config, data=str(data), epochs=1)).exists()


def test_codes_need_no_dataset(tmp_path: Path) -> None:
    write_coco(tmp_path / "val", count=2, seed=99)  # the run would write 200 of them
    data, run = DataSettings("codes", scenes=2), RunSettings(tmp_path, workers=0, device="cpu")
    best = train(TrainConfig(data, run, ModelSettings(WITH_NORM), Optimisation(epochs=1, batch=2)))
    assert load_checkpoint(best).card.class_names == ("qr_code", "data_matrix", "aztec", "pdf417", "ean13")


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        train(TrainConfig(DataSettings(str(tmp_path / "absent")), RunSettings(tmp_path / "run")))
    run, dataset = RunSettings(tmp_path / "run"), read_dataset(write_yolo(tmp_path / "data", 2))
    with pytest.raises(UsageError, match="batch norm"):
        train_on(dataset, dataset, TrainConfig(DataSettings(""), run, ModelSettings(WITH_NORM), Optimisation(batch=1)))
    with pytest.raises(UsageError, match="epochs is 0"):
        Optimisation(epochs=0)
    with pytest.raises(UsageError, match="lr is -1"):
        Optimisation(lr=-1.0)


def test_an_unwritable_output_shows_before_training(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot write"):
        train(changed(config, output=tmp_path / "file" / "run"))


def test_what_cannot_be_scored_shows_before_training(config: TrainConfig, tmp_path: Path) -> None:
    dataset = read_dataset(Path(config.data.data))
    empty = replace(dataset, records=tuple(record.select(np.zeros(1, bool)) for record in dataset.records))
    with pytest.raises(DatasetError, match="no boxes of square"):
        train_on(dataset, empty, config)


def test_no_augment_shows_the_images_as_they_are(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("augmented")

    monkeypatch.setattr("ssd_edge.data.augment.TrainTransform.__call__", fail)
    assert train(changed(config, augment=False)).exists()
