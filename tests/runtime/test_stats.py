"""Percentiles over a window, and what is shown of them."""

from ssd_edge.runtime.stats import RollingWindow, StreamStats


def test_percentiles_look_back_on_the_window_only() -> None:
    window = RollingWindow(size=5)
    assert window.percentile(50) == 0
    for value in (1000, 1, 2, 3):
        window.add(value)
    assert window.percentile(50) == 2.5
    for value in (4, 5):  # the second replaces 1000
        window.add(value)
    assert [window.percentile(percent) for percent in (0, 50, 75, 100)] == [1, 3, 4, 5]


def test_summary() -> None:
    stats = StreamStats(frames=50, dropped=3, seconds=2.0, latency_ms=(5, 6, 7.25), age_ms=(9, 11, 12), reconnects=2)
    assert stats.fps == 25
    assert str(stats) == (
        "50 frames in 2.0 s, 25.0 FPS; latency p50 5.0, p95 6.0, p99 7.2 ms; age p50 9.0, p95 11.0 ms; "
        "3 dropped, 2 reconnects"
    )
