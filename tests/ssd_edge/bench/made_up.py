"""Figures of `bench` that were made up."""

from ssd_edge.bench.figures import Percentiles, Speed, Spread
from ssd_edge.bench.options import BenchOptions
from ssd_edge.bench.report import BenchReport, ModelFigures

SPEED = Speed(
    fps=100.0,
    network_fps=125.0,
    fps_rounds=Spread(100, 95, 104),
    latency_ms=Percentiles(9.5, 12, 20.25),
    network_ms=Percentiles(8, 9, 10),
    calls=1000,
    detections_a_frame=3.5,
    times_as_fast=Spread(2, 1.9, 2.125),
    power_w={},
    energy_mj=None,
)

MODEL = ModelFigures(
    name="a|b.onnx",
    sha256="0" * 64,
    size_bytes=4_600_000,
    precision="int8",
    backend="ONNX Runtime",
    score_threshold=0.01,
    ap=0.5,
    ap50=0.75,
    speed=SPEED,
    peak_memory_bytes=173_000_000,
)

FAILED = ModelFigures(name="bad.pt", sha256="1" * 64, size_bytes=1_000_000, error="out of memory")

REPORT = BenchReport(
    machine={"processor": "AMD EPYC", "cores": 2, "system": "Linux"},
    dataset="bccd test",
    images=72,
    frames=32,
    frame_sizes="640×480",
    options=BenchOptions(threads=2),
    turn="0.5 s",
    rounds=20,
    power_from=(),
    models=(MODEL, FAILED),
)
