"""Table, Markdown and JSON of figures that were made up."""

import json
import math
from dataclasses import replace

import pytest

from ssd_edge.bench.options import BenchOptions
from tests.ssd_edge.bench.made_up import FAILED, MODEL, REPORT, SPEED


def test_the_table() -> None:
    lines = REPORT.table().splitlines()
    text = " ".join(line.strip() for line in lines)
    assert "suppression → detections above 0.01; without decoding of files, drawing and output" in text
    assert "batch 1, 2 threads that sleep while they wait, 32 distinct frames of 640×480" in text
    spinning = replace(REPORT, options=BenchOptions(threads=2, spin=True)).table()
    assert "batch 1, 2 threads that spin, 32 distinct frames" in " ".join(spinning.split())
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
