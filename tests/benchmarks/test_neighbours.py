"""Two processes next to each other: how their speed is read from what they print, and data that is long enough."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.neighbours import COUNT, ROOT, Command, Running, copies_of, speeds
from ssd_edge.data.readers import read_dataset

ENDLESS = Command("codes -o {out}/data --count 100000 --size 64x64", rf"scenes:{COUNT}")


def read(command: Command, *parts: str) -> list[float]:
    """What a process has done after each change, when it prints these parts."""
    terminal, its_end = os.pipe()
    process = subprocess.Popen(["true"])
    run = Running(command, process, Path())
    for part in parts:
        os.write(its_end, part.encode())
    os.close(its_end)
    run.read(terminal)
    os.close(terminal)
    process.wait()
    return [done for _, done in run.progress]


def test_the_last_count_of_the_right_bar() -> None:
    bars = "\rchecking images:  10%|#  | 7/70 [00:01<00:02]\r  3%|   | 3/96 [00:01<00:30]\r  4%|   | 4/96 [00:01<00:30]"
    assert read(Command("eval", rf"\r{COUNT}"), bars) == [4]
    assert read(Command("eval", rf"checking images:{COUNT}"), bars) == [7]


def test_what_is_printed_is_counted() -> None:
    assert read(Command("stream", '"schema"'), '{"schema": 1}\r\n{"schema": 1}\r\n{"sche') == [2]


def test_processes_at_the_same_time() -> None:
    alone, other = speeds([ENDLESS, ENDLESS], ROOT, 0.5)
    assert min(alone, other) > 1


def test_a_command_that_ends_is_told_with_what_it_said() -> None:
    with pytest.raises(SystemExit, match=r"ended too early:[\s\S]*no model file nowhere.onnx"):
        speeds([Command("bench nowhere.onnx --data nowhere", COUNT, report="bench.json")], ROOT, 0.5)


def test_the_same_images_many_times(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ssd_edge", "codes", "-o", str(tmp_path), "--count", "3", "--size", "64x64"]
    subprocess.run(command, check=True, capture_output=True)
    before = json.loads((tmp_path / "annotations.json").read_text())
    copies_of(tmp_path, 4)
    dataset = read_dataset(tmp_path)
    assert len(dataset) == 12
    assert sum(len(record.labels) for record in dataset.records) == 4 * len(before["annotations"])
