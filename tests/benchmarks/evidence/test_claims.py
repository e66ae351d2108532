"""The table of claims: what evidence makes of it, and that the pages show it."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import claims

ROOT = Path(__file__).parents[3]

GPU = {"name": "NVIDIA T", "driver_version": "580.1"}


def evidence(**steps: Any) -> dict[str, Any]:
    """Of steps that passed, by their figures."""
    rows = {name: {"status": "passed", "figures": figures} for name, figures in steps.items()}
    versions = {"status": "passed", "figures": {"gpus": [GPU]}}
    return {"started": "2026-12-01T10:00:00Z", "dry_run": False, "steps": {"versions": versions, **rows}}


def results(found: dict[str, Any] | None) -> dict[str, str]:
    """Of the claims that are not just `not measured`: the text after the bound."""
    lines = [line.split(" | ") for line in claims.table(found).splitlines() if line.startswith("| ")][1:]
    return {claim[2:]: result[:-2] for claim, _, result in lines if result != "not measured |"}


def test_without_evidence_nothing_is_measured() -> None:
    assert results(None) == {}
    assert claims.table(None).count("| not measured |") == len(claims.CLAIMS)


def test_the_pages_show_what_the_evidence_says() -> None:
    found = claims.read([claims.EVIDENCE] * claims.EVIDENCE.is_file())
    for name in ("README.md", "docs/gpu.md"):
        page = (ROOT / name).read_text()
        assert page == claims.rendered(page, found, source=name), (
            f"run: python -m benchmarks.evidence.claims --write {name}"
        )


def test_speed_against_its_bounds() -> None:
    found = evidence(
        benchmark={
            "suppression": [
                {"batch": 1, "our_clip_nms_gpu_ms": 0.0612},
                {"batch": 1, "against": "torchvision", "times_as_fast": 19.9},
                {"batch": 16, "our_clip_nms_gpu_ms": 9.0},
            ],
            "preprocess": [
                {"frame": "1920×1080", "gpu_ms": 0.0251},
                {"frame": "1920×1080 in pinned memory", "mapped_ms": 2.0, "copied_ms": 3.0},
            ],
            "whole_graph": [
                {"model": "a", "engine": "PyTorch fp32", "more_than_engine": 0.02},
                {"model": "b", "engine": "PyTorch fp16", "not_run": "no torch"},
            ],
            "hardware_floor": [{"model": "a", "engine": "PyTorch fp16", "batch": 32, "share_of_matmul": 0.41}],
        },
        end_to_end={
            "end_to_end": [
                {
                    "model": "a",
                    "against": ["torchvision eager"],
                    "ms": {"torchvision eager": 24.5, "ssd-edge, A": 3.0, "ssd-edge, B": 2.0},
                },
                {
                    "model": "a",
                    "against": ["torchvision torch.compile"],
                    "ms": {"torchvision torch.compile": 6.0, "ssd-edge, A": 3.0, "ssd-edge, B": 2.0},
                },
            ]
        },
    )
    assert results(found) == {
        "NMS of SSD300": "passed: 61 µs",
        "NMS of SSD300, with softmax and decoding, against torchvision's": "**failed**: 19.9×",
        "preprocess of 1920×1080": "**failed**: 25.1 µs",
        "preprocess and NMS, on top of the engine's time": "passed: a PyTorch fp32 2 %",
        "frame to detections, against torchvision eager": "passed: a in B 12.2×",
        "frame to detections, against torchvision with `torch.compile`": "measured: a in B 3.0×",
        "batch 32: share of what a half-precision matrix product reaches": "measured: a PyTorch fp16 41 %",
        "Jetson: reading a 1920×1080 frame in place (the default), against copying it": "passed: 1.5×",
    }
    assert claims.table(found).startswith("On NVIDIA T, driver 580.1, 2026-12-01:\n\n| claim |")


def test_a_row_that_failed_fails_its_claim() -> None:
    rows = [
        {"model": "a", "engine": "E", "more_than_engine": 0.02},
        {"model": "b", "engine": "E", "failed": "CudaError: no | capture\nat all"},
    ]
    found = results(evidence(benchmark={"whole_graph": rows, "suppression": [{"batch": 1, "failed": "x" * 300}]}))
    assert found["preprocess and NMS, on top of the engine's time"] == (
        "**failed**: a E 2 %; CudaError: no \\| capture at all"
    )
    assert found["NMS of SSD300"] == f"**failed**: {'x' * 159}…"


EAGER = "frame to detections, against torchvision eager"
COMPILED = "frame to detections, against torchvision with `torch.compile`"


def test_every_way_of_ours_has_to_run() -> None:
    fast = {"model": "a", "against": ["torchvision eager"], "ms": {"torchvision eager": 24.0, "ssd-edge, A": 2.0}}
    broken = {"model": "b", "against": ["torchvision eager"], "ms": {"torchvision eager": 24.0}}
    broken["ssd-edge, A failed"] = "CudaError: no"
    assert results(evidence(end_to_end={"end_to_end": [fast, broken]})) == {
        EAGER: "**failed**: a in A 12.0×; CudaError: no"
    }
    without_peer = {"model": "a", "against": ["torchvision torch.compile"], "ms": {"ssd-edge, A": 2.0}}
    without_peer["torchvision torch.compile failed"] = "RuntimeError: no compiler"
    assert results(evidence(end_to_end={"end_to_end": [fast, without_peer]})) == {
        EAGER: "passed: a in A 12.0×",
        COMPILED: "not measured: torchvision torch.compile: RuntimeError: no compiler",
    }


def test_what_ended_early_is_not_passed_over() -> None:
    lost = {"failed": "the GPU is lost: CudaFatalError: illegal address"}
    rows = [
        {"check": "preprocess, largest difference in levels", "found": 1, "ok": True},
        {"check": "NMS of A, images that differ", "failed": "CudaFatalError: illegal address"},
        lost,
    ]
    found = results(evidence(benchmark={"correctness": rows, "hardware_floor": [{"failed": "RuntimeError: no"}]}))
    assert found == {
        "preprocess, from BGR and NV12, against OpenCV": "passed: largest difference 1",
        "NMS against `runtime/nms.py`": "**failed**: CudaFatalError: illegal address",
        "mAP on the GPU against the CPU": f"**failed**: {lost['failed']}",
        "batch 32: share of what a half-precision matrix product reaches": "**failed**: RuntimeError: no",
    }
    outcomes = {"test_gpu::test_a": "passed", "test_cuda_gpu::test_b": "passed"}
    assert results(evidence(tests={"tests": outcomes, "crashed": "test_gpu: signal SIGSEGV"})) == {
        "all GPU tests that need no TensorRT": "**failed**: test_gpu: signal SIGSEGV; 2 tests passed before",
        "calls, errors and freeing of CUDA": "passed: 1 tests",  # in the file that ran to its end
        "frame to detections equals the CPU's; nothing is overwritten too early": (
            "**failed**: test_gpu: signal SIGSEGV; 1 tests passed before"
        ),
    }
    steps = {"sanitizer": {"status": "failed", "reason": "no output"}, "ncu": {"status": "timeout", "reason": "60 s"}}
    steps["nvdec"] = {"status": "timeout", "reason": "killed after 60 s"}
    found = results({**evidence(), "steps": {**evidence()["steps"], **steps}})
    assert found["no wrong memory access in NMS (memcheck)"] == "**failed**: no output"
    assert found["frames decoded by PyAV on the GPU, as model input"] == "not measured: killed after 60 s"


def test_map_that_was_not_measured_is_not_failed() -> None:
    row = {"check": "AP of bundled on x all", "images": 48, "cpu": 0.8}
    assert results(evidence(benchmark={"correctness": [{**row, "PyTorch fp32 not_run": "no torch"}]})) == {}
    assert results(evidence(benchmark={"correctness": [{**row, "PyTorch fp32 failed": "CudaError: no"}]})) == {
        "mAP on the GPU against the CPU": "**failed**: CudaError: no"
    }


def test_results_against_the_processors() -> None:
    rows = [
        {"check": "preprocess, largest difference in levels", "found": 1, "ok": True},
        {"check": "NMS of A, images that differ", "found": 0, "ok": True},
        {"check": "NMS of B, images that differ", "found": 2, "ok": False},
        {"check": "AP of bundled on x all", "images": 48, "cpu": 0.8, "PyTorch fp32": 0.80025, "ok": True},
    ]
    assert results(evidence(benchmark={"correctness": rows})) == {
        "preprocess, from BGR and NV12, against OpenCV": "passed: largest difference 1",
        "NMS against `runtime/nms.py`": "**failed**: 1 cases, 2 images differ",
        "mAP on the GPU against the CPU": "passed: cpu 0.8000, PyTorch fp32 0.8003 on 48 images",
    }


def test_tests_by_their_names() -> None:
    names = {
        "test_cuda_gpu::test_kernels_run[core]": "passed",
        "test_cuda_gpu::test_kernels_run[pycuda]": "skipped",
        "test_gpu::test_closing_gives_the_memory_back": "passed",
        "test_gpu::test_preprocess[a]": "passed",
        "test_gpu::test_two_detectors_in_two_threads[torch]": "failed",
    }
    assert results(evidence(tests={"tests": names})) == {
        "all GPU tests that need no TensorRT": "**failed**: 1 of 4 tests failed",
        "calls, errors and freeing of CUDA": "passed: 2 tests",
        "frame to detections equals the CPU's; nothing is overwritten too early": "**failed**: 1 of 1 tests failed",
    }
    killed = evidence(tests={"tests": dict(list(names.items())[:4]), "running_when_killed": "test_gpu::test_x"})
    assert results(killed)["all GPU tests that need no TensorRT"] == (
        "not measured: 3 tests passed before pytest was killed"
    )


def test_the_tools_and_the_decoders() -> None:
    found = evidence(
        sanitizer={
            "racecheck": {"clean": True, "summary": "RACECHECK SUMMARY: 0 hazards displayed"},
            "memcheck": {"skipped": "Device not supported"},
        },
        nvdec={
            "rows": [
                {"decoder": "PyAV", "what": "compare", "frames": 12, "input_levels": 1, "ok": True},
                {"decoder": "PyAV", "what": "streams", "streams_of_30_fps": 77.7, "processors_per_stream": 0.11},
                {"decoder": "PyAV on the CPU", "what": "streams", "processors_per_stream": 0.3},
                {"decoder": "PyNvVideoCodec", "what": "compare", "failed": "RuntimeError: no"},
            ]
        },
        rtx={
            "stages": [
                {"engine": "fp32", "stage": "build"},
                {
                    "engine": "fp32",
                    "stage": "load",
                    "failed": "UnsupportedGpuError: TensorRT-RTX 1.7 does not support this GPU",
                },
            ]
        },
    )
    assert results(found) == {
        "no race in shared memory in NMS (compute-sanitizer racecheck)": "passed: RACECHECK SUMMARY: 0 hazards displayed",  # noqa: E501
        "frames decoded by PyNvVideoCodec, as model input": "**failed**: RuntimeError: no",
        "frames decoded by PyAV on the GPU, as model input": "passed: 12 frames, largest difference 1",
        "1920×1080 streams at 30 FPS on one GPU, decoded by NVDEC": "passed: 78",
        "CPU cores per such stream": "**failed**: 0.110",
        "CPU cores per such stream, decoded on the CPU": "measured: 0.300",
        "TensorRT-RTX's engines run": "not measured: UnsupportedGpuError: TensorRT-RTX 1.7 does not support this GPU",
    }
    found["steps"]["rtx"] = {"status": "skipped", "reason": "none of these can be imported: x"}
    assert results(found)["TensorRT-RTX's engines run"] == "not measured: none of these can be imported: x"
    stages = [{"engine": "fp32", "stage": "run", "ok": True}, {"engine": "int8", "stage": "run"}]
    assert results(evidence(rtx={"stages": stages})) == {"TensorRT-RTX's engines run": "passed: fp32, int8"}


def test_evidence_of_several_runs(tmp_path: Path) -> None:
    first = evidence(tests={"tests": {"test_gpu::test_preprocess": "passed"}})
    first["steps"]["nvdec"] = {"status": "skipped", "reason": "no video travelled"}
    second = evidence(nvdec={"rows": []})
    second["steps"]["tests"] = {"status": "not run: budget"}
    both = claims.merged([first, second])
    assert both is not None
    assert {name: row["status"] for name, row in both["steps"].items()} == {
        "versions": "passed",
        "tests": "passed",
        "nvdec": "passed",
    }
    second["steps"]["versions"]["figures"] = {"gpus": [{**GPU, "name": "NVIDIA U"}]}
    with pytest.raises(claims.ClaimsError, match="evidence of two machines: NVIDIA T"):
        claims.merged([first, second])
    with pytest.raises(claims.ClaimsError, match="dry run"):
        claims.merged([{**first, "dry_run": True}])


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, file = tmp_path / "page.md", tmp_path / "evidence.json"
    file.write_text(json.dumps(evidence(benchmark={"suppression": [{"batch": 1, "our_clip_nms_gpu_ms": 0.05}]})))
    page.write_text("no markers\n")
    with pytest.raises(SystemExit, match="1"):
        claims.main([str(file), "--write", str(page)])
    assert "has no lines <!-- gpu claims" in capsys.readouterr().err
    page.write_text(f"before\n{claims.BEGIN}\nold\n{claims.END}\nafter\n")
    claims.main([str(file), "--write", str(page), "--merged", str(tmp_path / "merged.json")])
    text = page.read_text()
    assert text.startswith(f"before\n{claims.BEGIN}\n\nOn NVIDIA T, driver 580.1, 2026-12-01:\n\n| claim | bound |")
    assert text.endswith(f"\n{claims.END}\nafter\n")
    assert "| NMS of SSD300 | ≤ 100 µs | passed: 50 µs |" in text
    assert json.loads((tmp_path / "merged.json").read_text()) == json.loads(file.read_text())
    file.write_text("{}")
    with pytest.raises(SystemExit, match="1"):
        claims.main([str(file)])
