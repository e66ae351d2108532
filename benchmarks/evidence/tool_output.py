"""Read what pytest, compute-sanitizer and ncu write. Standard library only."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

MESSAGE_CHARACTERS = 4000  # of a test's failure
MESSAGES = 20  # of a sanitizer
OUTCOME = re.compile(r"^(?P<test>tests/\S+::.+?) (?P<outcome>PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)
OUTCOMES = {"PASSED": "passed", "FAILED": "failed", "ERROR": "failed", "SKIPPED": "skipped"}
STARTED = re.compile(r"^tests/\S+?::[\w:]+(?:\[.*?\])?", re.MULTILINE)  # what Python says as it crashes may follow
SANITIZER_SUMMARY = re.compile(r"={9} (?:(?:RACECHECK|ERROR) SUMMARY: .*)")
DURATION = "gpu__time_duration.sum"
# ncu's name of each metric that is kept, and ours.
METRICS = {
    DURATION: "duration_ns",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram_percent",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": "l2_percent",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "sm_percent",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_percent",
    "launch__registers_per_thread": "registers_per_thread",
}


def junit(path: Path) -> dict[str, Any]:
    """Outcome of each test, their counts, the failures with their messages, the reasons for skipping with theirs."""
    cases = list(ElementTree.parse(path).iter("testcase"))
    failures, skips, tests = [], Counter[str](), dict[str, str]()
    for case in cases:
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '')}"
        tests[name] = "passed"
        for kind in ("failure", "error"):
            for problem in case.findall(kind):
                text = f"{problem.get('message', '')}\n{problem.text or ''}".strip()
                failures.append({"test": name, "message": text[-MESSAGE_CHARACTERS:]})
                tests[name] = "failed"
        for skipped in case.findall("skipped"):
            skips[skipped.get("message", "")] += 1
            tests[name] = "skipped"
    return {**_counts(tests), "failures": failures, "skips": dict(skips), "tests": tests}


def outcomes(output: str) -> dict[str, Any]:
    """The same from the lines of `pytest -v` that was killed, and the test that was running."""
    tests = {
        match["test"].rpartition("/")[2].replace(".py::", "::", 1): OUTCOMES[match["outcome"]]
        for match in OUTCOME.finditer(output)
    }
    started = [name.rpartition("/")[2].replace(".py::", "::", 1) for name in STARTED.findall(output)]
    return {
        **_counts(tests),
        "failures": [{"test": name, "message": "see the log"} for name, each in tests.items() if each == "failed"],
        "running_when_killed": started[-1] if started and started[-1] not in tests else None,
        "tests": tests,
    }


def added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The outcomes of two runs of pytest, each of other tests, in one."""
    tests = {**one["tests"], **other["tests"]}
    skips = Counter(one.get("skips", {})) + Counter(other.get("skips", {}))
    both = {**one, **other, **_counts(tests), "failures": [*one["failures"], *other["failures"]]}
    for key in ("crashed", "running_when_killed"):
        if said := [found[key] for found in (one, other) if found.get(key)]:
            both[key] = "; ".join(said)
    return {**both, "skips": dict(skips), "tests": tests}


def _counts(tests: dict[str, str]) -> dict[str, int]:
    counts = Counter(tests.values())
    return {outcome: counts[outcome] for outcome in ("passed", "failed", "skipped")}


def sanitizer(output: str) -> dict[str, Any] | None:
    """Summary and first messages of compute-sanitizer; None where it did not get to a summary."""
    lines = [line for line in output.splitlines() if line.startswith("=========")]
    summary = next((line for line in reversed(lines) if SANITIZER_SUMMARY.match(line)), None)
    if summary is None:
        return None
    counts = [int(number) for number in re.findall(r"\d+", summary.partition("SUMMARY:")[2])]
    return {"summary": summary.strip("= "), "clean": not any(counts), "messages": lines[:MESSAGES]}


def ncu_kernels(text: str) -> list[dict[str, Any]]:
    """Metrics of each launch, in the order of launching, from `ncu --csv`: a line per metric, or a line per launch."""
    rows = list(csv.reader(line for line in text.splitlines() if line.startswith('"')))
    if not rows:
        return []
    header, kernels = rows[0], dict[str, dict[str, Any]]()
    for values in rows[1:]:
        row = dict(zip(header, values, strict=False))
        if not row.get("ID"):  # the line of units
            continue
        kernel = kernels.setdefault(row["ID"], {"kernel": row["Kernel Name"].partition("(")[0]})
        kernel |= {name: row[title] for name, title in (("grid", "Grid Size"), ("block", "Block Size")) if title in row}
        metrics = {row["Metric Name"]: row["Metric Value"]} if "Metric Name" in row else row
        kernel |= {ours: _number(metrics[theirs]) for theirs, ours in METRICS.items() if metrics.get(theirs)}
    return list(kernels.values())


def _number(text: str) -> float | str:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return text  # n/a
