"""Version, exit statuses and messages, whatever the command."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssd_edge.cli.main import main
from tests.ssd_edge.cli.complaint import complaint


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("ssd-edge 0.")


def test_an_unexpected_error_is_one_line_unless_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(_: object) -> None:
        raise ZeroDivisionError("a bug\nwith more lines")

    monkeypatch.setattr("ssd_edge.cli.demo.run", explode)
    assert main(["demo"]) == 1
    expected = "ssd-edge: unexpected ZeroDivisionError: a bug (run with --debug for the traceback)"
    assert complaint(capsys) == expected
    with pytest.raises(ZeroDivisionError):
        main(["demo", "--debug"])
    with pytest.raises(ZeroDivisionError):
        main(["--debug", "demo"])


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ssd_edge.cli.demo.run", interrupt)
    assert main(["demo"]) == 130
    assert complaint(capsys) == "ssd-edge: interrupted"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_closed_pipe_is_no_traceback(fixed_model: Callable[..., Path], fixed_dataset: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "ssd_edge", "eval", str(fixed_model()), str(fixed_dataset)]
    with os.fdopen(write_end, "wb") as pipe:
        result = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr == ""
