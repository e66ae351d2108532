"""Checks in processes: some fail, crash or hang."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssd_edge.errors import SsdEdgeError
from ssd_edge.runtime.doctor.finding import OK, PROBLEM, Finding
from ssd_edge.runtime.doctor.isolation import run_isolated
from tests.fakes.scripted_sources import wait_for


def good() -> Finding:
    print("what a library prints")
    os.write(1, b"and its native part")
    return Finding(OK, "good", {"pid": os.getpid()})


def raises() -> Finding:
    raise RuntimeError("first line\nsecond line")


def refuses() -> Finding:
    raise SsdEdgeError("it is broken; mend it so")


def exits() -> Finding:
    sys.exit(0)


def crashes() -> Finding:
    os.kill(os.getpid(), signal.SIGSEGV)
    return good()


def vanishes() -> Finding:
    os._exit(7)


def hangs() -> Finding:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    Path(os.environ["DOCTOR_TEST_PIDS"]).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)
    return good()


def verbose() -> Finding:
    return Finding(OK, "x" * 1_000_000)  # more than a pipe holds


def test_checks_that_fail_spoil_themselves_alone() -> None:
    checks = [raises, refuses, exits, crashes, vanishes, good, verbose]
    found = run_isolated(checks, timeout_s=30)
    assert [(finding.status, finding.summary) for finding in found[:6]] == [
        (PROBLEM, "RuntimeError: first line"),
        (PROBLEM, "it is broken"),
        (PROBLEM, "SystemExit: 0"),
        (PROBLEM, "crashed (SIGSEGV) in a native library"),
        (PROBLEM, "ended without an answer (exit status 7)"),
        (OK, "good"),
    ]
    assert found[1].fix == "mend it so"
    assert found[5].facts["pid"] != os.getpid()
    assert len(found[6].summary) == 1_000_000


def test_the_fix_of_a_crash_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = run_isolated([raises], timeout_s=30)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    command = str(found.fix).removeprefix("see where: ")
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert "RuntimeError: first line" in result.stderr


def test_a_check_that_hangs_is_ended_with_all_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCTOR_TEST_PIDS", str(tmp_path / "pids"))
    hung, fine = run_isolated([hangs, good], timeout_s=5)
    assert (hung.status, hung.summary) == (PROBLEM, "no answer within 5 s")
    assert fine.status == OK
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    wait_for(lambda: not any(is_running(pid) for pid in pids))  # the system takes a moment to end what is killed


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
