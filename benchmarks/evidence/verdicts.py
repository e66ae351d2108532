"""How a claim is judged by what the evidence script found: passed, failed, measured or not measured.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
PASSED, FAILED, MEASURED, NOT_MEASURED = "passed", "failed", "measured", "not measured"
RAN = ("passed", "failed", "timeout")
OURS = "ssd-edge, "  # what names of our ways to run a model begin with
REFUSAL = "UnsupportedGpuError"  # of ssd-edge, where TensorRT-RTX does not support a GPU
MESSAGE_CHARACTERS = 160


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
        return Verdict(result, short(row.get("reason", "")))


def tests(pattern: str) -> Callable[[Any], Verdict | None]:
    """Whether all tests whose names match have passed; skipped ones do not count."""

    def judge(figures: Any) -> Verdict | None:
        outcomes = [outcome for name, outcome in figures.get("tests", {}).items() if re.search(pattern, name)]
        passed, failed = outcomes.count("passed"), outcomes.count("failed")
        if failed:
            return Verdict(FAILED, f"{failed} of {passed + failed} tests failed")
        if _concerns(pattern, figures.get("crashed")):
            return Verdict(FAILED, f"{short(figures['crashed'])}; {passed} tests passed before")
        if _concerns(pattern, figures.get("running_when_killed")):
            return Verdict(NOT_MEASURED, f"{passed} tests passed before pytest was killed")
        return Verdict(PASSED, f"{passed} tests") if passed else None

    return judge


def _concerns(pattern: str, ended_early: str | None) -> bool:
    """Whether tests of these names are in the file, named first, whose run ended early."""
    return ended_early is not None and bool(re.search(pattern, f"{ended_early.partition(':')[0]}::test_"))


def rows_of(section: str, **wanted: Any) -> Callable[[Any], list[Row]]:
    """Rows of a section of `gpu/measure.py` that have these values; a value that is a pattern is searched for.

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
            return Verdict(FAILED, short(failure_of(wrong[0]) or describe(wrong)))
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
            return Verdict(FAILED, "; ".join(filter(None, (text, short(failed[0])))))
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
            return Verdict(FAILED, "; ".join(filter(None, (text, short(failed[0])))))
        if not found:
            errors = [error for row in rows if (error := failure_of(row, peer))]
            return Verdict(NOT_MEASURED, short(f"{peer}: {errors[0]}")) if errors else None
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
            return Verdict(NOT_MEASURED, short(row["failed"]))
    wrong = [row for row in rows if "failed" in row or row.get("ok") is False]
    if wrong:
        differs = f"{wrong[0]['engine']} differs from ONNX Runtime"
        return Verdict(FAILED, short(wrong[0].get("failed", differs)))
    ran = [row["engine"] for row in rows if row["stage"] == "run"]
    return Verdict(PASSED, ", ".join(ran)) if ran else None


def aps(rows: list[Row]) -> str:
    row = rows[0]
    found = [f"{name} {value:.4f}" for name, value in row.items() if isinstance(value, float)]
    return f"{', '.join(found)} on {row['images']} images"


def short(text: str) -> str:
    """On one line of a table."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= MESSAGE_CHARACTERS else line[: MESSAGE_CHARACTERS - 1] + "…"
