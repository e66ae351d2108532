"""Rows of figures that survive failures, and the file they go to: for the programs of this folder.

A row holds what was measured, or `failed` with the error word for word, or `not_run` with what is missing here.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssd_edge.errors import MissingDependencyError
from ssd_edge.files import atomic_path
from ssd_edge.packages import is_installed
from ssd_edge.runtime.cuda.errors import CudaFatalError, cuda_failure

Row = dict[str, Any]


class Rows(list[Row]):
    """Rows of a section. `keep` is called after each that is appended."""

    def __init__(self, keep: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.keep = keep

    def append(self, row: Row) -> None:
        super().append(row)
        self.keep()


class NotRunError(Exception):
    """A measurement that cannot be made on this machine; the message says what it lacks."""


def need(*packages: str) -> None:
    """
    Raises:
        NotRunError: a package is not installed; with its name.
    """
    absent = [package for package in packages if not is_installed(package)]
    if absent:
        raise NotRunError(f"{', '.join(absent)} not installed")


def is_lost(error: Exception) -> bool:
    """Whether the process can no longer use the GPU after an error, ours or PyTorch's, which is any `RuntimeError`."""
    said = isinstance(error, RuntimeError) and "CUDA" in str(error) and cuda_failure("PyTorch", str(error)).fatal
    return said or isinstance(error, CudaFatalError)


def is_absence(error: Exception) -> bool:
    """Whether something is not installed; everything else is a failure."""
    return isinstance(error, (NotRunError, MissingDependencyError, ModuleNotFoundError))


def reason(error: Exception) -> Row:
    """The row of an error."""
    if is_absence(error):
        return {"not_run": str(error)}
    return {"failed": f"{type(error).__name__}: {error}"}


def attempt(rows: list[Row], about: Row, measure: Callable[[], Row]) -> None:
    """Add a row: what was measured, or why not.

    Raises:
        Exception: the one that lost the GPU.
    """
    try:
        row = measure()
    except Exception as error:
        if not is_absence(error):
            traceback.print_exc()
        row = reason(error)
        if is_lost(error):
            rows.append({**about, **row})
            raise
    rows.append({**about, **row})
    print(rows[-1], flush=True)


def write_figures(figures: dict[str, Any], output: Path | None) -> str:
    """The figures as JSON; a file is replaced in one step, so that a reader never meets half of it.

    Raises:
        SinkError: the file cannot be written.
    """
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    if output is not None:
        with atomic_path(output) as path:
            path.write_text(text + "\n", encoding="utf-8")
    return text
