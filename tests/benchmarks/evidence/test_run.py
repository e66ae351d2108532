"""Commands within a time budget: what is kept, and what is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.evidence import run as runner
from tests.benchmarks.evidence.script import is_running, written


def test_a_step_at_its_limit_is_killed_with_all_it_started_and_what_it_wrote_is_kept(
    task: Callable[..., runner.Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock jumps past the limit once the command has done its part, however slow the machine is."""
    figures, ready, now = tmp_path / "figures.json", tmp_path / "ready", time.monotonic
    clock = SimpleNamespace(monotonic=lambda: now() + 1000 * ready.exists(), sleep=time.sleep)
    monkeypatch.setattr(runner, "time", clock)
    code = f"echo begun; echo '[{{\"ms\": 2}}]' > {figures}; sleep 61.25 & touch {ready}; sleep 61.5"
    ended = task(600).command("sh", "-c", code, figures=figures)
    assert (ended.status, ended.output) == (None, "begun\n")
    assert not is_running("sleep", "61.25")
    assert not is_running("sleep", "61.5")
    row = written(tmp_path)["steps"]["step"]
    assert (row["status"], row["figures"]) == ("timeout", [{"ms": 2}])
    assert row["reason"] == "killed after 600 s, its time limit"
    assert row["commands"][0]["exit"] is None
    assert "begun" in (tmp_path / "log").read_text()


def test_a_process_that_a_step_leaves_behind_is_killed(task: Callable[..., runner.Task]) -> None:
    assert task().command("sh", "-c", "sleep 62.25 >/dev/null 2>&1 & exit 3").status == 3
    assert not is_running("sleep", "62.25")


def test_figures_are_kept_while_the_command_runs(
    task: Callable[..., runner.Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So they outlive a SIGKILL of everything: the command waits until it sees them in the evidence."""
    monkeypatch.setattr(runner, "LOOK_S", 0.05)
    figures, kept = tmp_path / "figures.json", tmp_path / "gpu_evidence.json"
    code = f"echo '[17]' > {figures}; until grep -q 17 {kept}; do sleep 0.05; done"
    assert task(30).command("sh", "-c", code, figures=figures).status == 0


def test_the_file_is_replaced_in_one_step(evidence: runner.Evidence, tmp_path: Path) -> None:
    evidence.steps["first"] = {"status": "passed"}
    evidence.save()
    evidence.steps["second"] = {"status": object()}
    with pytest.raises(TypeError):
        evidence.save()
    assert written(tmp_path) == {"schema": 1, "steps": {"first": {"status": "passed"}}}


def test_paths_of_the_machine_are_not_written(tmp_path: Path) -> None:
    short = {"/opt/it's/bin/python": "python", "/opt/it's": "ROOT"}
    one = runner.Evidence(tmp_path / "gpu_evidence.json", {}, short)
    one.steps["step"] = {"command": "/opt/it's/bin/python x.py", "reason": "no /opt/it's/x.py"}
    one.save()
    assert written(tmp_path)["steps"]["step"] == {"command": "python x.py", "reason": "no ROOT/x.py"}


def test_very_long_output_is_cut_in_the_log(
    task: Callable[..., runner.Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LOG_BYTES_OF_A_COMMAND", 1000)
    one = task()
    ended = one.command("sh", "-c", "echo first; head -c 9000 /dev/zero | tr '\\0' x; echo; echo last")
    assert len(ended.output) == 9000 + len("first\n\nlast\n")
    one.command("echo", "next")
    log = (tmp_path / "log").read_text()
    assert len(log) < 1500
    assert "first\nxxx" in log
    assert "[… 8012 bytes cut …]" in log
    assert log.endswith("xxx\nlast\n\n$ echo next\nnext\n")


def test_a_process_that_cannot_be_killed_does_not_hold_the_script(
    task: Callable[..., runner.Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits in the driver for a GPU that hangs."""
    pids: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda pid, _: pids.append(pid))
        patch.setattr(runner, "GRACE_S", 0.1)
        ended = task(0.1).command("sleep", "65.25")
    assert (ended.status, is_running("sleep", "65.25")) == (None, True)
    os.killpg(pids[0], signal.SIGKILL)


def test_figures_of_later_commands_are_added(task: Callable[..., runner.Task], tmp_path: Path) -> None:
    one = task()
    for name, text in (("a", '{"a": 1, "gpu": "T"}'), ("b", '{"b": 2, "gpu": "T"}')):
        one.command("sh", "-c", f"echo '{text}' > {tmp_path / name}", figures=tmp_path / name)
    assert one.row["figures"] == {"a": 1, "b": 2, "gpu": "T"}


def test_a_command_too_long_for_other_machines(task: Callable[..., runner.Task]) -> None:
    one = task()
    one.command("true", "x" * 1990)
    assert one.row["status"] == "running"
    one.command("true", "x" * 1995)
    assert one.row["reason"] == f"a command of 2000 characters, 1999 at most: true {'x' * 75}…"
