"""Two processes train as one does; a real `torchrun` starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssd_edge.checkpoint import load_checkpoint
from ssd_edge.data.samples import EpochBatches
from ssd_edge.errors import UsageError
from ssd_edge.training.distributed import process_group
from tests.detectors.tiny_arch import WITH_NORM, WITHOUT_NORM, write_yolo
from tests.ssd_edge.training.configs import TINY_ARCH


def run(
    processes: int, data: Path, output: Path, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    fixed = "--workers 0 --threads 1 --device cpu --no-amp --split train --val-split val"
    command = [*start, TINY_ARCH, "train", str(data), "-o", str(output), *fixed.split(), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, env=os.environ | environment)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten images to train on, five to evaluate on."""
    folder = write_yolo(tmp_path / "data", 15)
    for name, numbers in (("train", range(10)), ("val", range(10, 15))):
        (folder / f"{name}.txt").write_text("\n".join(f"{folder}/images/{i}.png" for i in numbers))
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: train.txt\nval: val.txt\nnames: [square]\n")
    return folder / "data.yaml"


@pytest.mark.slow
def test_two_processes_have_the_loss_of_one(data: Path, tmp_path: Path) -> None:
    options = ("--arch", WITHOUT_NORM, "--epochs", "3", "--batch", "4", "--accumulate", "2")
    for processes in (1, 2):
        result = run(processes, data, tmp_path / str(processes), *options)
        assert result.returncode == 0, result.stderr
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("1", "2")
    )
    assert len(one) == len(two) == 3  # the first process alone writes
    for mine, theirs in zip(two, one, strict=True):
        for name in ("localisation", "classification", "AP", "AP50"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6)
    states = [load_checkpoint(tmp_path / name / "last.pt").training["weights"] for name in ("1", "2")]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_problem_in_one_process_keeps_the_steps_of_all(data: Path, tmp_path: Path) -> None:
    """An image goes once both have read the dataset. They stop at the same step, save it, and go on from it later."""
    options = ("--arch", WITH_NORM, "--epochs", "2", "--batch", "4")
    assert run(2, data, tmp_path / "whole", *options).returncode == 0
    result = run(2, data, tmp_path / "run", *options, SSD_EDGE_TEST_VANISH="1")
    assert result.returncode != 0
    assert "cannot read image" in result.stderr
    assert "another process of this training ended early" in result.stderr
    assert "Connection" not in result.stderr
    assert load_checkpoint(tmp_path / "run" / "last.pt").training["step"] == 3
    resumed = run(2, data, tmp_path / "run", *options, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    mine, theirs = (load_checkpoint(tmp_path / name / "last.pt").state_dict for name in ("run", "whole"))
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, atol=1e-6, rtol=1e-5)


def test_processes_share_every_batch() -> None:
    whole = EpochBatches(10, 4, 2, seed=3)
    shares = [EpochBatches(10, 4, 2, seed=3, rank=rank, world=2) for rank in (0, 1)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert sorted(first + second) == sorted(batch)
        assert len(first) == len(second) == 2
    assert shares[1].keys(3) == list(whole)[3]


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device here"), process_group("cuda"):
        pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="there are 2 GPUs"), process_group("cuda:2"):
        pass
    with pytest.raises(UsageError, match="expected cpu, cuda or"), process_group("gpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(UsageError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT, RANK not set; start with torchrun"),
        process_group("cuda"),
    ):
        pass
    for name, value in (("RANK", "2"), ("LOCAL_RANK", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="process 2 of this machine has no GPU, there are 2"), process_group("cuda"):
        pass
    with pytest.raises(UsageError, match="under torchrun"), process_group("cuda:1"):
        pass


def test_alone_it_is_a_group_of_one() -> None:
    with process_group("cpu") as group:
        assert group.is_first
        assert group.gather(5) == [5]
        assert group.broadcast("a") == "a"
        assert group.any(True)
        assert not group.any(False)
        assert group.sum(torch.tensor(3)) == 3
