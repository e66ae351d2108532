"""Render what `gpu_evidence.sh` found as a Markdown table: every claim of docs/gpu.md passed, failed or not measured.

    python benchmarks/gpu_claims.py [EVIDENCE.json ...] [--merged FILE.json] [--write README.md docs/gpu.md]

Without files it reads `benchmarks/gpu_evidence.json`, if that is there; without any evidence nothing is measured. Of
several files, all of one GPU, each step is taken from the last file in which it ran. Claims and bounds are stated here
alone. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

PASSED, FAILED, MEASURED, NOT_MEASURED = "passed", "failed", "measured", "not measured"
EVIDENCE = Path(__file__).with_name("gpu_evidence.json")
BEGIN, END = "<!-- gpu claims: python benchmarks/gpu_claims.py --write README.md docs/gpu.md -->", "<!-- end -->"
RAN = ("passed", "failed", "timeout")
OURS = "ssd-edge, "  # what names of our ways to run a model begin with
REFUSAL = "UnsupportedGpuError"  # of ssd-edge, where TensorRT-RTX does not support a GPU
MESSAGE_CHARACTERS = 160


class ClaimsError(Exception):
    """Evidence or pages that cannot be used."""


@dataclass(frozen=True)
class Verdict:
    """What the evidence says of a claim."""

    result: str
    measured: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim.

    Attributes:
        bound: as text; empty where a figure is reported only.
        step: of the evidence script.
        judge: of the step's figures; None where they have nothing on the claim.
    """

    text: str
    bound: str
    step: str
    judge: Callable[[Any], Verdict | None]

    def verdict(self, steps: Row) -> Verdict:
        """What the evidence says."""
        row = steps.get(self.step, {})
        found = self.judge(row["figures"]) if row.get("figures") else None
        if found is not None:
            return found
        result = FAILED if row.get("status") == "failed" else NOT_MEASURED
        return Verdict(result, _short(row.get("reason", "")))


def tests(pattern: str) -> Callable[[Any], Verdict | None]:
    """Whether all tests whose names match have passed; skipped ones do not count."""

    def judge(figures: Any) -> Verdict | None:
        outcomes = [outcome for name, outcome in figures.get("tests", {}).items() if re.search(pattern, name)]
        passed, failed = outcomes.count("passed"), outcomes.count("failed")
        if failed:
            return Verdict(FAILED, f"{failed} of {passed + failed} tests failed")
        if _concerns(pattern, figures.get("crashed")):
            return Verdict(FAILED, f"{_short(figures['crashed'])}; {passed} tests passed before")
        if _concerns(pattern, figures.get("running_when_killed")):
            return Verdict(NOT_MEASURED, f"{passed} tests passed before pytest was killed")
        return Verdict(PASSED, f"{passed} tests") if passed else None

    return judge


def _concerns(pattern: str, ended_early: str | None) -> bool:
    """Whether tests of these names are in the file, named first, whose run ended early."""
    return ended_early is not None and bool(re.search(pattern, f"{ended_early.partition(':')[0]}::test_"))


def rows_of(section: str, **wanted: Any) -> Callable[[Any], list[Row]]:
    """Rows of a section of `gpu.py` that have these values; a value that is a pattern is searched for.

    Where there are none: the row that says why the whole section failed.
    """

    def find(figures: Any) -> list[Row]:
        rows = figures.get(section, [])
        found = [row for row in rows if all(_matches(row.get(key), value) for key, value in wanted.items())]
        return found or [row for row in rows if row.keys() == {"failed"}]

    return find


def failure_of(row: Row, prefix: str = "") -> str | None:
    """The first error in a row: its own, or that of one of several things whose names begin with a prefix."""
    own = (text for key, text in row.items() if key.startswith(prefix) and key.endswith(" failed"))
    return row["failed"] if "failed" in row else next(own, None)


def _matches(value: Any, wanted: Any) -> bool:
    return bool(wanted.search(value)) if isinstance(wanted, re.Pattern) and value else bool(value == wanted)


def checked(find: Callable[[Any], list[Row]], describe: Callable[[list[Row]], str]) -> Callable[[Any], Verdict | None]:
    """Rows that say themselves whether they are `ok`."""

    def judge(figures: Any) -> Verdict | None:
        rows = find(figures)
        wrong = [row for row in rows if row.get("ok") is False or failure_of(row)]
        if wrong:
            return Verdict(FAILED, _short(failure_of(wrong[0]) or describe(wrong)))
        right = [row for row in rows if row.get("ok")]
        return Verdict(PASSED, describe(right)) if right else None

    return judge


def figure(
    find: Callable[[Any], list[Row]],
    values: Callable[[Row], dict[str, float]],
    unit: str,
    *,
    most: float | None = None,
    least: float | None = None,
) -> Callable[[Any], Verdict | None]:
    """Figures of rows, each with a name, and whether all are within the bound.

    Args:
        values: of a row; empty where it has none.
        unit: such as "{:.0f} µs".
    """

    def judge(figures: Any) -> Verdict | None:
        rows = find(figures)
        found = {name: value for row in rows for name, value in values(row).items()}
        text = ", ".join(f"{name} {unit.format(value)}".strip() for name, value in found.items())
        if failed := [error for row in rows if (error := failure_of(row))]:
            return Verdict(FAILED, "; ".join(filter(None, (text, _short(failed[0])))))
        if not found:
            return None
        if most is None and least is None:
            return Verdict(MEASURED, text)
        within = all((most is None or value <= most) and (least is None or value >= least) for value in found.values())
        return Verdict(PASSED if within else FAILED, text)

    return judge


def named(key: str, *names: str, scale: float = 1) -> Callable[[Row], dict[str, float]]:
    """One figure of a row, called by what the row has under `names`."""
    return lambda row: {" ".join(str(row[name]) for name in names): scale * row[key]} if key in row else {}


def against(peer: str, *, least: float | None = None) -> Callable[[Any], Verdict | None]:
    """How many times as fast as a peer the fastest of our ways to run a model is; all of them have to run."""

    def judge(figures: Any) -> Verdict | None:
        rows = [row for row in figures.get("end_to_end", []) if peer in row.get("against", [peer])]
        found = {}
        for row in rows:
            ours = {name: ms for name, ms in row.get("ms", {}).items() if name.startswith(OURS)}
            if ours and peer in row["ms"]:
                fastest = min(ours, key=ours.__getitem__)
                found[f"{row['model']} in {fastest.removeprefix(OURS)}"] = row["ms"][peer] / ours[fastest]
        text = ", ".join(f"{name} {times:.1f}×" for name, times in found.items())
        if failed := [error for row in rows if (error := failure_of(row, OURS))]:
            return Verdict(FAILED, "; ".join(filter(None, (text, _short(failed[0])))))
        if not found:
            errors = [error for row in rows if (error := failure_of(row, peer))]
            return Verdict(NOT_MEASURED, _short(f"{peer}: {errors[0]}")) if errors else None
        if least is None:
            return Verdict(MEASURED, text)
        return Verdict(PASSED if min(found.values()) >= least else FAILED, text)

    return judge


def in_place(row: Row) -> dict[str, float]:
    """Copying a frame and resizing it, in times of resizing it where it lies."""
    return {"": row["copied_ms"] / row["mapped_ms"]} if "mapped_ms" in row else {}


def sanitizer(tool: str) -> Callable[[Any], Verdict | None]:
    """Whether a tool of compute-sanitizer found nothing."""

    def judge(figures: Any) -> Verdict | None:
        found = figures.get(tool, {})
        return Verdict(PASSED if found["clean"] else FAILED, found["summary"]) if "clean" in found else None

    return judge


def decoded(decoder: str) -> Callable[[Any], Verdict | None]:
    """Whether the frames of a decoder equal the CPU's."""
    return checked(
        rows_of("rows", decoder=decoder, what="compare"),
        lambda rows: f"{rows[0]['frames']} frames, largest difference {rows[0]['input_levels']}",
    )


def rtx(figures: Any) -> Verdict | None:
    """Whether every engine of TensorRT-RTX ran; that it refuses a GPU is no measurement."""
    rows = figures.get("stages", [])
    for row in rows:
        if row.get("failed", "").startswith(REFUSAL):
            return Verdict(NOT_MEASURED, _short(row["failed"]))
    wrong = [row for row in rows if "failed" in row or row.get("ok") is False]
    if wrong:
        differs = f"{wrong[0]['engine']} differs from ONNX Runtime"
        return Verdict(FAILED, _short(wrong[0].get("failed", differs)))
    ran = [row["engine"] for row in rows if row["stage"] == "run"]
    return Verdict(PASSED, ", ".join(ran)) if ran else None


def _aps(rows: list[Row]) -> str:
    row = rows[0]
    found = [f"{name} {value:.4f}" for name, value in row.items() if isinstance(value, float)]
    return f"{', '.join(found)} on {row['images']} images"


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
        checked(rows_of("correctness", check=re.compile("^AP of")), _aps),
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


def _short(text: str) -> str:
    """On one line of a table."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= MESSAGE_CHARACTERS else line[: MESSAGE_CHARACTERS - 1] + "…"


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
