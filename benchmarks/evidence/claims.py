"""Render what `gpu_evidence.sh` found as a Markdown table: every claim of docs/gpu.md passed, failed or not measured.

    python -m benchmarks.evidence.claims [EVIDENCE.json ...] [--merged FILE.json] [--write README.md docs/gpu.md]

Without files it reads `benchmarks/gpu_evidence.json`, if that is there; without any evidence nothing is measured. Of
several files, all of one GPU, each step is taken from the last file in which it ran. Claims and bounds are stated here
alone. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.evidence.verdicts import (
    FAILED,
    RAN,
    Claim,
    Row,
    against,
    aps,
    checked,
    decoded,
    figure,
    in_place,
    named,
    rows_of,
    rtx,
    sanitizer,
    tests,
)

EVIDENCE = Path(__file__).resolve().parents[1] / "gpu_evidence.json"
BEGIN, END = "<!-- gpu claims: python -m benchmarks.evidence.claims --write README.md docs/gpu.md -->", "<!-- end -->"


class ClaimsError(Exception):
    """Evidence or pages that cannot be used."""


CLAIMS = (
    Claim("all GPU tests that need no TensorRT", "pass", "tests", tests("")),
    Claim(
        "calls, errors and freeing of CUDA", "as specified", "tests", tests("^test_cuda_gpu::|gives_the_memory_back")
    ),
    Claim(
        "frame to detections equals the CPU's; nothing is overwritten too early",
        "equal",
        "tests",
        tests("^test_gpu::test_(?!preprocess|nms|closing)"),
    ),
    Claim(
        "preprocess, from BGR and NV12, against OpenCV",
        "1 level",
        "benchmark",
        checked(
            rows_of("correctness", check=re.compile("^preprocess")),
            lambda rows: f"largest difference {rows[0]['found']}",
        ),
    ),
    Claim(
        "NMS against `runtime/nms.py`",
        "equal",
        "benchmark",
        checked(
            rows_of("correctness", check=re.compile("^NMS of")),
            lambda rows: f"{len(rows)} cases, {sum(row['found'] for row in rows)} images differ",
        ),
    ),
    Claim(
        "mAP on the GPU against the CPU",
        "0.05 points",
        "benchmark",
        checked(rows_of("correctness", check=re.compile("^AP of")), aps),
    ),
    Claim(
        "no race in shared memory in NMS (compute-sanitizer racecheck)",
        "0 hazards",
        "sanitizer",
        sanitizer("racecheck"),
    ),
    Claim("no wrong memory access in NMS (memcheck)", "0 errors", "sanitizer", sanitizer("memcheck")),
    Claim("frames decoded by PyNvVideoCodec, as model input", "the CPU's", "nvdec", decoded("PyNvVideoCodec")),
    Claim("frames decoded by PyAV on the GPU, as model input", "the CPU's", "nvdec", decoded("PyAV")),
    Claim(
        "1920×1080 streams at 30 FPS on one GPU, decoded by NVDEC",
        "≥ 32",
        "nvdec",
        figure(rows_of("rows", decoder="PyAV", what="streams"), named("streams_of_30_fps"), "{:.0f}", least=32),
    ),
    Claim(
        "CPU cores per such stream",
        "≤ 0.1",
        "nvdec",
        figure(rows_of("rows", decoder="PyAV", what="streams"), named("processors_per_stream"), "{:.3f}", most=0.1),
    ),
    Claim(
        "CPU cores per such stream, decoded on the CPU",
        "",
        "nvdec",
        figure(rows_of("rows", decoder="PyAV on the CPU", what="streams"), named("processors_per_stream"), "{:.3f}"),
    ),
    Claim("TensorRT-RTX's engines run", "ONNX Runtime's results", "rtx", rtx),
    Claim(
        "NMS of SSD300",
        "≤ 100 µs",
        "benchmark",
        figure(
            rows_of("suppression", batch=1, against=None),
            named("our_clip_nms_gpu_ms", scale=1000),
            "{:.0f} µs",
            most=100,
        ),
    ),
    Claim(
        "NMS of SSD300, with softmax and decoding, against torchvision's",
        "≥ 20×",
        "benchmark",
        figure(rows_of("suppression", batch=1, against="torchvision"), named("times_as_fast"), "{:.1f}×", least=20),
    ),
    Claim(
        "preprocess of 1920×1080",
        "≤ 25 µs",
        "benchmark",
        figure(rows_of("preprocess", frame="1920×1080"), named("gpu_ms", scale=1000), "{:.1f} µs", most=25),
    ),
    Claim(
        "preprocess and NMS, on top of the engine's time",
        "≤ 15 %",
        "benchmark",
        figure(rows_of("whole_graph"), named("more_than_engine", "model", "engine", scale=100), "{:.0f} %", most=15),
    ),
    Claim(
        "frame to detections, against torchvision eager",
        "≥ 10×",
        "end_to_end",
        against("torchvision eager", least=10),
    ),
    Claim(
        "frame to detections, against torchvision with `torch.compile`",
        "",
        "end_to_end",
        against("torchvision torch.compile"),
    ),
    Claim(
        "batch 32: share of what a half-precision matrix product reaches",
        "",
        "benchmark",
        figure(
            rows_of("hardware_floor", batch=32),
            named("share_of_matmul", "model", "engine", scale=100),
            "{:.0f} %",
        ),
    ),
    Claim(
        "Jetson: reading a 1920×1080 frame in place (the default), against copying it",
        "≥ 1×",
        "benchmark",
        figure(rows_of("preprocess", frame="1920×1080 in pinned memory"), in_place, "{:.1f}×", least=1),
    ),
)


def table(evidence: Row | None) -> str:
    """The machine, and a line for every claim."""
    steps = evidence["steps"] if evidence else {}
    lines = ["| claim | bound | result |", "|---|---|---|"]
    for claim in CLAIMS:
        found = claim.verdict(steps)
        result = f"**{found.result}**" if found.result == FAILED else found.result
        lines.append(f"| {claim.text} | {claim.bound} | {result}{': ' if found.measured else ''}{found.measured} |")
    gpu = gpu_of(evidence)
    return "\n".join([f"On {gpu}, {evidence['started'][:10]}:", "", *lines] if evidence and gpu else lines)


def gpu_of(evidence: Row | None) -> str | None:
    """Name and driver of the GPU, where the step `versions` ran."""
    gpus = ((evidence or {}).get("steps", {}).get("versions", {}).get("figures") or {}).get("gpus")
    return f"{gpus[0]['name']}, driver {gpus[0]['driver_version']}" if gpus else None


def merged(files: Sequence[Row]) -> Row | None:
    """One evidence of several: each step from the last file in which it ran.

    Raises:
        ClaimsError: a dry run, or another GPU or driver.
    """
    result: Row | None = None
    for evidence in files:
        if evidence.get("dry_run"):
            raise ClaimsError("this is of a dry run, which measures nothing")
        if result is None:
            result = {**evidence, "steps": dict(evidence["steps"])}
            continue
        if gpu_of(evidence) != gpu_of(result):
            raise ClaimsError(f"evidence of two machines: {gpu_of(result)}, and {gpu_of(evidence)}")
        for name, row in evidence["steps"].items():
            if name not in result["steps"] or row["status"] in RAN:
                result["steps"][name] = row
    return result


def rendered(page: str, evidence: Row | None, *, source: str = "the page") -> str:
    """A page with the table of today between its markers.

    Raises:
        ClaimsError: it has no markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ClaimsError(f"{source} has no lines {BEGIN} and {END}; put them where the table is to be")
    return f"{before}{BEGIN}\n\n{table(evidence)}\n\n{END}{after}"


def read(paths: Iterable[Path]) -> Row | None:
    """Evidence of files.

    Raises:
        ClaimsError: a file is no evidence.
    """
    found = []
    for path in paths:
        try:
            evidence = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ClaimsError(f"{path} is no evidence: {error}") from error
        if not isinstance(evidence, dict) or "steps" not in evidence:
            raise ClaimsError(f"{path} is no evidence: it has no steps")
        found.append(evidence)
    return merged(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Render the GPU's evidence as a Markdown table.")
    parser.add_argument("evidence", type=Path, nargs="*", help=f"files of gpu_evidence.sh ({EVIDENCE.name}, if there)")
    parser.add_argument("--merged", type=Path, metavar="FILE", help="write the evidence of all files here")
    parser.add_argument("--write", type=Path, nargs="+", default=[], metavar="PAGE", help="put the table into pages")
    args = parser.parse_args(arguments)
    try:
        evidence = read(args.evidence or [EVIDENCE] * EVIDENCE.is_file())
        pages = {p: rendered(p.read_text(encoding="utf-8"), evidence, source=str(p)) for p in args.write}
    except ClaimsError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from error
    for path, page in pages.items():
        path.write_text(page, encoding="utf-8")
    if args.merged:
        args.merged.write_text(json.dumps(evidence, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(evidence))


if __name__ == "__main__":
    main()
