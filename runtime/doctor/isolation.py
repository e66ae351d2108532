"""Checks run in processes of their own, all at once: one that raises, crashes or hangs spoils itself alone.

What a check leaves behind, such as a CUDA context, ends with its process.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from types import TracebackType

from ssd_edge.errors import SsdEdgeError, first_line
from ssd_edge.runtime.doctor.finding import PROBLEM, Finding, problem

PATIENCE_S = 1.0  # for a process that was killed; one that hangs in the kernel does not end

Check = Callable[..., Finding]  # a function of a module, called without arguments


def run_isolated(checks: Sequence[Check], *, timeout_s: float) -> list[Finding]:
    """The findings, in order; a check without an answer after `timeout_s` seconds is a problem, and is ended."""
    deadline = time.monotonic() + timeout_s
    with ExitStack() as stack:
        children = [stack.enter_context(_Child(check)) for check in checks]
        return [child.finding(deadline, timeout_s) for child in children]


class _Child:
    """The process of one check. It answers into memory, as a pipe can be full, and so can a disk."""

    def __init__(self, check: Check) -> None:
        self._check = check
        # The paths of this process: -c alone would look in the current folder first, whatever its files are called.
        code = f"import sys; sys.path = {sys.path!r}; from {__name__} import answer; "
        self._answer = os.fdopen(os.memfd_create("finding"), "w+b")
        file = self._answer.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{code}answer({check.__module__!r}, {check.__name__!r}, {file})"],
            pass_fds=[file],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that what it started ends with it, and Ctrl-C is ours
        )

    def finding(self, deadline: float, timeout_s: float) -> Finding:
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return self._failed(f"no answer within {timeout_s:g} s")
        self._answer.seek(0)
        text = self._answer.read()
        if not text:
            return self._failed(_death(self._process.returncode))
        finding = Finding(**json.loads(text))
        return self._failed(finding.summary) if finding.status == PROBLEM and finding.fix is None else finding

    def _failed(self, summary: str) -> Finding:
        call = f"from {self._check.__module__} import {self._check.__name__} as check; print(check())"
        return Finding(PROBLEM, summary, fix=f'see where: {sys.executable} -X faulthandler -c "{call}"')

    def __enter__(self) -> _Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_S)
        self._answer.close()


def _death(status: int) -> str:
    """What the end of a process without an answer means."""
    try:
        name = signal.Signals(-status).name
    except ValueError:
        return f"ended without an answer (exit status {status})"
    if name == "SIGKILL":
        return "was killed (SIGKILL), as the system does when memory runs out"
    return f"crashed ({name}) in a native library"


def answer(module: str, name: str, file: int) -> None:
    """In the child: run the check, write its finding, and end before any library can crash while it ends."""
    try:
        finding = getattr(importlib.import_module(module), name)()
    except SsdEdgeError as error:
        finding = problem(error)
    except BaseException as error:
        finding = Finding(PROBLEM, f"{type(error).__name__}: {first_line(error)}")
    with os.fdopen(file, "wb") as out:
        out.write(json.dumps(asdict(finding)).encode())
    os._exit(0)
