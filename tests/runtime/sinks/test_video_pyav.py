"""Recorded video holds every frame at its time, and plays whatever became of the process, the disk or the camera."""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.errors import SinkError
from ssd_edge.runtime import results
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks import video_pyav
from ssd_edge.runtime.sinks.video_pyav import VideoRecorder
from ssd_edge.runtime.sources.base import Frame
from tests.fakes.any_source import AnySource

UNIX_2026 = 1795575600.0  # 2026-11-25 03:00:00 UTC


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "UNIX_OFFSET_S", UNIX_2026)  # frames that are captured at 0 are captured then
    monkeypatch.setattr(video_pyav, "RETRY_S", 0.0)


def result(index: int = 0, at: float = 0.0, image: NDArray[np.uint8] | None = None) -> Result:
    image = grey(100) if image is None else image
    return Result("any", Frame(image, index, at, "any", at_s=at or index / 10), Detections.empty(), (), 0.0)


def grey(value: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


def noise(seed: int, height: int = 240, width: int = 320) -> NDArray[np.uint8]:
    """What cannot be compressed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def record(recorder: VideoRecorder, *frames: Result) -> None:
    with closing(recorder):
        for frame in frames:
            recorder.write(frame, frame.frame.image_bgr)


def times(path: Path) -> list[float]:
    """When each frame is shown, of all that can be decoded."""
    return [frame.time for frame in decoded(path)]


def decoded(path: Path) -> Iterator[av.VideoFrame]:
    with av.open(path) as container:
        yield from container.decode(video=0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_file_source_has_a_constant_rate_and_true_colours(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new folder" / f"out{suffix}"
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24] = (0, 0, 255)
    at = [index * 1001 / 30000 for index in range(60)]
    record(VideoRecorder(path, AnySource(fps=30000 / 1001)), *(result(0, second, image) for second in at))
    with av.open(path) as container:
        assert container.streams.video[0].codec_context.name == "h264"
    frames = list(decoded(path))
    assert [frame.time for frame in frames] == pytest.approx(at, abs=1e-3)
    shown = frames[-1].to_ndarray(format="bgr24")
    assert np.abs(shown[12, 32].astype(int) - (0, 0, 255)).max() < 8
    assert shown[36, 32].max() < 8


def test_live_source_has_the_times_of_capture_whatever_its_clock_does(tmp_path: Path) -> None:
    at = [5.0, 5.04, 5.5, 5.5, 5.3, 5.34]  # it stands still, and is set back
    path = tmp_path / "a.mkv"
    record(VideoRecorder(path, AnySource(live=True)), *(result(0, second) for second in at))
    assert times(path) == pytest.approx([0, 0.04, 0.5, 0.501, 0.502, 0.542])


def test_live_source_does_not_drift_through_rounding(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    record(VideoRecorder(path, AnySource(live=True)), *(result(0, 1000.1 + n / 30) for n in range(301)))
    assert times(path)[300] == 10.0


def test_a_variable_frame_rate_stays_one(tmp_path: Path) -> None:
    at = [0.0, 0.1, 0.2, 0.9, 3.0, 3.01, 10.0]
    for suffix in (".mp4", ".mkv"):
        path = tmp_path / f"a{suffix}"
        record(VideoRecorder(path, AnySource(fps=2.4)), *(result(0, second) for second in at))
        assert times(path) == pytest.approx(at, abs=1e-3)


def test_long_gap_begins_another_file(tmp_path: Path) -> None:
    # In one .mp4 the gap would be lost: its frames last 75 hours at most.
    record(VideoRecorder(tmp_path / "a.mp4", AnySource(live=True)), *(result(0, at) for at in (0.0, 1.0, 1e6, 1e6 + 1)))
    assert times(tmp_path / "a.mp4") == times(tmp_path / "a_001.mp4") == [0.0, 1.0]


@pytest.mark.parametrize("encoders", [("no_such_encoder", "mpeg4"), ("h264_v4l2m2m", "mpeg4")])
def test_without_an_encoder_for_h264_it_is_mpeg4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoders: tuple[str, str]
) -> None:
    options = {name: video_pyav.ENCODERS.get(name, {}) for name in encoders}
    monkeypatch.setattr(video_pyav, "ENCODERS", options)
    path = tmp_path / "a.mp4"
    record(VideoRecorder(path, AnySource()), *(result(index) for index in range(5)))
    with av.open(path) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert len(times(path)) == 5


def test_without_any_encoder_it_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(video_pyav, "ENCODERS", {"no_such_encoder": {}})
    record(VideoRecorder(tmp_path / "a.mp4", AnySource()), *(result(index) for index in range(5)))
    assert len(caplog.records) == 1
    assert "no encoder for 64×48 pixels; tried no_such_encoder" in caplog.text
    assert names(tmp_path) == []


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (47, 63), (181, 320)])
def test_odd_and_tiny_sizes(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "a.mp4"
    record(VideoRecorder(path, AnySource()), result(0, 0.0, grey(200, height, width)))
    (shown,) = (frame.to_ndarray(format="bgr24") for frame in decoded(path))
    assert shown.shape[:2] == (height + height % 2, width + width % 2)
    assert np.abs(shown.astype(int) - 200).max() < 8


def test_one_file_letterboxes_frames_of_another_size_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [grey(200), grey(200, 48, 32), grey(200, 96, 64)]
    record(VideoRecorder(tmp_path / "a.mkv", AnySource()), *(result(n, 0.0, image) for n, image in enumerate(images)))
    shown = [frame.to_ndarray(format="bgr24") for frame in decoded(tmp_path / "a.mkv")]
    assert [image.shape for image in shown] == [(48, 64, 3)] * 3
    columns = shown[1].mean(axis=(0, 2))
    assert columns[20:44].min() > 180
    assert max(columns[:12].max(), columns[52:].max()) < 20
    assert len(caplog.records) == 1


def test_segments_are_called_by_the_time_of_capture(tmp_path: Path) -> None:
    recorder = VideoRecorder(tmp_path / "gate.mp4", AnySource(live=True), segment_s=2.0)
    record(recorder, *(result(0, 900 + n / 10) for n in range(45)))
    assert names(tmp_path) == [f"gate-20261125-03150{second}.mp4" for second in (0, 2, 4)]
    assert [len(times(path)) for path in sorted(tmp_path.iterdir())] == [20, 20, 5]


def test_another_frame_size_begins_another_segment(tmp_path: Path) -> None:
    sizes = [(48, 64), (48, 64), (32, 64), (48, 64)]
    recorder = VideoRecorder(tmp_path / "gate.mkv", AnySource(), segment_s=60.0)
    record(recorder, *(result(n, 0.0, grey(n, *size)) for n, size in enumerate(sizes)))
    files = [f"gate-20261125-030000{number}.mkv" for number in ("", "_001", "_002")]
    assert names(tmp_path) == sorted(files)
    assert [[(frame.height, frame.width) for frame in decoded(tmp_path / name)] for name in files] == [
        sizes[:2],
        sizes[2:3],
        sizes[3:],
    ]


def test_keep_removes_the_oldest_own_segments_and_nothing_else(tmp_path: Path) -> None:
    keep = 4_000_000
    others = ["gate.mp4", "gate-2026.mp4", "gate-20200101-000000.mkv", "gate-20200101-000000.mp4.txt", "a.jpg"]
    others += ["the-gate-20200101-000000.mp4", "gate-2-20200101-000000.mp4", "gate-20200101-000001.mp4"]
    for name in others[:-1]:
        (tmp_path / name).write_bytes(bytes(10))
    (tmp_path / others[-1]).mkdir()  # its name alone is that of a segment
    earlier = tmp_path / "gate-20251231-235959.mp4"
    earlier.write_bytes(bytes(1_000_000))
    recorder = VideoRecorder(tmp_path / "gate.mp4", AnySource(live=True), segment_s=3.0, keep_bytes=keep)
    most = 0
    with closing(recorder):
        for n in range(200):
            image = noise(n)
            recorder.write(result(0, n / 10, image), image)
            most = max(most, sum((tmp_path / name).stat().st_size for name in names(tmp_path) if name not in others))
    assert keep / 2 < most <= keep
    assert not earlier.exists()
    assert set(others) < set(names(tmp_path))
    kept = sorted(set(names(tmp_path)) - set(others))
    assert times(tmp_path / kept[-1])[-1] + int(kept[-1][-6:-4]) == pytest.approx(19.9)  # the newest frame is there
    assert len(kept) >= 3


def test_keep_counts_segments_that_are_shorter_than_a_fragment(tmp_path: Path) -> None:
    recorder = VideoRecorder(tmp_path / "gate.mkv", AnySource(live=True), segment_s=1.0, keep_bytes=1_000_000)
    record(recorder, *(result(0, n / 2, noise(n)) for n in range(40)))
    assert 500_000 < sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1_000_000


def test_segments_are_shorter_where_little_may_be_kept(tmp_path: Path) -> None:
    recorder = VideoRecorder(tmp_path / "gate.mp4", AnySource(live=True), segment_s=3600.0, keep_bytes=4_000_000)
    record(recorder, *(result(0, n / 10, noise(n)) for n in range(100)))
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) >= 2
    assert sum(sizes) <= 4_000_000


@pytest.mark.parametrize("segment_s", [None, 60.0])
def test_below_the_free_floor_recording_pauses_until_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, segment_s: float | None
) -> None:
    floor = 100 * 2**20
    free = [150, 100, 99, 101, 99, 115, 116, 100, 150]  # MiB at each frame; 16 above the floor it goes on
    written = [0, 1, 6, 7, 8]
    recorder = VideoRecorder(tmp_path / "a.mp4", AnySource(live=True), segment_s=segment_s, free_floor_bytes=floor)
    with closing(recorder):
        for n, free_mib in enumerate(free):
            monkeypatch.setattr(shutil, "disk_usage", lambda _, value=free_mib: SimpleNamespace(free=value * 2**20))
            recorder.write(result(n, float(n)), grey(n))
    first, second = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert [first.name, second.name] == (
        ["a.mp4", "a_001.mp4"] if segment_s is None else ["a-20261125-030000.mp4", "a-20261125-030006.mp4"]
    )
    assert times(first) + [time + 6 for time in times(second)] == written
    pauses = [record.getMessage() for record in caplog.records if "pauses" in record.getMessage()]
    assert pauses == [
        f"{tmp_path / 'a.mp4'}: recording pauses and everything else goes on: less than 100 MiB, the floor, are free "
        "on its disk; free some"
    ]


def test_a_full_disk_at_the_start_destroys_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    record(VideoRecorder(path, AnySource(), free_floor_bytes=2**62), *(result(n) for n in range(5)))
    assert path.read_bytes() == b"old"
    assert len(caplog.records) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True, timeout=60)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("segment_s", [None, 60.0])
def test_full_disk(small_disk: Path, caplog: pytest.LogCaptureFixture, suffix: str, segment_s: float | None) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(32 * 2**20 - 1_500_000))
    open_files = os.listdir("/proc/self/fd")
    recorder = VideoRecorder(small_disk / f"a{suffix}", AnySource(live=True), segment_s=segment_s, free_floor_bytes=0)
    with closing(recorder):
        for n in range(60):  # about 45 kB each
            recorder.write(result(n, n / 10), noise(n))
        (old,) = (path for path in small_disk.iterdir() if path != ballast)
        kept = times(old)  # half a fragment is cut off, or its decoding would raise
        assert len(kept) >= 10
        assert kept == pytest.approx([n / 10 for n in range(len(kept))])
        ballast.unlink()
        for n in range(60, 75):
            recorder.write(result(n, n / 10), grey(n))
    (new,) = (path for path in small_disk.iterdir() if path != old)
    assert (len(times(old)), len(times(new))) == (len(kept), 15)
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warning.endswith("recording pauses and everything else goes on: No space left on device")
    assert os.listdir("/proc/self/fd") == open_files


def test_disk_that_fails_for_good(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files that may not grow beyond 100 kB, though the disk has space, as under a quota."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    open_files = os.listdir("/proc/self/fd")
    recorder = VideoRecorder(tmp_path / "a.mp4", AnySource(live=True), segment_s=60.0, free_floor_bytes=0)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        record(recorder, *(result(n, n / 10, noise(n)) for n in range(100)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [record.getMessage()[-14:] for record in caplog.records] == ["File too large"]
    assert len(names(tmp_path)) <= 1  # nothing that cannot be played is left lying about
    assert all(map(times, tmp_path.iterdir()))
    assert os.listdir("/proc/self/fd") == open_files


def test_disk_that_is_full_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.mp4"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    recorder = VideoRecorder(path, AnySource(live=True), free_floor_bytes=0)
    for n in range(15):
        recorder.write(result(n, n / 10), noise(n))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1000, limits[1]))
        recorder.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [record.getMessage() for record in caplog.records] == [f"the end of {path} is lost: File too large"]
    assert times(path) == pytest.approx([n / 10 for n in range(10)])


def test_folder_that_vanishes_and_returns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "stick"
    recorder = VideoRecorder(folder / "a.mp4", AnySource(), segment_s=1.0, free_floor_bytes=0)
    with closing(recorder):
        recorder.write(result(0), grey(0))
        folder.rename(tmp_path / "gone")
        for n in range(1, 30):
            recorder.write(result(n), grey(n))
        folder.mkdir()
        for n in range(30, 40):
            recorder.write(result(n), grey(n))
    assert len(caplog.records) == 1
    assert [len(times(path)) for path in folder.iterdir()] == [10]


def test_refusals_before_the_first_frame(tmp_path: Path) -> None:
    video = tmp_path / "in.mp4"
    video.write_bytes(b"input")
    cases: list[tuple[str, Path, AnySource, dict[str, Any]]] = [
        (r"a\.avi; expected a name that ends in \.mp4, \.mov, \.mkv", tmp_path / "a.avi", AnySource(), {}),
        ("in.mp4 is an input", video, AnySource(paths=(video,)), {}),
        ("Not a directory|cannot make the folder", video / "a.mp4", AnySource(), {}),
        ("segments of 0.5 s are too short", tmp_path / "a.mp4", AnySource(), {"segment_s": 0.5}),
        ("cannot keep 1000 bytes", tmp_path / "a.mp4", AnySource(), {"keep_bytes": 1000}),
        ("cannot keep 0 bytes", tmp_path / "a.mp4", AnySource(), {"keep_bytes": 0, "segment_s": 1.0}),
    ]
    for match, path, source, options in cases:
        with pytest.raises(SinkError, match=match):
            VideoRecorder(path, source, **options)
    assert video.read_bytes() == b"input"
    assert names(tmp_path) == ["in.mp4"]


def record_for_ever(path: Path, segment_s: float | None, written: Connection) -> None:
    """Frames of 30 a second by their own clock, as fast as they can be encoded; tells of each when it is written."""
    recorder = VideoRecorder(path, AnySource(live=True), segment_s=segment_s, free_floor_bytes=0)
    image = noise(0, 120, 160)
    for n in count():
        recorder.write(result(n, n / 30, image), np.roll(image, n, axis=1))
        written.send(n)


def playable_frames(path: Path) -> int:
    """How many frames a player shows; it ignores a piece at the end that is cut off."""
    frames = 0
    with suppress(av.FFmpegError):
        for _ in decoded(path):
            frames += 1
    return frames


def lost_by_kill_s(path: Path, segment_s: float | None) -> float:
    """Seconds of video that were written before `kill -9` and cannot be played, wherever in it."""
    context = multiprocessing.get_context("forkserver")  # imports once, and has no threads of this process
    context.set_forkserver_preload([video_pyav.__name__, pytest.__name__])
    written, end = context.Pipe(duplex=False)
    process = context.Process(target=record_for_ever, args=(path, segment_s, end))
    process.start()
    end.close()
    frames = [written.recv() for _ in range(random.randrange(50, 150))]
    time.sleep(random.uniform(0, 0.02))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with suppress(EOFError), written:
        while True:
            frames.append(written.recv())
    return (len(frames) - sum(map(playable_frames, path.parent.iterdir()))) / 30


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.long)])
def test_video_plays_to_within_2_s_of_kill_9(tmp_path: Path, kills: int) -> None:
    lost_s = []
    for kill in range(kills):
        segment_s = (None, 2.0)[kill % 2]
        suffix = (".mp4", ".mp4", ".mkv", ".mkv")[kill % 4]
        lost_s.append(lost_by_kill_s(tmp_path / str(kill) / f"a{suffix}", segment_s))
        print(f"{suffix}, segments of {segment_s} s: {lost_s[-1]:.2f} s lost")
    assert max(lost_s) <= 2.0
