"""What is shown of a running stream, and what sinks are told of it."""

import logging
import sys
from unittest.mock import Mock

import pytest

from ssd_edge.runtime.stats import StreamStats
from ssd_edge.runtime.stream.meter import Meter
from tests.fakes.source_state import FakeSource


@pytest.mark.parametrize("as_log", [False, True])
def test_live_line_and_summary(
    as_log: bool,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 4.0, 10.0, 11.0, 20.0, 20.0])  # begin, four frames, the summary
    monkeypatch.setattr("ssd_edge.runtime.stream.meter.time", Mock(monotonic=lambda: next(clock)))
    source = FakeSource("a.mp4", 9)
    with caplog.at_level(logging.INFO), Meter([source], show=True, as_log=as_log) as meter:
        for dropped in (0, 1, 1, 2):
            source.dropped = dropped
            meter.add("a.mp4", latency_ms=5.0, age_ms=8.0)
    shown = caplog.messages if as_log else capsys.readouterr().err.splitlines()
    assert shown == [
        "frame 2/9 | 0.2 FPS | latency p50 5.0 p95 5.0 p99 5.0 ms | age p50 8 p95 8 ms | dropped 1 | a.mp4",
        "frame 4/9 | 0.2 FPS | latency p50 5.0 p95 5.0 p99 5.0 ms | age p50 8 p95 8 ms | dropped 2 | a.mp4",
        "a.mp4: 4 frames in 20.0 s, 0.2 FPS; latency p50 5.0, p95 5.0, p99 5.0 ms; age p50 8.0, p95 8.0 ms; 2 dropped",
    ]


def test_several_sources_have_their_own_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr("ssd_edge.runtime.stream.meter.time", Mock(monotonic=lambda: next(clock)))
    told: list[tuple[str, StreamStats]] = []
    door, yard = FakeSource("door", dropped=2), FakeSource("yard", status="stalled", corrupt=1)
    with Meter([door, yard], show=True, on_stats=lambda *told_now: told.append(told_now)) as meter:
        meter.add("door", latency_ms=5.0, age_ms=8.0)
        meter.add("door", latency_ms=5.0, age_ms=10.0)
        stats = meter.stats()
    assert (stats.frames, stats.dropped, stats.corrupt) == (2, 2, 1)
    assert {name: (one.frames, one.age_ms[0]) for name, one in stats.sources.items()} == {
        "door": (2, 9),
        "yard": (0, 0),
    }
    assert [name for name, _ in told] == ["door", "yard"] * 2
    live, *summary = capsys.readouterr().err.splitlines()
    assert live.endswith("| dropped 2 | door 0.2, yard stalled")
    assert [line.split(" in ")[0] for line in summary] == ["door: 2 frames", "yard: 0 frames", "all: 2 frames"]


def test_a_terminals_line_is_renewed_in_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "42")
    clock = iter([0.0, 0.5, 1.0, 1.0])
    monkeypatch.setattr("ssd_edge.runtime.stream.meter.time", Mock(monotonic=lambda: next(clock)))
    with Meter([FakeSource("camera 0")], show=True) as meter:
        meter.add("camera 0", latency_ms=5.0, age_ms=8.0)
        meter.add("camera 0", latency_ms=5.0, age_ms=8.0)
    first, second, summary, rest = capsys.readouterr().err.replace("\x1b[K", "").replace("\n", "\r").split("\r")
    assert first == "frame 1 | 2.0 FPS | latency p50 5.0 p95 5"  # cut to fit, or it would wrap
    assert second.startswith("frame 2 | 2.0 FPS")
    assert summary.startswith("camera 0: 2 frames in 1.0 s")
    assert rest == ""


def test_nothing_is_shown_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with Meter([FakeSource("a")], show=False) as meter:
        meter.add("a", latency_ms=1, age_ms=1)
    assert capsys.readouterr().err == ""
    assert meter.stats().frames == 1
