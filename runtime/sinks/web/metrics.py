"""The board's figures as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from ssd_edge.runtime.sinks.web.board import PERCENTS, Board


class Metrics(Collector):
    """All metrics of one board and of this process; names and labels are in docs/web.md."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for."""
        frames = CounterMetricFamily("ssd_edge_frames", "Frames with their detections", labels=["source"])
        dropped = CounterMetricFamily("ssd_edge_dropped_frames", "Frames left out for newer ones", labels=["source"])
        up = GaugeMetricFamily("ssd_edge_source_up", "1 while the source delivers", labels=["source"])
        status = GaugeMetricFamily("ssd_edge_source_status", "1 for its status", labels=["source", "status"])
        silent = GaugeMetricFamily("ssd_edge_silent_seconds", "Time since the last frame", labels=["source"])
        by_quantile = ["source", "quantile"]
        age = GaugeMetricFamily("ssd_edge_age_seconds", "Capture to detections, last 1000 frames", labels=by_quantile)
        latency = GaugeMetricFamily(
            "ssd_edge_latency_seconds", "Preprocess, inference and NMS, last 1000 frames", labels=by_quantile
        )
        for one in self._board.figures():
            _add(frames, one.frames, one.source)
            _add(dropped, one.dropped, one.source)
            _add(up, one.delivers, one.source)
            _add(status, 1, one.source, one.status)
            _add(silent, one.silent_s, one.source)
            for family, values_ms in ((age, one.age_ms), (latency, one.latency_ms or ())):
                for percent, value_ms in zip(PERCENTS, values_ms, strict=False):
                    _add(family, value_ms / 1000, one.source, f"{percent / 100:g}")

        detections = CounterMetricFamily("ssd_edge_detections", "Detections by class", labels=["source", "class"])
        events = CounterMetricFamily(
            "ssd_edge_events", "Events of zones and lines", labels=["source", "kind", "place", "class"]
        )
        for source, (by_class, by_event) in self._board.totals().items():
            for name, count in by_class.items():
                _add(detections, count, source, name)
            for event, count in by_event.items():
                _add(events, count, source, *event)
        yield from (frames, dropped, up, status, silent, age, latency, detections, events)


def _add(family: CounterMetricFamily | GaugeMetricFamily, value: float, *labels: str) -> None:
    """A name that is no UTF-8, as of a file, loses what Prometheus' format cannot have."""
    family.add_metric([label.encode(errors="replace").decode() for label in labels], value)
