"""Table, Markdown, JSON and plot of figures that were made up."""

import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from ssd_edge.bench.figures import Percentiles, Speed, Spread
from ssd_edge.bench.options import BenchOptions
from ssd_edge.bench.precisions import export_stems
from ssd_edge.bench.report import BenchReport, ModelFigures
from ssd_edge.data.readers import read_dataset
from ssd_edge.errors import UsageError

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


def test_the_table() -> None:
    lines = REPORT.table().splitlines()
    text = " ".join(line.strip() for line in lines)
    assert "suppression → detections above 0.01; without decoding of files, drawing and output" in text
    assert "batch 1, 2 threads, 32 distinct frames of 640×480" in text
    assert "turns of 0.5 s in random order, 20 rounds" in text
    (titles,) = [number for number, line in enumerate(lines) if line.startswith("model ")]
    assert [" ".join(line.split()) for line in lines[titles : titles + 3]] == [
        "model precision runs on AP AP50 FPS net FPS p50 ms p95 ms p99 ms ×first file MB memory MB",
        "a|b.onnx int8 ONNX Runtime 0.5000 0.7500 100.0 125.0 9.50 12.00 20.25 2.00 (1.90–2.12) 4.6 173",
        "bad.pt - - - - - - - - - - 1.0 -",
    ]
    assert lines[-2:] == ["power: not told by this machine", "FAILED bad.pt: out of memory"]
    assert max(map(len, lines[:titles])) <= 120


def test_power_has_columns_where_it_is_told() -> None:
    speed = replace(SPEED, power_w={"GPU": 20.0, "CPU": 5.0}, energy_mj=250.0)
    model = replace(MODEL, speed=speed, device_memory_bytes=512_000_000)
    text = replace(REPORT, models=(model,), power_from=("GPU", "CPU")).table()
    assert "GPU MB     W  mJ/frame" in text
    assert "   512  25.0     250.0" in text
    assert "power: GPU + CPU, idle power included" in text
    assert "not told" not in text


def test_few_calls_are_named() -> None:
    few = replace(REPORT, models=(replace(MODEL, speed=replace(SPEED, calls=40)),))
    assert "below 100 calls p99 is little more than the slowest" in few.table()
    assert "p99 is" not in REPORT.table()


def test_thresholds_that_differ_are_not_named_as_one() -> None:
    two = replace(REPORT, models=(MODEL, replace(MODEL, name="b", score_threshold=0.3)))
    assert "above each model's own threshold" in two.table()


def test_markdown_has_the_same_rows() -> None:
    lines = REPORT.markdown().splitlines()
    assert lines[0].startswith("| model | precision | runs on | AP | AP50 | FPS |")
    assert lines[1].startswith("| :-- | :-- | :-- | --: |")
    assert lines[2].startswith("| a\\|b.onnx | int8 | ONNX Runtime | 0.5000 |")
    assert lines[3].startswith("| bad.pt | - |")
    assert "- FAILED bad.pt: out of memory" in lines


def test_json_has_everything_and_no_nan() -> None:
    report = replace(REPORT, models=(replace(MODEL, ap=math.nan), FAILED))
    content = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert content["machine"]["processor"] == "AMD EPYC"
    assert content["data"] == {
        "name": "bccd test",
        "images": 72,
        "timed_frames": 32,
        "frame_sizes": "640×480",
    }
    assert (content["options"]["threads"], content["options"]["rounds"]) == (2, 20)
    model, failed = content["models"]
    assert (model["ap"], model["ap50"]) == (None, 0.75)
    assert model["speed"]["latency_ms"] == {"p50": 9.5, "p95": 12, "p99": 20.25}
    assert (failed["speed"], failed["error"]) == (None, "out of memory")


def test_labels_of_the_plot_do_not_overlap(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from ssd_edge.bench.plot import place_labels

    figure = Figure(dpi=100, figsize=(7, 4.5))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0.4, 0.6))
    points = [(10 + number, 0.5, f"a model of the name {number}") for number in range(6)]
    labels = place_labels(axes, [*points, (99, 0.6, "in the very corner")], [(5, 20, 0.5)])
    figure.canvas.draw()
    boxes = [Text.get_window_extent(label) for label in labels]
    assert len(boxes) == 7
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    inside = axes.get_window_extent()
    assert all(inside.contains(*box.min) and inside.contains(*box.max) for box in boxes)


def test_plot_leaves_out_what_failed_and_needs_something(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from ssd_edge.bench.plot import plot_report

    plot_report(tmp_path / "a.png", REPORT)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="nothing to plot"):
        plot_report(tmp_path / "b.png", replace(REPORT, models=(FAILED,)))
    assert not (tmp_path / "b.png").exists()


def test_exports_are_named_after_their_checkpoints() -> None:
    one, two = Path("runs/a/best.pt"), Path("runs/b/best.safetensors")
    assert export_stems([one, Path("m.onnx")]) == {one: "best"}
    assert export_stems([one, two]) == {one: "a-best", two: "b-best"}
    with pytest.raises(UsageError, match="none is given"):
        export_stems([Path("m.onnx")])


def test_each_checkpoint_is_replaced_by_its_exports(
    tmp_path: Path, fixed_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    from ssd_edge.bench.precisions import PrecisionOptions, in_precisions
    from ssd_edge.export import onnx_export

    asked: list[tuple[str, str, str]] = []

    def export_nothing(checkpoint: Path, output: Path, *, precision: str, data: object, int8: object) -> None:
        asked.append((checkpoint.name, output.name, precision))

    monkeypatch.setattr(onnx_export, "export_onnx", export_nothing)
    models, dataset = [Path("a.pt"), Path("m.onnx")], read_dataset(fixed_dataset)
    options = PrecisionOptions(("torch", "fp16", "fp32", "fp16"), keep=tmp_path)
    with in_precisions(models, options, data=dataset) as chosen:
        assert chosen == [Path("a.pt"), tmp_path / "a.fp16.onnx", tmp_path / "a.fp32.onnx", Path("m.onnx")]
    assert asked == [("a.pt", "a.fp16.onnx", "fp16"), ("a.pt", "a.fp32.onnx", "fp32")]
    with in_precisions(models, PrecisionOptions(("fp32",)), data=dataset) as chosen:
        folder = chosen[0].parent
        assert folder.is_dir()
    assert not folder.exists()  # nobody asked to keep it
    with in_precisions(models, None, data=dataset) as chosen:
        assert chosen == models
