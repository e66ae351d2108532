"""Frames have the times that their container gives them."""

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssd_edge.runtime.sources.base import Frame, SourceOptions
from ssd_edge.runtime.sources.find import find_source, open_source
from ssd_edge.runtime.sources.timeline import LATE_S
from ssd_edge.runtime.sources.worker import Retry, SourceWorker
from tests.fakes.scripted_sources import all_frames
from tests.runtime.sources.sample_video import encode, ramp
from tests.runtime.sources.servers import raw_server

CONSTANT = [n * 40 for n in range(50)]
VARIABLE = [n * 100 for n in range(10)] + [1000 + n * 1000 for n in range(5)] + [5000 + n * 37 for n in range(1, 10)]


def through_a_worker(uri: str | Path, **options: Any) -> list[Frame]:
    """All frames that it gives, with the stream's times."""
    changed = threading.Condition()
    worker = SourceWorker(find_source(uri, SourceOptions(damaged="keep", hwaccel="none")), changed, **options)
    frames = all_frames(worker, changed)
    assert worker.close(5)
    return frames


@pytest.mark.parametrize(
    ("suffix", "codec", "times_ms"),
    [
        *((suffix, "libx264", CONSTANT) for suffix in ("mp4", "mkv", "ts", "flv", "mov")),
        *((suffix, "mpeg4", CONSTANT) for suffix in ("mp4", "mkv", "avi")),
        ("mpg", "mpeg2video", CONSTANT),
        ("webm", "libvpx", CONSTANT),
        *((suffix, "libx264", VARIABLE) for suffix in ("mp4", "mkv", "ts", "flv", "mov")),
        ("webm", "libvpx", VARIABLE),
    ],
)
def test_times_are_those_of_the_container(
    tmp_path: Path, suffix: str, codec: str, times_ms: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"a.{suffix}"
    by_rate = times_ms is CONSTANT
    encode(path, [ramp(shift=n % 8) for n in range(len(times_ms))], codec=codec, rate=25 if by_rate else 1000,
           times_ms=None if by_rate else times_ms)  # fmt: skip
    with open_source(path) as source:
        frames = list(source.frames())
        if by_rate and suffix != "webm":
            assert source.fps == pytest.approx(25)
    assert [frame.media_time_s for frame in frames] == pytest.approx([ms / 1000 for ms in times_ms], abs=0.0011)
    assert [frame.index for frame in frames] == list(range(len(times_ms)))
    assert not caplog.records  # in particular, none is said to be cut off


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_pace_goes_by_time_and_not_by_number(tmp_path: Path, suffix: str) -> None:
    encode(tmp_path / f"a.{suffix}", [ramp()] * len(VARIABLE), rate=1000, times_ms=VARIABLE)
    frames = through_a_worker(tmp_path / f"a.{suffix}", max_fps=2)
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.5, 1, 2, 3, 4, 5], abs=0.002)


@pytest.mark.parametrize(
    "offsets_s", [(0.0, 0.0), (1000.0, 0.0), (2**33 / 90000 - 2.5,)], ids=["starts again", "goes back", "overflows"]
)
def test_the_clock_of_a_transport_stream(tmp_path: Path, offsets_s: tuple[float, ...]) -> None:
    pieces = []
    for offset_s in offsets_s:
        piece = io.BytesIO()
        container = {"format": "mpegts", "options": {"output_ts_offset": str(offset_s)}}
        encode(piece, [ramp(shift=n % 8) for n in range(50)], rate=25, container=container)
        pieces.append(piece.getvalue())
    (tmp_path / "a.ts").write_bytes(b"".join(pieces))
    frames = through_a_worker(tmp_path / "a.ts")
    assert len(frames) == 50 * len(pieces)
    assert np.diff([frame.time_s for frame in frames]) == pytest.approx(0.04, abs=0.001)


@pytest.mark.parametrize("offsets_s", [(1000.0, 0.0), (0.0, 1000.0), (2**33 / 90000 - 2.0, 0.0)])
def test_a_live_stream_whose_clock_jumps(offsets_s: tuple[float, ...]) -> None:
    pieces = []
    for offset_s in offsets_s:
        piece = io.BytesIO()
        container = {"format": "mpegts", "options": {"output_ts_offset": str(offset_s)}}
        encode(piece, [ramp(shift=n % 8) for n in range(50)], rate=25, options={"tune": "zerolatency"},
               container=container)  # fmt: skip
        pieces.append(piece.getvalue())

    def answer(_: str) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n"
        for piece in pieces:
            step = -(-len(piece) // (50 * 188)) * 188
            for start in range(0, len(piece), step):
                yield piece[start : start + step]
                time.sleep(0.04)

    with raw_server(answer) as server:
        frames = through_a_worker(f"http://{server.place}/live", retry=Retry(limit=0))
    # FFmpeg looks at a second of it before it gives a frame, and a live source drops what nobody takes in time; but
    # there are frames of both pieces, of two seconds each.
    assert frames[-1].captured_at - frames[0].captured_at > 2.2
    times = np.array([frame.time_s for frame in frames])
    assert (np.diff(times) > 0).all()
    late_s = [frame.captured_at - frame.time_s for frame in frames]
    assert -0.1 < min(late_s) <= max(late_s) < LATE_S  # whatever the stream's clock says, it is ours


def test_a_loop_goes_on(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", [ramp()] * 10, rate=10)
    changed = threading.Condition()
    worker = SourceWorker(find_source(tmp_path / "a.mp4"), changed, loop=True)
    worker.start()
    frames: list[Frame] = []
    while len(frames) < 35:
        with changed:
            assert changed.wait_for(lambda: worker.ready, timeout=20)
            frames.append(worker.take())
    assert worker.close(5)
    assert [frame.time_s for frame in frames] == pytest.approx([n / 10 for n in range(35)])
    assert [frame.media_time_s for frame in frames] == pytest.approx([n % 10 / 10 for n in range(35)])


def test_played_in_real_time_by_its_own_time_stamps(tmp_path: Path) -> None:
    encode(tmp_path / "a.mkv", [ramp()] * 4, rate=1000, times_ms=[0, 10, 20, 300])
    with open_source(tmp_path / "a.mkv", SourceOptions(realtime=True)) as source:
        times = [frame.time_s for frame in source.frames()]
    assert np.diff(times) == pytest.approx([0.01, 0.01, 0.28], abs=0.002)
