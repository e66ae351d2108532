"""Two processes train as one does; a real `torchrun` starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_arch import WITH_NORM, WITHOUT_NORM, write_yolo

from ssd_edge.checkpoint import load_checkpoint
from ssd_edge.data.samples import EpochBatches
from ssd_edge.errors import UsageError
from ssd_edge.training.distributed import process_group

TINY_ARCH = str(Path(__file__).with_name("tiny_arch.py"))


def run(processes: int, data: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    fixed = "--workers 0 --threads 1 --device cpu --no-amp --split train --val-split val"
    command = [*start, TINY_ARCH, "train", str(data), "-o", str(output), *fixed.split(), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


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
def test_two_processes_resume_and_refuse_too_small_batches(data: Path, tmp_path: Path) -> None:
    options = ("--arch", WITH_NORM, "--epochs", "2", "--batch", "4")
    assert run(2, data, tmp_path / "run", *options).returncode == 0
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    assert last.training["step"] == 4
    result = run(2, data, tmp_path / "run", *options, "--resume")
    assert result.returncode == 0, result.stderr
    small = run(2, data, tmp_path / "small", "--arch", WITH_NORM, "--batch", "2")
    assert small.returncode != 0
    assert "in 2 processes and 1 parts each leaves a part 1 images; tiny needs at least 2" in small.stderr


def test_processes_share_every_batch() -> None:
    whole = EpochBatches(10, 4, 2, seed=3)
    shares = [EpochBatches(10, 4, 2, seed=3, rank=rank, world=2) for rank in (0, 1)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert sorted(first + second) == sorted(batch)
        assert len(first) == len(second) == 2
    assert shares[1].keys(3) == list(shares[1])[3]


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device here"), process_group("cuda"):
        pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="there are 2 GPUs"), process_group("cuda:2"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
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
