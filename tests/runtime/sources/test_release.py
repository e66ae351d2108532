"""A source that is closed lets go of its decoder at once, and does not wait for the garbage collector.

That may come by only minutes later: until then each time that a file begins again would leave a decoder behind, with
its threads and pictures.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.base import Place, Source, SourceOptions
from ssd_edge.runtime.sources.find import find_source
from ssd_edge.runtime.sources.worker import Retry, SourceWorker
from tests.fakes.scripted_sources import wait_for
from tests.runtime.sources.sample_video import encode, ramp
from tests.runtime.sources.servers import raw_server, web_server

TASKS = Path("/proc/self/task")
OPTIONS = SourceOptions(decoder_threads=3)
KINDS = ("h264.mp4", "mpeg4.avi", "mjpeg.avi", "images", "played.mp4", "http.mp4", "parts.mjpeg", "gstreamer.mp4")


@pytest.fixture(scope="module", autouse=True)
def _after_the_first_opening(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Libraries start threads of their own once."""
    path = tmp_path_factory.mktemp("first") / "first.mp4"
    encode(path, [ramp()] * 3)
    with find_source(path, OPTIONS).open() as source:
        assert len(list(source.frames())) == 3


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def tasks() -> int:
    """Threads of this process, FFmpeg's too."""
    return len(os.listdir(TASKS)) if TASKS.is_dir() else 0


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Ten frames, in a file or at an address of that kind."""
    name: str = request.param
    pictures = [ramp(shift=shift) for shift in range(10)]
    jpegs = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
    if name == "images":
        for number, jpeg in enumerate(jpegs):
            (tmp_path / f"{number}.jpg").write_bytes(jpeg)
        yield find_source(tmp_path, OPTIONS)
    elif name == "parts.mjpeg":
        body = b"".join(b"--f\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg + b"\r\n" for jpeg in jpegs)
        head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=f\r\n\r\n"
        with raw_server(head + body) as server:
            yield find_source(f"http://{server.place}/", OPTIONS)
    else:
        codec = {"mpeg4.avi": "mpeg4", "mjpeg.avi": "mjpeg"}.get(name, "libx264")
        encode(tmp_path / name, pictures, codec=codec, pixel_format="yuvj420p" if codec == "mjpeg" else "yuv420p")
        if name == "http.mp4":
            with web_server(tmp_path) as address:
                yield find_source(f"{address}/{name}", OPTIONS)
        elif name == "gstreamer.mp4":
            request.getfixturevalue("gstreamer")
            yield find_source(tmp_path / name, replace(OPTIONS, hwaccel="gstreamer"))
        else:
            yield find_source(tmp_path / name, replace(OPTIONS, realtime=name == "played.mp4"))


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("frames", [0, 3, 10])
@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_a_closed_source_is_let_go(place: Place, frames: int) -> None:
    def read() -> weakref.ref[Source]:
        with place.open() as source, suppress(SourceError):  # a live one ends with an error
            for frame in source.frames():
                if frame.index + 1 >= frames:
                    break
        return weakref.ref(source)

    assert read()() is None
    before = tasks()
    for _ in range(5):
        assert read()() is None
    wait_for(lambda: tasks() <= before)


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("place", ["h264.mp4", "mjpeg.avi", "http.mp4", "parts.mjpeg"], indirect=True)
def test_a_source_that_begins_again_leaves_nothing_of_its_last_time(place: Place) -> None:
    """A file because it is to, an address because it failed."""
    with playing(place, times=6, loop=True) as opened:
        # One that is being opened, and the one before.
        wait_for(lambda: sum(one() is not None for one in opened) <= 2)


@pytest.mark.usefixtures("without_collector")
def test_a_stream_that_fell_silent_is_let_go_when_it_goes_on(tmp_path: Path) -> None:
    """Its error must not hold it: the exception of FFmpeg's that it comes from has seen the source."""
    noise = np.random.default_rng(0).integers(0, 256, (10, 240, 320, 3), np.uint8)  # enough for FFmpeg to open it
    encode(tmp_path / "a.ts", list(noise))
    body = 3 * (tmp_path / "a.ts").read_bytes()
    end = threading.Event()

    def answer(_: str) -> Iterator[bytes]:
        yield b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + body
        if len(server.requests) == 1:
            end.wait(20)
        while not end.wait(0.1):
            yield body

    with raw_server(answer) as server:
        place = find_source(f"http://{server.place}/", replace(OPTIONS, timeout_s=1.0))
        with playing(place, times=2) as opened:
            wait_for(lambda: opened[0]() is None)
            assert opened[1]() is not None
            end.set()


@contextmanager
def playing(place: Place, *, times: int, loop: bool = False) -> Iterator[list[weakref.ref[Source]]]:
    """Take its frames until it has been opened so often; gives all that was opened."""
    opened: list[weakref.ref[Source]] = []

    def open_place() -> Source:
        source = place.open()
        opened.append(weakref.ref(source))
        return source

    changed = threading.Condition()
    at_once = Retry(first_s=0.01, most_s=0.01)
    worker = SourceWorker(replace(place, open=open_place), changed, loop=loop, retry=at_once)
    worker.start()
    try:
        until = time.monotonic() + 30
        while len(opened) < times and time.monotonic() < until:
            with changed:
                changed.wait_for(lambda: worker.ready or worker.over, 0.1)
                while worker.ready:
                    worker.take()
        assert len(opened) >= times
        yield opened
    finally:
        assert worker.close(5)
