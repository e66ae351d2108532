"""Run commands within a time budget and keep what they gave: one JSON file, one log. Standard library only."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

Row = dict[str, Any]

COMMAND_CHARACTERS = 2000  # longer commands are refused by some services that run them on another machine
LOG_BYTES_OF_A_COMMAND = 1 << 20
RESERVE_S = 10.0  # of the script's time, for writing files and ending processes
GRACE_S = 2.0  # between SIGTERM and SIGKILL
POLL_S = 0.05
LOOK_S = 2.0  # how often to look for figures that a running command has written


class Stopped(BaseException):
    """A signal asked the script to end; its name."""


def stop_on_signals() -> None:
    """Turn SIGTERM, SIGINT and SIGHUP into `Stopped`, so that what ran is written before the script ends."""

    def stop(number: int, _: FrameType | None) -> NoReturn:
        for other in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)  # one is enough: the files are about to be written
        raise Stopped(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)


class Budget:
    """The time that the whole script may take.

    Args:
        seconds: in all.
        reserve_s: kept for writing files and ending processes.
    """

    def __init__(self, seconds: float, reserve_s: float) -> None:
        self._end = time.monotonic() + seconds - reserve_s

    def left_s(self) -> float:
        """Seconds that steps may still use; negative once the budget is spent."""
        return self._end - time.monotonic()


class Evidence:
    """The JSON file. Each `save` replaces it in one step, so it is complete at any time.

    Args:
        path: of the file.
        head: what comes before the steps.
        short: names to write for paths of this machine.
    """

    def __init__(self, path: Path, head: Row, short: Mapping[str, str] | None = None) -> None:
        self._path, self._head, self._short = path, head, short or {}
        self.steps: dict[str, Row] = {}
        self.unsaved: str | None = None  # why what is there now could not be written

    def save(self) -> None:
        """Write the steps as they are now. A full disk is said and ends nothing: the next `save` may find room."""
        text = json.dumps({**self._head, "steps": self.steps}, indent=2, ensure_ascii=False)
        for name, other in self._short.items():
            text = text.replace(name, other)
        part = self._path.with_name(self._path.name + ".part")
        self.unsaved = None
        try:
            with part.open("w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self._path)
        except OSError as error:
            self.unsaved = f"{self._path} could not be written: {error}"
            print(self.unsaved, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: its exit status, negative for a signal; None when it was killed at its time limit.
        output: stdout and stderr in the order of writing.
    """

    status: int | None
    output: str
    seconds: float

    def tail(self, lines: int = 30) -> str:
        """The end of the output."""
        return "\n".join(self.output.splitlines()[-lines:])


def run(
    command: Sequence[str],
    *,
    limit_s: float,
    log: Path,
    cwd: Path,
    environment: Mapping[str, str],
    look: Callable[[], None] = lambda: None,
) -> Ended:
    """Run a command in its own process group; what it prints is appended to the log.

    At its time limit, and when a signal stops the script, the whole group is killed.

    Args:
        look: called every two seconds, and once after the end.
    """
    begin = time.monotonic()
    with log.open("ab") as file:
        file.write(f"\n$ {shlex.join(command)}\n".encode())
        file.flush()
        start = file.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=dict(environment),
            start_new_session=True,
        )
    try:
        ended = _wait(process, begin + limit_s, look)
    finally:
        _kill_group(process)
        look()
    output = _output(log, start)
    return Ended(process.returncode if ended else None, output, round(time.monotonic() - begin, 2))


def _wait(process: subprocess.Popen[bytes], end: float, look: Callable[[], None]) -> bool:
    """Whether the process ended by itself."""
    next_look = time.monotonic() + LOOK_S
    while process.poll() is None:
        now = time.monotonic()
        if now >= end:
            return False
        if now >= next_look:
            look()
            next_look = now + LOOK_S
        time.sleep(min(POLL_S, max(0.0, end - now)))
    return True


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """The process, and all that it started and left behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):  # none is left; macOS says the second of zombies
            break
        end = time.monotonic() + GRACE_S
        while process.poll() is None and time.monotonic() < end:
            time.sleep(POLL_S)
    process.poll()  # one that waits in the driver for a GPU that hangs may not end even now; the script goes on


def _output(log: Path, start: int) -> str:
    """What was logged from `start` on; the middle of very long output is cut out of the log."""
    with log.open("r+b") as file:
        file.seek(start)
        content = file.read()
        if len(content) > LOG_BYTES_OF_A_COMMAND:
            half = LOG_BYTES_OF_A_COMMAND // 2
            cut = f"\n[… {len(content) - 2 * half} bytes cut …]\n".encode()
            file.seek(start)
            file.write(content[:half] + cut + content[-half:])
            file.truncate()
    return content.decode(errors="replace")


@dataclass
class Setup:
    """What all steps share.

    Attributes:
        root: of the repository.
        work: temporary folder.
        environment: of every command.
        carried: what travelled along: `carry.py` describes it.
        hide: environment that hides the packages a target lacks, except for those named; in a dry run. None: nothing is
            hidden.
    """

    root: Path
    work: Path
    log: Path
    python: str
    environment: dict[str, str]
    dry_run: bool = False
    carried: Row = field(default_factory=dict)
    hide: Callable[[tuple[str, ...]], dict[str, str]] | None = None


class Task:
    """One step at work: runs its commands within its time and fills its row of the evidence.

    Args:
        row: of the evidence; kept also when the step is killed.
        limit_s: for all its commands together.
    """

    def __init__(self, setup: Setup, evidence: Evidence, row: Row, limit_s: float) -> None:
        self.setup, self.row = setup, row
        self._evidence = evidence
        self._end = time.monotonic() + limit_s
        self.row.update({"status": "running", "limit_s": round(limit_s, 1), "commands": []})
        self._evidence.save()

    def command(
        self,
        *command: str,
        figures: Path | None = None,
        parts: int = 1,
        hide: bool = True,
        show: Sequence[str] = (),
    ) -> Ended:
        """Run a command and note how it ended.

        Args:
            figures: a JSON file that the command writes, perhaps several times; its content is kept in the row, added
                to that of the step's earlier commands.
            parts: how many commands are still to come, this one included; it gets this part of the time left.
            hide: in a dry run, hide the packages that the target lacks, those in `show` excepted.
        """
        self.check_length(command)
        noted: Row = {"command": shlex.join(command)}
        self.row["commands"].append(noted)
        setup, seen = self.setup, 0
        earlier: Any = self.row.get("figures")

        def look() -> None:
            nonlocal seen
            modified = figures.stat().st_mtime_ns if figures is not None and figures.is_file() else 0
            if figures is not None and modified != seen:
                content = read_json(figures)
                if content is not None:
                    seen = modified
                    both = isinstance(earlier, dict) and isinstance(content, dict)
                    self.row["figures"] = earlier | content if both else content
                    self._evidence.save()

        hidden = setup.hide(tuple(show)) if hide and setup.hide else {}
        limit_s = max(1.0, (self._end - time.monotonic()) / parts)
        ended = run(
            command,
            limit_s=limit_s,
            log=setup.log,
            cwd=setup.root,
            environment=join_paths(setup.environment, hidden),
            look=look,
        )
        noted |= {"exit": ended.status, "seconds": ended.seconds}
        if ended.status is None:
            self.fail(f"killed after {limit_s:.0f} s, its time limit", status="timeout")
        elif ended.status:
            noted["last_lines"] = ended.tail()
        self._evidence.save()
        return ended

    def check_length(self, command: Sequence[str]) -> None:
        """Fail if a command is too long to be handed to another machine."""
        length = len(shlex.join(command))
        if length >= COMMAND_CHARACTERS:
            self.fail(
                f"a command of {length} characters, {COMMAND_CHARACTERS - 1} at most: {shlex.join(command)[:80]}…"
            )

    def fail(self, reason: str, *, status: str = "failed") -> None:
        """Mark the step as failed; of several reasons all are kept."""
        self.row["status"] = status
        self.row["reason"] = "; ".join(filter(None, (self.row.get("reason"), reason)))

    def skip(self, reason: str) -> None:
        """Mark the step as skipped."""
        self.row |= {"status": "skipped", "reason": reason}


def join_paths(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Two environments in one: `PYTHONPATH` of the second comes first."""
    joined = {**one, **other}
    paths = [each["PYTHONPATH"] for each in (other, one) if each.get("PYTHONPATH")]
    if paths:
        joined["PYTHONPATH"] = os.pathsep.join(paths)
    return joined


def read_json(path: Path) -> Any:
    """The content, or None where there is no file or not yet all of it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
