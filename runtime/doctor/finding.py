"""`Finding`: what one check found. It crosses from the check's process to the doctor's as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ssd_edge.errors import SsdEdgeError

OK = "ok"
NONE = "none"  # not there, and no loss on this machine: information
MISSING = "missing"  # not there, and it would give something
PROBLEM = "problem"  # there, but not as it should be


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        status: `ok`, `none`, `missing` or `problem`.
        summary: one line.
        facts: plain JSON; the keys are listed in docs/doctor.md.
        gives: what one gets by following `fix`.
        fix: a command, or what to do.
    """

    status: str
    summary: str
    facts: dict[str, Any] = field(default_factory=dict)
    gives: str | None = None
    fix: str | None = None


def problem(error: SsdEdgeError) -> Finding:
    """The finding that an error is: as everywhere in this package it says what was found, then `;` and the fix."""
    found, _, fix = str(error).partition("; ")
    return Finding(PROBLEM, found, fix=fix or None)
