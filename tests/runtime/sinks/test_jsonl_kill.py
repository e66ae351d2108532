"""JSON lines outlive `kill -9`: all that was written is there, in order, and at most the last line is cut."""

import json
import multiprocessing
import random
import signal
import time
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from ssd_edge.detections import Detections
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks import save as sinks
from ssd_edge.runtime.sinks.jsonl import JsonLinesSink
from ssd_edge.runtime.sources.base import Frame

DETECTIONS = 100  # in some frames: a line of 10 kB, longer than any buffer on its way


def result(index: int) -> Result:
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
        one = result(index)
        sink.write(one, one.frame.image_bgr)
        written.send(index)


def kill_a_writer(path: Path) -> int:
    """Kill at a random moment a process that writes; how many frames it said were written."""
    context = multiprocessing.get_context("forkserver")  # imports once, and has no threads of this process
    context.set_forkserver_preload([sinks.__name__, pytest.__name__])
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
        assert not rest or (len(records) == told and json.dumps(result(told).record()).encode().startswith(rest))
