"""The evidence script where there is no GPU: what it keeps when time runs out, and its dry run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu_absent  # noqa: E402
import gpu_evidence  # noqa: E402
import gpu_evidence_run as runner  # noqa: E402
import gpu_evidence_steps as steps  # noqa: E402
import gpu_versions  # noqa: E402

SCRIPT = ROOT / "benchmarks" / "gpu_evidence.sh"


@pytest.fixture
def setup(tmp_path: Path) -> runner.Setup:
    return runner.Setup(ROOT, tmp_path, tmp_path / "log", sys.executable, {"PATH": os.environ["PATH"]})


@pytest.fixture
def evidence(tmp_path: Path) -> runner.Evidence:
    return runner.Evidence(tmp_path / "gpu_evidence.json", {"schema": 1})


@pytest.fixture
def task(setup: runner.Setup, evidence: runner.Evidence) -> Callable[..., runner.Task]:
    def make(limit_s: float = 60, **changes: Any) -> runner.Task:
        for name, value in changes.items():
            setattr(setup, name, value)
        return runner.Task(setup, evidence, evidence.steps.setdefault("step", {}), limit_s)

    return make


def written(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "gpu_evidence.json").read_text())


def script(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, env=environment, **options)


def is_running(*words: str) -> bool:
    """Whether some process has these arguments; zombies have none."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if all(word.encode() in arguments for word in words):
            return True
    return False


def test_a_step_at_its_limit_is_killed_with_all_it_started_and_what_it_wrote_is_kept(
    task: Callable[..., runner.Task], tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    code = f"echo begun; echo '[{{\"ms\": 2}}]' > {figures}; sleep 61.25 & sleep 61.5"
    ended = task(1.0).command("sh", "-c", code, figures=figures)
    assert (ended.status, ended.output) == (None, "begun\n")
    assert not is_running("sleep", "61.25")
    assert not is_running("sleep", "61.5")
    row = written(tmp_path)["steps"]["step"]
    assert (row["status"], row["figures"]) == ("timeout", [{"ms": 2}])
    assert row["reason"] == "killed after 1 s, its time limit"
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


def test_later_steps_are_not_run_once_the_budget_is_spent(
    setup: runner.Setup, evidence: runner.Evidence, tmp_path: Path
) -> None:
    two = [
        steps.Step("slow", 60, "", lambda task: void(task.command("sleep", "63"))),
        steps.Step("late", 60, "", lambda task: pytest.fail("there is no time")),
    ]
    minutes = (runner.RESERVE_S + gpu_evidence.LEAST_S + 0.5) / 60
    assert gpu_evidence.run_steps(two, setup, evidence, minutes) is None
    found = written(tmp_path)["steps"]
    assert found["slow"]["status"] == "timeout"
    assert found["slow"]["limit_s"] <= gpu_evidence.LEAST_S + 0.5  # all that is left, though its own limit is longer
    assert found["late"] == {"status": "not run: budget"}


def void(_: object) -> None:
    """Drop a value."""


def test_an_error_in_a_step_does_not_end_the_others(
    setup: runner.Setup, evidence: runner.Evidence, tmp_path: Path
) -> None:
    two = [
        steps.Step("odd", 5, "", lambda task: void(task.row["nothing"])),
        steps.Step("well", 5, "", lambda task: void(task.command("true"))),
    ]
    gpu_evidence.run_steps(two, setup, evidence, 9)
    found = written(tmp_path)["steps"]
    assert (found["odd"]["status"], found["odd"]["reason"]) == ("failed", "KeyError: 'nothing'")
    assert found["well"]["status"] == "passed"


STOPPED = """
import sys
sys.path.insert(0, {benchmarks!r})
import gpu_evidence, gpu_evidence_steps
step = gpu_evidence_steps.Step
def first(task): task.command("true")
def second(task): task.command("sh", "-c", "touch {out}/begun; sleep 64.25")
gpu_evidence.STEPS = tuple(gpu_evidence_steps.Step(f.__name__, 60, "", f) for f in (first, second, first))
gpu_evidence.STEPS = gpu_evidence.STEPS[:2] + (step("third", 60, "", first),)
sys.exit(gpu_evidence.take(gpu_evidence.parse_args(["--out", "{out}"])))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_ran_is_kept_when_a_signal_ends_the_script(number: signal.Signals, tmp_path: Path) -> None:
    code = STOPPED.format(benchmarks=str(ROOT / "benchmarks"), out=tmp_path)
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
    assert gpu_evidence.budget_problem(everything, 9) is None
    assert gpu_evidence.budget_problem(everything, 18) is None  # longer limits in a longer run
    assert gpu_evidence.limit_s(steps.STEPS[1], 18) == 2 * steps.STEPS[1].timeout_s
    problem = gpu_evidence.budget_problem(everything, 8)
    assert problem == "the steps may take 540 s together, the budget is 480 s: give more --minutes or fewer --steps"


def test_time_that_earlier_steps_left_over_is_passed_on() -> None:
    one, late, last = (steps.Step(name, 100, "", print, takes_rest=name == "last") for name in ("one", "late", "last"))
    for left, limit in ((60, 60), (150, 100), (300, 100), (350, 150), (500, 200)):
        assert gpu_evidence.limit_now_s(one, [late, last], 9, left) == limit
        assert gpu_evidence.limit_now_s(last, [], 9, left) == left
    assert gpu_evidence.limit_now_s(one, [late, last], 18, 700) == 300  # of 200 each


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dry-run"], "one of --out and --prepare is needed"),
        (["--prepare", "x"], "--prepare needs --budget-mib"),
        (["--out", "x", "--steps", "tests,speed"], "no step speed; there are versions, tests, benchmark"),
        (["--out", "x", "--have", "/absent"], "No such file or directory: '/absent'"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str, tmp_path: Path) -> None:
    ended = script(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert not list(tmp_path.iterdir())


def test_a_command_too_long_for_other_machines(task: Callable[..., runner.Task]) -> None:
    one = task()
    one.command("true", "x" * 1990)
    assert one.row["status"] == "running"
    one.command("true", "x" * 1995)
    assert one.row["reason"] == f"a command of 2000 characters, 1999 at most: true {'x' * 75}…"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a program of this name on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, code: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{code}\n")
        (folder / name).chmod(0o755)

    return make


def test_without_the_tools(task: Callable[..., runner.Task], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "find_tool", lambda _: None)
    for does, name in ((steps.sanitize, "compute-sanitizer"), (steps.profile, "ncu")):
        one = task()
        does(one)
        assert (one.row["status"], one.row["reason"]) == ("skipped", f"{name} is not on this machine")


def test_a_sanitizer_that_refuses_the_gpu(task: Callable[..., runner.Task], tool: Callable[[str, str], None]) -> None:
    tool("compute-sanitizer", "echo '========= Error: Device not supported. Please refer to the list'; exit 1")
    one = task()
    steps.sanitize(one)
    said = "Error: Device not supported. Please refer to the list"
    assert (one.row["status"], one.row["reason"]) == ("skipped", f"racecheck: {said}; memcheck: {said}")


def test_what_the_sanitizer_finds(task: Callable[..., runner.Task], tool: Callable[[str, str], None]) -> None:
    tool(
        "compute-sanitizer",
        """clean='========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)'
        [ $2 = racecheck ] && { echo "$clean"; exit; }
        echo '========= Invalid __global__ write of size 4 bytes'; echo '========= ERROR SUMMARY: 3 errors'; exit 86""",
    )
    one = task()
    steps.sanitize(one)
    assert (one.row["status"], one.row["reason"]) == ("failed", "memcheck (exit status 86): ERROR SUMMARY: 3 errors")
    assert one.row["figures"]["racecheck"]["clean"] is True
    assert one.row["figures"]["memcheck"]["clean"] is False
    assert one.row["figures"]["memcheck"]["messages"][0] == "========= Invalid __global__ write of size 4 bytes"


def test_a_program_that_ends_early_is_not_clean(
    task: Callable[..., runner.Task], tool: Callable[[str, str], None]
) -> None:
    tool("compute-sanitizer", "echo 'no GPU'; echo '========= ERROR SUMMARY: 0 errors'; exit 1")
    one = task()
    steps.sanitize(one)
    assert one.row["status"] == "failed"
    assert [each["clean"] for each in one.row["figures"].values()] == [False, False]


def test_an_ncu_that_may_not_read_the_counters(
    task: Callable[..., runner.Task], tool: Callable[[str, str], None]
) -> None:
    tool("ncu", "echo '==ERROR== ERR_NVGPUCTRPERM - The user does not have permission'; exit 1")
    one = task()
    steps.profile(one)
    assert one.row["status"] == "skipped"
    assert one.row["reason"] == "ERR_NVGPUCTRPERM - The user does not have permission"


def test_ncu_leaves_the_clocks_alone(task: Callable[..., runner.Task], tool: Callable[[str, str], None]) -> None:
    tool(
        "ncu",
        """echo "$*" | grep -q -- '--clock-control none' || exit 9
        while [ "$1" != --log-file ]; do shift; done
        echo '"ID","Kernel Name","Metric Name","Metric Value"' > $2
        echo '"0","nms_count(const float *)","gpu__time_duration.sum","12,345"' >> $2""",
    )
    one = task()
    steps.profile(one)
    assert one.row["figures"] == {"kernels": [{"kernel": "nms_count", "duration_ns": 12345.0}]}
    assert "reason" not in one.row


def test_without_decoder_video_or_rtx(
    task: Callable[..., runner.Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "NVDEC_LIBRARY", "libabsent.so.1")
    (tmp_path / "av.py").write_text("")
    without = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    python = "/usr/bin/env"  # finds no module at all
    for changes, does, reason in (
        ({"python": python}, steps.nvdec, "no decoder package is here: av, PyNvVideoCodec"),
        ({"python": python}, steps.rtx, "none of these can be imported: tensorrt_rtx, tensorrt_rtx_bindings"),
        ({"python": sys.executable, "environment": without}, steps.nvdec, "no video travelled"),
        ({"carried": {"video": "v.mp4"}}, steps.nvdec, "libabsent.so.1, the driver's decoder, cannot be loaded"),
    ):
        one = task(**changes)
        does(one)
        assert (one.row["status"], one.row["reason"]) == ("skipped", reason)


@pytest.mark.parametrize("program", ["gpu_evidence", "gpu_versions", "gpu_carry", "gpu_claims"])
def test_programs_that_start_where_nothing_is_installed(program: str) -> None:
    command = [sys.executable, "-S", "-E", f"{ROOT}/benchmarks/{program}.py", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.fixture
def dry_task(task: Callable[..., runner.Task], tmp_path: Path) -> Callable[..., runner.Task]:
    """Of a dry run in a repository that holds these files alone, with tqdm hidden."""

    def make(files: dict[str, str]) -> runner.Task:
        root = tmp_path / "repository"
        for name, text in {**files, "tensorrt_rtx.py": ""}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        hidden = gpu_absent.environment(["tqdm"], tmp_path / "hide")
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root)}
        return task(root=root, environment=environment, dry_run=True, hide=lambda _: hidden)

    return make


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('dry run: well')", None),
        ("import tqdm; print('dry run: well')", "ModuleNotFoundError: No module named 'tqdm'"),
        ("print('well')", "exit status 0 and no line that begins with “dry run:”: well"),
        ("print('dry run: one failed'); raise SystemExit(1)", "exit status 1 and no line"),
        ("import argparse; argparse.ArgumentParser().parse_args()", "unrecognized arguments: -o"),
    ],
)
def test_a_dry_run_shows_what_would_go_wrong(
    program: str, reason: str | None, dry_task: Callable[..., runner.Task]
) -> None:
    one = dry_task({"benchmarks/gpu_rtx.py": program})
    steps.rtx(one)
    if reason is None:
        assert (one.row["status"], one.row["dry_run"]) == ("running", ["dry run: well"])
    else:
        assert one.row["status"] == "failed"
        assert reason in one.row["reason"]


def test_a_dry_run_collects_the_tests(dry_task: Callable[..., runner.Task]) -> None:
    good = "import pytest\npytestmark = pytest.mark.gpu\ndef test_a(): pass\ndef test_tensorrt(): pass\n"
    one = dry_task({"tests/runtime/test_good.py": good})
    steps.tests(one)
    assert (one.row["status"], one.row["figures"]) == ("running", {"collected": 1})
    one = dry_task({"tests/runtime/test_bad.py": "import tqdm\n"})
    steps.tests(one)
    assert one.row["status"] == "failed"
    assert "No module named 'tqdm'" in one.row["commands"][0]["last_lines"]


def test_versions(tool: Callable[[str, str], None]) -> None:
    tool("nvidia-smi", "echo 'NVIDIA T, 580.1, 9.0, 143771 MiB, 4 MiB, Disabled, 345 MHz, 1980 MHz'")
    (gpu,) = gpu_versions.versions()["gpus"]
    assert (gpu["name"], gpu["compute_cap"], gpu["memory.total"]) == ("NVIDIA T", "9.0", "143771 MiB")
    tool("nvidia-smi", "echo 'NVIDIA-SMI has failed, because it cannot reach the driver' >&2; exit 9")
    found = gpu_versions.versions()
    assert found["gpus"] == []
    assert found["nvidia-smi"] == "exit status 9: NVIDIA-SMI has failed, because it cannot reach the driver"


def test_a_machine_without_a_gpu(tmp_path: Path) -> None:
    ended = script("--out", str(tmp_path / "out"), "--steps", "versions")
    if "passed" in ended.stdout:
        pytest.skip("there is a GPU here")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert ended.stdout.endswith("nvidia-smi shows no GPU\n")
    row = written(tmp_path / "out")["steps"]["versions"]
    assert row["figures"]["gpus"] == []
    assert row["commands"][0]["command"] == "python benchmarks/gpu_versions.py -o WORK/versions.json"


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
    for name in ("benchmark", "nvdec", "rtx", "end_to_end"):
        (said,) = found["steps"][name]["dry_run"]
        assert said.startswith("dry run:")
    assert "compute-sanitizer --tool racecheck" in found["steps"]["sanitizer"]["not_run_here"][0]
    assert "--clock-control none" in found["steps"]["ncu"]["not_run_here"][0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu_evidence.json", "gpu_evidence.log"]
