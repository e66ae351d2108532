"""Metrics have the figures of all sources, and the documentation has all metrics."""

from pathlib import Path

import pytest
from prometheus_client import parser

from ssd_edge.runtime.sinks.web.server import WebPreview
from ssd_edge.runtime.stats import StreamStats
from tests.runtime.sinks.web.previews import get, result, write


def test_metrics(preview: WebPreview) -> None:
    for index in (0, 1, 5, 0):  # three dropped; then it begins again
        write(preview, result(index))
    preview.stats("gate", StreamStats(4, 3, 1.0, (1.0, 2.0, 30.0), (12.0, 12.0, 12.0)))
    preview.status('ya"rd\n', "failed", "")
    _, headers, body = get(preview, "/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in parser.text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert samples["process_resident_memory_bytes",] > 0
    for name, value in {
        ("ssd_edge_frames_total", "gate"): 4,
        ("ssd_edge_dropped_frames_total", "gate"): 3,
        ("ssd_edge_source_up", "gate"): 1,
        ("ssd_edge_source_up", 'ya"rd\n'): 0,
        ("ssd_edge_source_status", "failed", 'ya"rd\n'): 1,
        ("ssd_edge_age_seconds", "0.95", "gate"): 0.012,
        ("ssd_edge_latency_seconds", "0.99", "gate"): 0.03,
        ("ssd_edge_detections_total", "gate", "green"): 4,
        ("ssd_edge_events_total", "dock", "enter", "gate", "green"): 4,
    }.items():
        assert samples[name] == pytest.approx(value), name
    documented = Path(__file__).parents[4] / "docs" / "web.md"
    text = documented.read_text(encoding="utf-8")
    assert {name[0] for name in samples if f"`{name[0]}`" not in text and name[0].startswith("ssd_edge")} == set()
