"""The evidence script where there is no GPU: what it keeps when time runs out, and its dry run."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.evidence import main, source, steps
from benchmarks.evidence import run as runner
from tests.benchmarks.evidence.script import ROOT, is_running, script, void, written


def test_later_steps_are_not_run_once_the_budget_is_spent(
    setup: runner.Setup, evidence: runner.Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([20.0, main.LEAST_S - 0.1])
    monkeypatch.setattr(main, "Budget", lambda *_: SimpleNamespace(left_s=left.__next__))
    two = [
        steps.Step("slow", 60, "", lambda task: void(task.command("true"))),
        steps.Step("late", 60, "", lambda task: pytest.fail("there is no time")),
    ]
    assert main.run_steps(two, setup, evidence, 9) is None
    found = written(tmp_path)["steps"]
    assert found["slow"]["limit_s"] == 20  # all that is left, though its own limit is longer
    assert found["late"] == {"status": "not run: budget"}


def test_a_full_disk_ends_nothing(
    setup: runner.Setup,
    evidence: runner.Evidence,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(task: runner.Task) -> None:
        monkeypatch.setattr(os, "fsync", no_space)
        task.command("true")

    def free(task: runner.Task) -> None:
        monkeypatch.undo()
        task.command("true")

    names = {"before": lambda task: void(task.command("true")), "full": fill, "fuller": void, "room": free}
    assert main.run_steps([steps.Step(n, 5, "", does) for n, does in names.items()], setup, evidence, 9) is None
    assert {row["status"] for row in written(tmp_path)["steps"].values()} == {"passed"}
    assert list(written(tmp_path)["steps"]) == list(names)
    assert "gpu_evidence.json could not be written: [Errno 28] No space left on device" in capsys.readouterr().err
    assert evidence.unsaved is None
    monkeypatch.setattr(os, "fsync", no_space)
    evidence.save()
    assert evidence.unsaved is not None


def test_evidence_that_could_not_be_written_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(task: runner.Task) -> None:
        (tmp_path / "gpu_evidence.json").unlink()
        (tmp_path / "gpu_evidence.json").mkdir()  # no file can take its place
        task.command("true")

    monkeypatch.setattr(main, "STEPS", (steps.Step("versions", 5, "", fill),))
    monkeypatch.setattr(main, "stop_on_signals", lambda: None)
    assert main.take(main.parse_args(["--out", str(tmp_path)])) == 1


def test_an_error_in_a_step_does_not_end_the_others(
    setup: runner.Setup, evidence: runner.Evidence, tmp_path: Path
) -> None:
    two = [
        steps.Step("odd", 5, "", lambda task: void(task.row["nothing"])),
        steps.Step("well", 5, "", lambda task: void(task.command("true"))),
    ]
    main.run_steps(two, setup, evidence, 9)
    found = written(tmp_path)["steps"]
    assert (found["odd"]["status"], found["odd"]["reason"]) == ("failed", "KeyError: 'nothing'")
    assert found["well"]["status"] == "passed"


STOPPED = """
import sys
sys.path.insert(0, {root!r})
from benchmarks.evidence import main, steps

step = steps.Step
def first(task): task.command("true")
def second(task): task.command("sh", "-c", "touch {out}/begun; sleep 64.25")
main.STEPS = tuple(step(f.__name__, 60, "", f) for f in (first, second, first))
main.STEPS = main.STEPS[:2] + (step("third", 60, "", first),)
sys.exit(main.take(main.parse_args(["--out", "{out}"])))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_ran_is_kept_when_a_signal_ends_the_script(number: signal.Signals, tmp_path: Path) -> None:
    code = STOPPED.format(root=str(ROOT), out=tmp_path)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.communicate(timeout=60)[1].startswith(f"stopped by {number.name}".encode())
    assert process.returncode == 128 + number
    assert not is_running("sleep", "64.25")
    found = written(tmp_path)["steps"]
    statuses = {name: row["status"] for name, row in found.items()}
    assert statuses == {"first": "passed", "second": f"stopped: {number.name}", "third": f"not run: {number.name}"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "gpu_evidence.json", "gpu_evidence.log"]


def test_time_limits_fit_into_nine_minutes() -> None:
    everything = [steps.CARRY, *steps.STEPS]
    assert main.budget_problem(everything, 9) is None
    assert main.budget_problem(everything, 18) is None  # longer limits in a longer run
    assert main.limit_s(steps.STEPS[1], 18) == 2 * steps.STEPS[1].timeout_s
    problem = main.budget_problem(everything, 8)
    assert problem == "the steps may take 540 s together, the budget is 480 s: give more --minutes or fewer --steps"


def test_time_that_earlier_steps_left_over_is_passed_on() -> None:
    one, late, last = (steps.Step(name, 100, "", print, takes_rest=name == "last") for name in ("one", "late", "last"))
    for left, limit in ((60, 60), (150, 100), (300, 100), (350, 150), (500, 200)):
        assert main.limit_now_s(one, [late, last], 9, left) == limit
        assert main.limit_now_s(last, [], 9, left) == left
    assert main.limit_now_s(one, [late, last], 18, 700) == 300  # of 200 each


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dry-run"], "one of --out and --prepare is needed"),
        (["--prepare", "x"], "--prepare needs --budget-mib"),
        (["--out", "x", "--steps", "tests,speed"], "no step speed; there are versions, tests, benchmark"),
        (["--out", "x", "--have", "/absent"], "No such file or directory: '/absent'"),
        (["--out", "x", "--carry", "/absent"], "/absent is no package of --prepare"),
        (["--out", "x", "--minutes", "0"], "--minutes: '0'; expected a number above 0"),
        (["--out", "x", "--minutes", "nan"], "--minutes: 'nan'; expected a number above 0"),
        (["--out", "x", "--minutes", "inf"], "--minutes: 'inf'; expected a number above 0"),
        (["--prepare", "x", "--budget-mib", "-1"], "--budget-mib: '-1'; expected a number above 0"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str, tmp_path: Path) -> None:
    ended = script(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert not list(tmp_path.iterdir())


def test_evidence_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "gpu_evidence.json"
    file.write_text(before := '{"dry_run": false, "steps": {}}')
    ended = script("--out", str(tmp_path), "--steps", "versions")
    assert (ended.returncode, file.read_text()) == (2, before)
    assert f"{file} is there already: name another folder for --out" in ended.stderr
    file.write_text("half of it")
    assert main.is_taken(tmp_path)
    file.write_text('{"dry_run": true, "steps": {}}')
    assert not main.is_taken(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = script("--out", str(tmp_path / "file" / "x"), "--steps", "versions")
    assert (ended.returncode, ended.stderr.count("Traceback")) == (2, 0)
    assert "Not a directory" in ended.stderr


def test_single_steps_come_with_the_machines_versions() -> None:
    found = [step.name for step in main.chosen("ncu,tests", carry=False, dry_run=False)]
    assert found == ["versions", "tests", "ncu"]


def test_a_run_without_time_is_no_success(tmp_path: Path) -> None:
    ended = script("--minutes", "0.1", "--out", str(tmp_path), "--steps", "versions")
    assert ended.returncode == 1
    assert written(tmp_path)["steps"]["versions"] == {"status": "not run: budget"}


def test_what_the_caller_has_on_the_path_stays(tmp_path: Path) -> None:
    """Behind the repository and what travelled."""
    callers = f"{tmp_path}/callers:{os.pathsep}relative"
    assert main.python_path("") == str(ROOT)
    assert main.python_path(callers) == f"{ROOT}:{tmp_path}/callers:{Path.cwd()}/relative"


@pytest.mark.parametrize("program", ["main", "versions", "carry", "claims"])
def test_programs_that_start_where_nothing_is_installed(program: str) -> None:
    command = [sys.executable, "-S", "-E", "-m", f"benchmarks.evidence.{program}", "--help"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_machine_without_a_gpu(tmp_path: Path) -> None:
    ended = script("--out", str(tmp_path / "out"), "--steps", "versions")
    if "passed" in ended.stdout:
        pytest.skip("there is a GPU here")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert ended.stdout.endswith("nvidia-smi shows no GPU\n")
    assert written(tmp_path / "out")["source"] == source.source(ROOT)
    row = written(tmp_path / "out")["steps"]["versions"]
    assert row["figures"]["gpus"] == []
    assert row["commands"][0]["command"] == "python -m benchmarks.evidence.versions -o WORK/versions.json"


def test_a_dry_run_names_a_budget_that_is_too_small(tmp_path: Path) -> None:
    ended = script("--dry-run", "--minutes", "0.4", "--out", str(tmp_path), "--steps", "versions")
    assert ended.returncode == 1
    assert ended.stderr.startswith("the steps may take 30 s together, the budget is 24 s")
    found = written(tmp_path)
    assert found["budget_problem"] == ended.stderr.strip()
    assert found["steps"]["versions"]["status"] == "passed"


@pytest.mark.slow
def test_dry_run(tmp_path: Path) -> None:
    """Every step up to the GPU, with what a bare machine lacks hidden."""
    for module in (
        "torch",
        "torchvision",
        "onnx",
        "onnxscript",
        "pycocotools",
        "zxingcpp",
        "av",
        "tensorrt_rtx_bindings",
    ):
        pytest.importorskip(module)
    ended = script("--dry-run", "--out", str(tmp_path))
    found = written(tmp_path)
    reasons = {name: row.get("reason") for name, row in found["steps"].items()}
    assert ended.returncode == 0, reasons
    assert found["dry_run"] is True
    assert list(reasons) == ["samples", *(step.name for step in steps.STEPS)]
    assert set(reasons.values()) == {None}  # nothing is skipped
    assert {row["status"] for row in found["steps"].values()} == {"passed"}
    assert found["steps"]["tests"]["figures"]["collected"] >= 30
    for name, programs in {"benchmark": 2, "nvdec": 1, "rtx": 1, "end_to_end": 1}.items():
        said = found["steps"][name]["dry_run"]
        assert [line[:8] for line in said] == ["dry run:"] * programs
    assert "compute-sanitizer --tool racecheck" in found["steps"]["sanitizer"]["not_run_here"][0]
    assert "--clock-control none" in found["steps"]["ncu"]["not_run_here"][0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu_evidence.json", "gpu_evidence.log"]
