"""A resumed run equals one that was never stopped, and refuses what does not fit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssd_edge.checkpoint import load_checkpoint
from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.recipes import recipe_for
from ssd_edge.training.run import train
from tests.detectors.tiny_arch import WITH_NORM
from tests.ssd_edge.training.configs import TINY_ARCH, changed
from tests.ssd_edge.training.histories import history
from tests.ssd_edge.training.interrupts import stop_at


@pytest.mark.slow
def test_interrupted_and_resumed_equals_never_stopped(config: TrainConfig, tmp_path: Path) -> None:
    """Real signals in the middle, to the whole process group, as a terminal and a supervisor send them."""

    def start(output: Path, *more: str) -> subprocess.Popen[str]:
        options = f"--arch {WITH_NORM} --epochs 40 --batch 2 --eval-every 1000 --workers 1 --threads 1 --device cpu"
        command = [sys.executable, TINY_ARCH, "train", config.data.data, "-o", str(output), *options.split(), *more]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    whole = start(tmp_path / "whole")
    _, errors = whole.communicate(timeout=120)
    assert whole.returncode == 0, errors

    last, steps = tmp_path / "stopped" / "last.pt", [0]
    for number in (signal.SIGINT, signal.SIGTERM):
        before = last.stat().st_mtime_ns if last.exists() else None
        stopped = start(last.parent, *(["--resume"] if last.exists() else []))
        while not last.exists() or last.stat().st_mtime_ns == before:  # until it has finished an epoch
            assert stopped.poll() is None
            time.sleep(0.01)
        os.killpg(stopped.pid, number)
        _, errors = stopped.communicate(timeout=120)
        assert stopped.returncode == 130, errors
        assert "go on with --resume" in errors
        assert "Traceback" not in errors
        steps.append(load_checkpoint(last).training["step"])
    assert 0 < steps[1] < steps[2] < 80, steps

    resumed = start(tmp_path / "stopped", "--resume")
    assert resumed.wait(timeout=120) == 0
    ours = load_checkpoint(tmp_path / "stopped" / "last.pt")
    theirs = load_checkpoint(tmp_path / "whole" / "last.pt")
    assert ours.training["step"] == theirs.training["step"] == 80
    assert all(torch.equal(ours.state_dict[name], value) for name, value in theirs.state_dict.items())
    weights = theirs.training["weights"]  # those of the last step, beside their average
    assert weights.keys() == theirs.state_dict.keys()
    assert all(torch.equal(ours.training["weights"][name], value) for name, value in weights.items())


@pytest.mark.parametrize("changes", [{"ema": 0.0}, {"amp": True}, {"accumulate": 1, "preset": "torchvision"}])
def test_every_kind_of_state_survives_a_resume(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    """Without an average; in bfloat16; with SGD, momentum and a warm-up. Losses of a whole epoch are reported too."""
    config = changed(config, epochs=3, **changes)
    whole = changed(config, output=config.run.output / "whole")
    train(whole)
    stop_at(config, 3, monkeypatch)  # in the middle of the second epoch
    train(changed(config, resume=True))
    mine, theirs = (load_checkpoint(c.run.output / "last.pt") for c in (config, whole))
    assert mine.training["step"] == theirs.training["step"] == 6
    for name, value in theirs.state_dict.items():
        assert torch.equal(mine.state_dict[name], value), name
    for line, expected in zip(history(config), history(whole), strict=True):
        assert {k: line[k] for k in ("epoch", "loss", "AP")} == {k: expected[k] for k in ("epoch", "loss", "AP")}


def test_resume_refuses_other_settings(config: TrainConfig) -> None:
    with pytest.raises(ModelFileError, match="no checkpoint at"):
        train(changed(config, resume=True))
    train(changed(config, epochs=1))
    with pytest.raises(UsageError, match="is there already: go on with --resume"):
        train(config)
    with pytest.raises(UsageError, match=r"epochs 1 -> 2; batch 2 -> 3"):
        train(changed(config, epochs=2, batch=3, resume=True))
    (config.run.output / "best.pt").rename(config.run.output / "last.pt")
    with pytest.raises(ModelFileError, match="holds no training state"):
        train(changed(config, epochs=1, resume=True))


def test_resume_refuses_changed_data(config: TrainConfig) -> None:
    train(changed(config, epochs=1))
    (Path(config.data.data) / "classes.txt").write_text("square\ncircle\n")
    with pytest.raises(UsageError, match="are not those of the run to resume"):
        train(changed(config, epochs=1, resume=True))


def test_a_moved_dataset_can_be_resumed(config: TrainConfig, tmp_path: Path) -> None:
    train(changed(config, epochs=1))
    moved = Path(config.data.data).rename(tmp_path / "moved")
    assert train(changed(config, data=str(moved), epochs=1, resume=True)).name == "best.pt"


def test_a_resume_needs_the_weights_it_began_with_no_more(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = train(config).rename(tmp_path / "start.pt")
    config = changed(config, weights=str(start), output=tmp_path / "tuned")
    stop_at(config, 2, monkeypatch)
    start.unlink()
    assert train(changed(config, resume=True)).exists()


def test_a_preset_that_changed_is_not_resumed(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(config, 2, monkeypatch)
    recipe = replace(recipe_for("small", config.model.arch), ema=0.5)
    monkeypatch.setattr("ssd_edge.training.optimisation.recipe_for", lambda *_, **__: recipe)
    with pytest.raises(UsageError, match=r"ema 0\.998 -> 0\.5"):
        train(changed(config, resume=True))
