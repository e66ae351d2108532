"""The best weights are kept and the last ones saved, whatever the evaluation and the disk do."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from ssd_edge.checkpoint import load_checkpoint
from ssd_edge.training.checkpoints import CheckpointedTrainer
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.run import train
from tests.detectors.tiny_arch import WITH_NORM
from tests.ssd_edge.training.configs import TINY_ARCH, changed
from tests.ssd_edge.training.histories import epochs_in_history, history
from tests.ssd_edge.training.interrupts import stop_at


def with_scores(scores: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the evaluations give these APs, one after the other; NaN raises."""
    rest = iter(scores)

    def evaluate(_: CheckpointedTrainer) -> dict[str, float]:
        score = next(rest)
        if np.isnan(score):
            raise KeyboardInterrupt
        return dict.fromkeys(("AP", "AP50", "AP75"), score)

    monkeypatch.setattr(CheckpointedTrainer, "evaluate", evaluate)


def test_the_best_is_kept(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with_scores([0.3, 0.5, 0.4], monkeypatch)
    assert load_checkpoint(train(changed(config, epochs=3))).card.metrics["val_AP"] == 0.5


def test_an_evaluation_that_was_interrupted_is_made_up_for(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_scores([np.nan, 0.7], monkeypatch)
    config = changed(config, eval_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert load_checkpoint(config.run.output / "last.pt").training["step"] == 4
    assert not (config.run.output / "best.pt").exists()
    assert load_checkpoint(train(changed(config, resume=True))).card.metrics["val_AP"] == 0.7
    assert epochs_in_history(config) == [1, 2]


def test_evaluation_every_nth_epoch_and_after_the_last(config: TrainConfig) -> None:
    train(changed(config, epochs=5, eval_every=2))
    assert [line["epoch"] for line in history(config) if "AP" in line] == [2, 4, 5]


def test_without_an_average_the_last_weights_are_saved_once(config: TrainConfig) -> None:
    train(changed(config, ema=0.0))
    last = load_checkpoint(config.run.output / "last.pt")
    assert last.training["weights"] == {}


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_checkpoint(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on a file's size stands for the disk's: the next checkpoint does not fit."""
    stop_at(config, 2, monkeypatch)
    last = config.run.output / "last.pt"
    before = last.read_bytes()
    assert len(before) > 8 * 1024
    options = "--epochs 2 --batch 2 --workers 0 --threads 1 --device cpu --no-amp --resume"
    data, output = config.data.data, config.run.output
    command = f"{sys.executable} {TINY_ARCH} train {data} -o {output} --arch {WITH_NORM} {options}"
    limited = ["bash", "-c", f"ulimit -f 8; exec {command}"]  # 8 blocks of 1024 bytes
    result = subprocess.run(limited, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert re.search(r"error: cannot write .*last\.pt: .*choose a folder that .* has space", result.stderr), (
        result.stderr
    )
    assert "Traceback" not in result.stderr
    assert last.read_bytes() == before
    assert not list(config.run.output.glob(".*.part"))
