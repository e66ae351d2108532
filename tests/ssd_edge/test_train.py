"""A training learns, stops, resumes bit-equal, and refuses what does not fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ssd_edge.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ssd_edge.data.codes import write_coco
from ssd_edge.data.readers import read_dataset
from ssd_edge.errors import DatasetError, ModelFileError, UsageError
from ssd_edge.models.create import create_model
from ssd_edge.train import TrainConfig, hold_out, read_data, train


def write_yolo(folder: Path, count: int, classes: tuple[str, ...] = ("square",)) -> Path:
    """Grey images with one white square each."""
    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        x, y = (int(v) for v in random.integers(0, 48, 2))
        image = np.full((96, 96, 3), 60, np.uint8)
        image[y : y + 48, x : x + 48] = 250
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
        (folder / "labels" / f"{number}.txt").write_text(f"0 {(x + 24) / 96} {(y + 24) / 96} 0.5 0.5\n")
    (folder / "classes.txt").write_text("\n".join(classes) + "\n")
    return folder


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    data = write_yolo(tmp_path / "data", 6)
    return TrainConfig(str(data), tmp_path / "run", epochs=2, batch=2, workers=0, device="cpu", amp=False)


def test_training_writes_checkpoints_and_history(config: TrainConfig) -> None:
    best = train(config)
    checkpoint = load_checkpoint(best)
    assert checkpoint.card.class_names == ("square",)
    assert checkpoint.card.metrics.keys() == {"val_AP", "val_AP50", "val_AP75"}
    assert checkpoint.card.training_data
    last = load_checkpoint(config.output / "last.pt")
    assert last.training["step"] == 4  # 5 images (one is held out) in batches of 2, twice
    history = [json.loads(line) for line in (config.output / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in history)


def test_the_loss_falls(config: TrainConfig) -> None:
    train(replace(config, epochs=8))
    losses = [json.loads(line)["loss"] for line in (config.output / "history.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]


START = """
import sys
from pathlib import Path
from ssd_edge.models.create import create_model
from ssd_edge.train import TrainConfig, train
data, output, resume = sys.argv[1:]
try:
    train(TrainConfig(data, Path(output), epochs=3, batch=2, workers=1, threads=1, device="cpu", amp=False,
                      resume=resume == "resume"))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
def test_interrupted_and_resumed_equals_never_stopped(config: TrainConfig, tmp_path: Path) -> None:
    """Ctrl-C in the middle, by a real signal to the whole process group, as a terminal sends it."""

    def start(output: Path, resume: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", START, config.data, str(output), resume]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    whole = start(tmp_path / "whole", "new")
    assert whole.wait(timeout=120) == 0

    stopped = start(tmp_path / "stopped", "new")
    while not (tmp_path / "stopped" / "last.pt").exists():  # the first epoch is done
        assert stopped.poll() is None
        time.sleep(0.01)
    os.killpg(stopped.pid, signal.SIGINT)
    _, errors = stopped.communicate(timeout=120)
    assert stopped.returncode == 130, errors
    assert "go on with --resume" in errors
    assert "Traceback" not in errors
    assert 2 <= load_checkpoint(tmp_path / "stopped" / "last.pt").training["step"] < 6

    resumed = start(tmp_path / "stopped", "resume")
    assert resumed.wait(timeout=120) == 0
    ours = load_checkpoint(tmp_path / "stopped" / "last.pt")
    theirs = load_checkpoint(tmp_path / "whole" / "last.pt")
    assert ours.training["step"] == theirs.training["step"] == 6
    assert all(torch.equal(ours.state_dict[name], value) for name, value in theirs.state_dict.items())


def test_resume_refuses_other_settings(config: TrainConfig) -> None:
    with pytest.raises(ModelFileError, match="no checkpoint at"):
        train(replace(config, resume=True))
    train(replace(config, epochs=1))
    with pytest.raises(UsageError, match="is there already: go on with --resume"):
        train(config)
    with pytest.raises(UsageError, match=r"epochs 1 -> 2; batch 2 -> 3"):
        train(replace(config, epochs=2, batch=3, resume=True))
    (config.output / "best.pt").rename(config.output / "last.pt")
    with pytest.raises(ModelFileError, match="holds no training state"):
        train(replace(config, epochs=1, resume=True))


def test_a_checkpoint_to_start_from(config: TrainConfig, tmp_path: Path) -> None:
    """Fine-tuning with other classes: only the class heads start anew."""
    torch.manual_seed(5)
    start = create_model(config.arch, 3)
    card = start.make_card(("a", "b", "c"), (1, 2, 3))
    save_checkpoint(tmp_path / "start.pt", Checkpoint(card, start.state_dict()))
    tiny = replace(config, epochs=1, lr=1e-9, weight_decay=0.0, weights=str(tmp_path / "start.pt"))
    tuned = load_checkpoint(train(tiny)).state_dict
    for name, parameter in start.named_parameters():
        if name.startswith("head.classification_head") and ".1." in name:
            continue
        torch.testing.assert_close(tuned[name], parameter.detach(), atol=1e-6, rtol=0)
    with pytest.raises(ModelFileError, match="another architecture"):
        train(replace(tiny, arch="ssd300_vgg16", output=tmp_path / "vgg"))


def test_resume_refuses_changed_data(config: TrainConfig) -> None:
    train(replace(config, epochs=1))
    (Path(config.data) / "classes.txt").write_text("square\ncircle\n")
    with pytest.raises(UsageError, match="the data have changed"):
        train(replace(config, epochs=1, resume=True))


def test_splits_are_chosen_and_may_be_named(shared_data: Path, tmp_path: Path) -> None:
    config = TrainConfig(str(shared_data / "bccd"), tmp_path)
    train_set, val_set = read_data(config)
    assert train_set is not None
    assert (len(train_set), len(val_set)) == (205, 87)
    train_set, val_set = read_data(replace(config, split="train+val", val_split="test"))
    assert train_set is not None
    assert (len(train_set), len(val_set)) == (292, 72)
    assert train_set.class_names == val_set.class_names == ("Platelets", "RBC", "WBC")


def test_a_tenth_is_held_out_where_there_is_no_split(tmp_path: Path) -> None:
    dataset = read_dataset(write_yolo(tmp_path / "data", 20))
    train_set, val_set = hold_out(dataset, seed=0)
    assert (len(train_set), len(val_set)) == (18, 2)
    paths = {record.path for record in train_set.records} | {record.path for record in val_set.records}
    assert len(paths) == 20
    one = read_dataset(write_yolo(tmp_path / "one", 1))
    assert [len(part) for part in hold_out(one, seed=0)] == [1, 1]


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        train(TrainConfig(str(tmp_path / "absent"), tmp_path / "run"))
    with pytest.raises(UsageError, match="epochs is 0"):
        TrainConfig("codes", tmp_path, epochs=0)
    with pytest.raises(UsageError, match="lr is -1"):
        TrainConfig("codes", tmp_path, lr=-1.0)


def test_codes_need_no_dataset(tmp_path: Path) -> None:
    write_coco(tmp_path / "val", count=2, seed=99)  # the run would write 200 of them
    best = train(TrainConfig("codes", tmp_path, epochs=1, batch=2, scenes=2, workers=0, device="cpu"))
    assert load_checkpoint(best).card.class_names == ("qr_code", "data_matrix", "aztec", "pdf417", "ean13")
