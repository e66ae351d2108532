"""Snapshots show each event once, are whole, and leave room on the disk; what fails there stops nothing."""

import json
import logging
import shutil
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.cli.main import main
from ssd_edge.detections import Detections
from ssd_edge.errors import SinkError, UsageError
from ssd_edge.runtime import results
from ssd_edge.runtime.results import Event, Result
from ssd_edge.runtime.sinks.snapshots import SnapshotsSink
from ssd_edge.runtime.sources.base import Frame
from ssd_edge.runtime.stream.config import SnapshotsConfig, SourceConfig, StreamConfig
from ssd_edge.runtime.stream.config_file import read_stream_file
from ssd_edge.runtime.stream.run import run_stream
from ssd_edge.runtime.tracking.analytics import UnderstandingOptions
from ssd_edge.runtime.tracking.zones import Zone
from tests.runtime.sinks.frames import read_image

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")

UNIX_2026 = 1795575600.0  # 2026-11-25 03:00:00 UTC
FOUND = Detections(np.array([[1, 2, 30, 40]], np.float32), np.array([0.75], np.float32), np.array([0]))
ENTERS = (Event("enter", "mat", 7, 0),)
NAMES = {"door": "door", "yard": "yard"}


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "UNIX_OFFSET_S", UNIX_2026)  # frames that are captured at 0 are captured then


def result(
    at: float, *, source: str = "door", found: bool = True, events: tuple[Event, ...] | None = None, seed: int = 0
) -> Result:
    """Of a source without zones; with `events`, of one that has a zone."""
    image = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
    counts = {} if events is None else {"mat": {"inside": 1}}
    detections = FOUND if found else Detections.empty()
    return Result(source, Frame(image, 3, at, source), detections, ("a",), 1.0, events=events or (), counts=counts)


def red(result: Result) -> NDArray[np.uint8]:
    return np.full_like(result.frame.image_bgr, (0, 0, 255))


def as_it_is(result: Result) -> NDArray[np.uint8]:
    return result.frame.image_bgr


def take(sink: SnapshotsSink, *results: Result) -> None:
    with closing(sink):
        for one in results:
            sink.write(one, one.frame.image_bgr)


def names(folder: Path, suffix: str = "") -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(suffix))


def test_an_event_gives_its_drawn_frame_and_its_record(tmp_path: Path) -> None:
    event = result(901.2345, events=ENTERS)
    take(SnapshotsSink(tmp_path / "new" / "folder", red, {"door": "the_door"}), event)
    folder = tmp_path / "new" / "folder"
    assert names(folder) == ["20261125-031501.234-the_door.jpg", "20261125-031501.234-the_door.json"]
    image = read_image(folder / names(folder)[0])
    assert image.shape == (48, 64, 3)
    assert np.abs(image[24, 32].astype(int) - (0, 0, 255)).max() < 8
    assert json.loads((folder / names(folder)[1]).read_text()) == event.record()


def test_with_zones_each_event_counts_but_one_a_second_and_source(tmp_path: Path) -> None:
    drawn = []

    def draw(result: Result) -> NDArray[np.uint8]:
        drawn.append((result.source, result.frame.captured_at))
        return red(result)

    at = [(0.0, ENTERS), (0.5, ENTERS), (1.0, ()), (1.1, ENTERS), (2.05, ENTERS), (2.1, ENTERS), (60.0, ())]
    frames = [result(at_s, source=source, events=events) for at_s, events in at for source in ("door", "yard")]
    take(SnapshotsSink(tmp_path, draw, NAMES), *frames)
    assert drawn == [(source, at_s) for at_s in (0.0, 1.1, 2.1) for source in ("door", "yard")]
    assert names(tmp_path, ".jpg") == [
        f"20261125-03000{second}-{source}.jpg" for second in ("0.000", "1.100", "2.100") for source in ("door", "yard")
    ]


def test_without_zones_the_first_detection_after_quiet_counts(tmp_path: Path) -> None:
    seen = [(0.0, False), (1.0, True), (1.1, True), (4.0, True), (5.0, False), (8.9, True), (13.8, True), (18.8, True)]
    take(SnapshotsSink(tmp_path, red, NAMES), *(result(at, found=found) for at, found in seen))
    assert names(tmp_path, ".jpg") == ["20261125-030001.000-door.jpg", "20261125-030018.800-door.jpg"]


def test_keep_removes_the_oldest_own_files_and_nothing_else(tmp_path: Path) -> None:
    others = ["20200101-000000-door.jpg", "20200101-000000.000-door.png", "a.jpg", "20200101-000000.001-dir.jpg"]
    for name in others[:-1]:
        (tmp_path / name).write_bytes(bytes(10))
    (tmp_path / others[-1]).mkdir()  # its name alone is that of a snapshot
    earlier = ["20200101-000000.000-gate.jpg", ".20261125-040000.000-door.jpg.99.part"]  # of a run that was killed
    for name in earlier:
        (tmp_path / name).write_bytes(bytes(20_000))
    sink = SnapshotsSink(tmp_path, as_it_is, NAMES, keep_bytes=60_000)
    most = 0
    with closing(sink):
        for n in range(40):
            sink.write(result(n, events=ENTERS, seed=n), np.empty(0, np.uint8))
            most = max(most, sum((tmp_path / name).stat().st_size for name in names(tmp_path) if name not in others))
    assert 40_000 < most <= 60_000
    kept = [name for name in names(tmp_path) if name not in others]
    assert set(others) < set(names(tmp_path))
    assert not set(earlier) & set(kept)
    stems = [name.rpartition(".")[0] for name in kept]
    assert stems[::2] == stems[1::2]  # no picture without its record
    assert stems[-1] == "20261125-030039.000-door"
    assert len(stems) > 8


def test_the_newest_stays_however_little_may_be_kept(tmp_path: Path) -> None:
    take(SnapshotsSink(tmp_path, red, NAMES, keep_bytes=1), *(result(n, events=ENTERS) for n in range(3)))
    assert names(tmp_path, ".jpg") == ["20261125-030002.000-door.jpg"]


def test_below_the_free_floor_there_are_none_until_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sink = SnapshotsSink(tmp_path, red, NAMES, free_floor_bytes=100 * 2**20)
    with closing(sink):
        for n, free_mib in enumerate([100, 99, 101, 115, 116, 100]):  # MiB; 16 above the floor it goes on
            monkeypatch.setattr(shutil, "disk_usage", lambda _, value=free_mib: SimpleNamespace(free=value * 2**20))
            sink.write(result(n, events=ENTERS), np.empty(0, np.uint8))
    assert names(tmp_path, ".jpg") == [f"20261125-03000{n}.000-door.jpg" for n in (0, 4, 5)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: snapshots pause and everything else goes on: less than 100 MiB, the floor, are free on its disk; "
        "free some",
        f"taking snapshots again, in {tmp_path}",
    ]


def test_a_folder_that_goes_away_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "folder"
    sink = SnapshotsSink(folder, red, NAMES)
    folder.rmdir()
    folder.write_text("in the way")
    take(sink, *(result(n, events=ENTERS) for n in range(3)))
    assert len(caplog.records) == 1
    assert "snapshots pause and everything else goes on" in caplog.text


def test_a_frame_that_no_jpeg_can_hold_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    take(SnapshotsSink(tmp_path, lambda _: np.zeros((1, 70_000, 3), np.uint8), NAMES), result(0.0, events=ENTERS))
    assert "cannot encode 70000×1 pixels as a JPEG" in caplog.text
    assert names(tmp_path) == []


def test_what_cannot_work_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SinkError, match=r"cannot write to .*file"):
        SnapshotsSink(tmp_path / "file", red, NAMES)
    with pytest.raises(SinkError, match="where images of the stream come from; choose another folder"):
        SnapshotsSink(tmp_path, red, NAMES, SimpleNamespace(paths=(tmp_path / "a.jpg",)))


def write_red_square(folder: Path) -> Path:
    """An image whose left half the model takes for red."""
    folder.mkdir()
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, :16] = (0, 0, 255)
    cv2.imwrite(str(folder / "a.png"), image)
    return folder / "a.png"


def test_a_stream_takes_them_with_its_overlay(tmp_path: Path, model_path: Path) -> None:
    path = write_red_square(tmp_path / "in")
    zone = Zone("mat", ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
    sources = [
        SourceConfig(path, name="a/b"),
        SourceConfig(path, name="a?b"),
        SourceConfig(path, name="zone", understanding=UnderstandingOptions(zones=(zone,))),  # one frame: no event yet
    ]
    folder = tmp_path / "out"
    run_stream(StreamConfig(sources, model_path, snapshots=SnapshotsConfig(folder)), progress=False)
    (first,), (_,) = (list(folder.glob(f"*-a_b-{number}.jpg")) for number in (1, 2))  # whichever is read first
    assert len(names(folder, ".jpg")) == 2
    shown = read_image(first)
    assert np.abs(shown.astype(int) - read_image(path).astype(int)).max() > 100  # boxes, beyond JPEG's own errors
    record = json.loads(first.with_suffix(".json").read_text())
    assert {detection["class"] for detection in record["detections"]} == {"red"}


def test_options_and_file_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = SnapshotsConfig(Path("snaps"), 10**9, 2**30)
    toml = tmp_path / "a.toml"
    toml.write_text('[snapshots]\nfolder = "snaps"\nkeep = "1GB"\nfree_floor = "1GiB"\n')
    assert read_stream_file(toml) == {"snapshots": wanted}
    configs: list[StreamConfig] = []
    monkeypatch.setattr("ssd_edge.runtime.stream.run.Stream.run", lambda stream: configs.append(stream.config))
    options = ["--snapshots", "snaps", "--snapshots-keep", "1GB", "--snapshots-free-floor", "1GiB"]
    assert main(["stream", "--video", "a.mp4", "--model", "m.onnx", *options]) == 0
    assert configs[0].snapshots == wanted
    for text, message in (
        ("keep = '1GB'", "snapshots: expected folder = …"),
        ("folder = 'a'\nquiet_s = 0", "snapshots: quiet_s: got 0, expected a number above 0"),
        ("folder = 'a'\nkeep = 'much'", "snapshots: keep: got 'much', expected a size"),
    ):
        toml.write_text(f"[snapshots]\n{text}\n")
        with pytest.raises(UsageError, match=message):
            read_stream_file(toml)


def test_options_about_snapshots_need_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "--video", "a.mp4", "--snapshots-keep", "1GB"]) == 2
    assert "need --snapshots DIR too" in capsys.readouterr().err
