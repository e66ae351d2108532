"""JSON lines hold what was seen, whatever their reader, their disk or `kill -9` does."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from contextlib import closing, suppress
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from ssd_edge.detections import Detections
from ssd_edge.errors import SinkError
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks import jsonl
from ssd_edge.runtime.sinks.base import EndOfStream
from ssd_edge.runtime.sinks.jsonl import JsonLinesSink
from ssd_edge.runtime.sources.base import Frame
from tests.fakes.any_source import AnySource
from tests.runtime.sinks.frames import feed, frame, result

DETECTIONS = 100  # in some frames: a line of 10 kB, longer than any buffer on its way


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    feed(JsonLinesSink(str(path), AnySource()), frame(0), frame(7, (9, 8), at=2.0, name="é.png"))
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert second["time"] - first["time"] == pytest.approx(2)
    assert second == result(frame(7, (9, 8), at=2.0, name="é.png")).record()
    detection = {"class": "ß", "label": 1, "score": 0.75, "box_xyxy": [1.0, 2.5, 30.0, 40.12]}
    assert first["detections"] == second["detections"] == [detection]
    assert (second["source"], second["name"], second["width"], second["height"]) == ("any", "é.png", 8, 9)


def test_json_lines_are_added_to_a_file_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for index in range(3):  # from nothing, after a whole line, after half of one
        feed(JsonLinesSink(str(path), AnySource(), append=True), frame(index))
        if index == 1:
            path.write_text(path.read_text() + '{"schema": 1, "sour')
    first, second, cut, third = path.read_text().splitlines()
    assert [json.loads(line)["frame"] for line in (first, second, third)] == [0, 1, 2]
    assert cut == '{"schema": 1, "sour'
    feed(JsonLinesSink("/dev/null", AnySource(), append=True), frame(9))  # no file that has an end
    feed(JsonLinesSink(str(path), AnySource()), frame(9))
    assert len(path.read_text().splitlines()) == 1


def test_json_lines_of_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    feed(JsonLinesSink(str(tmp_path / "a.jsonl"), AnySource()), frame(0, name=name), frame(1))
    first, _ = map(json.loads, (tmp_path / "a.jsonl").read_text(encoding="ascii").splitlines())
    assert first["name"] == name


def test_json_lines_to_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    feed(JsonLinesSink("-", AnySource()), frame(3))
    assert json.loads(capsys.readouterr().out)["frame"] == 3
    assert not sys.stdout.closed


def test_json_lines_to_a_reader_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
    with closing(JsonLinesSink("-", AnySource())) as sink, pytest.raises(EndOfStream):
        sink.write(result(frame()), frame().image_bgr)
    sys.stdout.close()


@pytest.fixture
def named_pipe(tmp_path: Path) -> Path:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_json_lines_to_a_named_pipe_and_to_its_reader_that_has_gone(
    named_pipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reader = os.open(named_pipe, os.O_RDONLY | os.O_NONBLOCK)
    with closing(JsonLinesSink(str(named_pipe), AnySource())) as sink:
        sink.write(result(frame(5)), frame().image_bgr)
        assert json.loads(os.read(reader, 4096))["frame"] == 5
        os.close(reader)
        with pytest.raises(EndOfStream):
            sink.write(result(frame()), frame().image_bgr)
    os.write(sys.stdout.fileno(), b"still there")
    assert capfd.readouterr().out == "still there"


def test_json_lines_to_a_named_pipe_that_nothing_reads(named_pipe: Path) -> None:
    with pytest.raises(SinkError, match="start its reader first"):
        JsonLinesSink(str(named_pipe), AnySource())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("target", ["/dev/full", "-"])
def test_json_lines_to_a_full_disk(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", full)
    with (
        pytest.raises(SinkError, match="is the disk full"),
        closing(JsonLinesSink(target, AnySource())) as sink,
    ):
        sink.write(result(frame()), frame().image_bgr)
    full.close()


def long_result(index: int) -> Result:
    """Frame of that number, with a detection in some and many in others."""
    found = 1 if index % 3 else DETECTIONS
    detections = Detections(
        np.tile([1.0, 2.5, 30.0, 40.123], (found, 1)), np.full(found, 0.75), np.zeros(found, np.int64)
    )
    return Result("door", Frame(np.zeros((48, 64, 3), np.uint8), index, 0.0, "door"), detections, ("person",), 1.0)


def write_for_ever(path: Path, written: Connection) -> None:
    """Tells of each frame when it is written."""
    sink = JsonLinesSink(str(path))
    for index in count():
        one = long_result(index)
        sink.write(one, one.frame.image_bgr)
        written.send(index)


def kill_a_writer(path: Path) -> int:
    """Kill at a random moment a process that writes; how many frames it said were written."""
    context = multiprocessing.get_context("forkserver")  # imports once, and has no threads of this process
    context.set_forkserver_preload([jsonl.__name__, pytest.__name__])
    written, end = context.Pipe(duplex=False)
    process = context.Process(target=write_for_ever, args=(path, end))
    process.start()
    end.close()
    told = 0
    for _ in range(random.randrange(1, 100)):
        told = written.recv() + 1
    kill_at = time.monotonic() + random.uniform(0, 0.02)
    while time.monotonic() < kill_at:
        while written.poll():
            told = written.recv() + 1
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with suppress(EOFError), written:
        while True:
            told = written.recv() + 1
    return told


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_9_cuts_at_most_the_last_line(tmp_path: Path, kills: int) -> None:
    for kill in range(kills):
        path = tmp_path / f"{kill}.jsonl"
        told = kill_a_writer(path)
        *lines, rest = path.read_bytes().split(b"\n")  # the rest is what has no end of line
        records = [json.loads(line) for line in lines]
        assert [record["frame"] for record in records] == list(range(len(records)))
        assert all(len(record["detections"]) == (1 if record["frame"] % 3 else DETECTIONS) for record in records)
        assert told <= len(records) <= told + 1  # the last one may have been written, but not told
        assert not rest or (len(records) == told and json.dumps(long_result(told).record()).encode().startswith(rest))
