"""The evidence script where there is no GPU: what it keeps when time runs out, and its dry run."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.evidence import absent as gpu_absent
from benchmarks.evidence import carry as gpu_carry
from benchmarks.evidence import main as gpu_evidence
from benchmarks.evidence import run as runner
from benchmarks.evidence import source as gpu_source
from benchmarks.evidence import steps
from benchmarks.evidence import versions as gpu_versions
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE
from ssd_edge.version import __version__

ROOT = Path(__file__).parents[3]
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


def test_later_steps_are_not_run_once_the_budget_is_spent(
    setup: runner.Setup, evidence: runner.Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([20.0, gpu_evidence.LEAST_S - 0.1])
    monkeypatch.setattr(gpu_evidence, "Budget", lambda *_: SimpleNamespace(left_s=left.__next__))
    two = [
        steps.Step("slow", 60, "", lambda task: void(task.command("true"))),
        steps.Step("late", 60, "", lambda task: pytest.fail("there is no time")),
    ]
    assert gpu_evidence.run_steps(two, setup, evidence, 9) is None
    found = written(tmp_path)["steps"]
    assert found["slow"]["limit_s"] == 20  # all that is left, though its own limit is longer
    assert found["late"] == {"status": "not run: budget"}


def test_a_process_that_cannot_be_killed_does_not_hold_the_script(
    task: Callable[..., runner.Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits in the driver for a GPU that hangs."""
    pids: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(runner.os, "killpg", lambda pid, _: pids.append(pid))
        patch.setattr(runner, "GRACE_S", 0.1)
        ended = task(0.1).command("sleep", "65.25")
    assert (ended.status, is_running("sleep", "65.25")) == (None, True)
    os.killpg(pids[0], signal.SIGKILL)


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
        monkeypatch.setattr(runner.os, "fsync", no_space)
        task.command("true")

    def free(task: runner.Task) -> None:
        monkeypatch.undo()
        task.command("true")

    names = {"before": lambda task: void(task.command("true")), "full": fill, "fuller": void, "room": free}
    assert gpu_evidence.run_steps([steps.Step(n, 5, "", does) for n, does in names.items()], setup, evidence, 9) is None
    assert {row["status"] for row in written(tmp_path)["steps"].values()} == {"passed"}
    assert list(written(tmp_path)["steps"]) == list(names)
    assert "gpu_evidence.json could not be written: [Errno 28] No space left on device" in capsys.readouterr().err
    assert evidence.unsaved is None
    monkeypatch.setattr(runner.os, "fsync", no_space)
    evidence.save()
    assert evidence.unsaved is not None


def test_evidence_that_could_not_be_written_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(task: runner.Task) -> None:
        (tmp_path / "gpu_evidence.json").unlink()
        (tmp_path / "gpu_evidence.json").mkdir()  # no file can take its place
        task.command("true")

    monkeypatch.setattr(gpu_evidence, "STEPS", (steps.Step("versions", 5, "", fill),))
    monkeypatch.setattr(gpu_evidence, "stop_on_signals", lambda: None)
    assert gpu_evidence.take(gpu_evidence.parse_args(["--out", str(tmp_path)])) == 1


def test_figures_of_later_commands_are_added(task: Callable[..., runner.Task], tmp_path: Path) -> None:
    one = task()
    for name, text in (("a", '{"a": 1, "gpu": "T"}'), ("b", '{"b": 2, "gpu": "T"}')):
        one.command("sh", "-c", f"echo '{text}' > {tmp_path / name}", figures=tmp_path / name)
    assert one.row["figures"] == {"a": 1, "b": 2, "gpu": "T"}


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
sys.path.insert(0, {root!r})
from benchmarks.evidence import main as gpu_evidence, steps

step = steps.Step
def first(task): task.command("true")
def second(task): task.command("sh", "-c", "touch {out}/begun; sleep 64.25")
gpu_evidence.STEPS = tuple(step(f.__name__, 60, "", f) for f in (first, second, first))
gpu_evidence.STEPS = gpu_evidence.STEPS[:2] + (step("third", 60, "", first),)
sys.exit(gpu_evidence.take(gpu_evidence.parse_args(["--out", "{out}"])))
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
    assert gpu_evidence.is_taken(tmp_path)
    file.write_text('{"dry_run": true, "steps": {}}')
    assert not gpu_evidence.is_taken(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = script("--out", str(tmp_path / "file" / "x"), "--steps", "versions")
    assert (ended.returncode, ended.stderr.count("Traceback")) == (2, 0)
    assert "Not a directory" in ended.stderr


def test_single_steps_come_with_the_machines_versions() -> None:
    found = [step.name for step in gpu_evidence.chosen("ncu,tests", carry=False, dry_run=False)]
    assert found == ["versions", "tests", "ncu"]


def test_a_run_without_time_is_no_success(tmp_path: Path) -> None:
    ended = script("--minutes", "0.1", "--out", str(tmp_path), "--steps", "versions")
    assert ended.returncode == 1
    assert written(tmp_path)["steps"]["versions"] == {"status": "not run: budget"}


def test_the_source_is_named(tmp_path: Path) -> None:
    found = gpu_source.source(ROOT)
    assert found["version"] == __version__
    assert found["kernels_sha256"] == hashlib.sha256(KERNEL_SOURCE.encode()).hexdigest()
    if (ROOT / ".git").exists() and shutil.which("git"):
        said = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
        assert found["commit"] == said.strip()
    assert gpu_source.commit(tmp_path) is None


@pytest.mark.parametrize("way", ["branch", "packed", "detached", "linked"])
def test_the_commit_of_a_repository(way: str, tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("no git")
    quiet = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    root = tmp_path / "a"

    def run_git(*arguments: str) -> str:
        options = ["-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            [git, *options, *arguments], capture_output=True, text=True, check=True, env=quiet
        ).stdout.strip()

    root.mkdir()
    run_git("init", "-q", "-b", "main")
    assert gpu_source.commit(root) is None  # there is none yet
    run_git("commit", "-q", "--allow-empty", "-m", "one")
    expected, there = run_git("rev-parse", "HEAD"), root
    if way == "packed":
        run_git("pack-refs", "--all")
    elif way == "detached":
        run_git("checkout", "-q", "--detach")
    elif way == "linked":
        there = tmp_path / "b"
        run_git("worktree", "add", "-q", "-b", "other", str(there))
    assert gpu_source.commit(there) == expected


def test_what_the_caller_has_on_the_path_stays(tmp_path: Path) -> None:
    """Behind the repository and what travelled."""
    callers = f"{tmp_path}/callers:{os.pathsep}relative"
    assert gpu_evidence.python_path("") == str(ROOT)
    assert gpu_evidence.python_path(callers) == f"{ROOT}:{tmp_path}/callers:{Path.cwd()}/relative"


def test_what_travelled_comes_before_what_the_caller_has(task: Callable[..., runner.Task], tmp_path: Path) -> None:
    """So that it takes the place of what is too old."""
    package = tmp_path / "package"
    package.mkdir()
    content = {"format": gpu_carry.FORMAT, "wheels": [], "images": None, "video": None, "pip_options": []}
    (package / "manifest.json").write_text(json.dumps(content))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:/callers"}
    one = task(environment=environment, carried={"folder": str(package)})
    steps.carry(one)
    assert one.row["status"] == "running"
    assert one.setup.environment["PYTHONPATH"] == f"{ROOT}:{tmp_path}/site:/callers"


GPU_MARK = re.compile(r"^(?:pytestmark = |@)pytest\.mark\.gpu\b", re.MULTILINE)


def test_all_tests_for_a_gpu_are_run() -> None:
    marked = {str(path.relative_to(ROOT)) for path in ROOT.glob("tests/**/*.py") if GPU_MARK.search(path.read_text())}
    assert {name for name in marked if "tensorrt" not in name} == set(steps.GPU_TESTS)


TEST_FILES = {
    "tests/runtime/cuda/test_cuda_gpu.py": "def test_a(): pass\n",
    "tests/runtime/backends/test_gpu.py": "def test_b(): pass\ndef test_tensorrt(): assert 0\n",
}


@pytest.fixture
def tested(task: Callable[..., runner.Task], tmp_path: Path) -> Callable[..., runner.Task]:
    """The step `tests` of a repository with these test files."""

    def make(**bodies: str) -> runner.Task:
        root = tmp_path / "repository"
        root.mkdir()
        (root / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a GPU\n")
        for name, body in TEST_FILES.items():
            head = "import os\nimport pytest\npytestmark = pytest.mark.gpu\n"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(head + bodies.get(Path(name).stem, body))
        one = task(root=root, environment={"PATH": os.environ["PATH"]})
        steps.tests(one)
        return one

    return make


def test_tests_of_both_files(tested: Callable[..., runner.Task]) -> None:
    one = tested(test_gpu="def test_b(): assert 1 == 2\n@pytest.mark.skip(reason='old')\ndef test_c(): pass\n")
    figures = one.row["figures"]
    assert (one.row["status"], one.row["reason"]) == ("failed", "test_gpu: 1 tests failed")
    assert [figures[name] for name in ("passed", "failed", "skipped")] == [1, 1, 1]
    assert figures["tests"] == {
        "test_cuda_gpu::test_a": "passed",
        "test_gpu::test_b": "failed",
        "test_gpu::test_c": "skipped",
    }
    assert figures["skips"] == {"old": 1}
    assert "crashed" not in figures


@pytest.mark.parametrize(("ends", "said"), [("os.abort()", "signal SIGABRT"), ("os._exit(7)", "exit status 7")])
def test_pytest_that_crashes(ends: str, said: str, tested: Callable[..., runner.Task]) -> None:
    """It is no pass of the tests before, and the other file's tests run."""
    one = tested(test_cuda_gpu=f"def test_a(): pass\ndef test_ends(): {ends}\ndef test_after(): pass\n")
    figures = one.row["figures"]
    assert one.row["status"] == "failed"
    assert figures["crashed"] == f"test_cuda_gpu: pytest ended with {said}"
    assert figures["running_when_killed"] == "test_cuda_gpu::test_ends"
    assert figures["tests"] == {"test_cuda_gpu::test_a": "passed", "test_gpu::test_b": "passed"}


def test_files_without_a_test_that_ran(tested: Callable[..., runner.Task]) -> None:
    one = tested(test_cuda_gpu="def test_a(): pytest.skip('no GPU')\n", test_gpu="def test_tensorrt(): pass\n")
    assert one.row["status"] == "failed"
    assert one.row["reason"] == "test_cuda_gpu: no test ran: no GPU; test_gpu: no test ran: no test selected"
    assert "crashed" not in one.row["figures"]


def test_the_benchmarks_timings_come_first_and_are_kept(task: Callable[..., runner.Task], tmp_path: Path) -> None:
    """The second program ends as if it had been killed."""
    program = (
        "import json, os, sys\nname = sys.argv[-1]\n"
        "with open(sys.argv[2], 'w') as file: json.dump({name: [1], 'arguments': sys.argv[3:]}, file)\n"
        "if name == 'correctness': os.abort()\n"
    )
    (tmp_path / "benchmarks" / "gpu").mkdir(parents=True)
    (tmp_path / "benchmarks" / "gpu" / "measure.py").write_text(program)
    one = task(root=tmp_path, carried={"images": "photos"})
    steps.benchmark(one)
    assert one.row["figures"]["hardware_floor"] == [1]
    assert one.row["figures"]["correctness"] == [1]
    assert one.row["figures"]["arguments"] == ["--map", "bundled", "photos", "all", "--sections", "correctness"]
    assert (one.row["status"], one.row["reason"]) == ("failed", "signal SIGABRT: ")
    commands = [row["command"] for row in one.row["commands"]]
    assert "--sections suppression preprocess whole_graph hardware_floor" in commands[0]
    assert "--map" not in commands[0]


def test_a_program_that_skips_itself(task: Callable[..., runner.Task], tmp_path: Path) -> None:
    (tmp_path / "benchmarks" / "gpu").mkdir(parents=True)
    (tmp_path / "tensorrt_rtx.py").write_text("")
    program = "import json, sys\nwith open(sys.argv[2], 'w') as file: json.dump({'skipped': 'GPU not listed'}, file)\n"
    (tmp_path / "benchmarks" / "gpu" / "rtx.py").write_text(program)
    one = task(root=tmp_path, environment={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)})
    steps.rtx(one)
    assert (one.row["status"], one.row["reason"]) == ("skipped", "GPU not listed")
    assert one.row["figures"] == {"skipped": "GPU not listed"}


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


def test_a_sanitizer_that_gets_no_hold_of_the_program(
    task: Callable[..., runner.Task], tool: Callable[[str, str], None]
) -> None:
    said = "Error: Target application terminated before first instrumented API call"
    tool(
        "compute-sanitizer",
        f"""echo "$*" | grep -q -- '--target-processes all' || exit 9
        echo '0 differences'; echo '========= {said}'; exit 0""",
    )
    one = task()
    steps.sanitize(one)
    each = f"{said}; the program: 0 differences"
    assert (one.row["status"], one.row["reason"]) == ("skipped", f"racecheck: {each}; memcheck: {each}")


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


def test_an_ncu_that_does_not_know_a_metric(task: Callable[..., runner.Task], tool: Callable[[str, str], None]) -> None:
    tool(
        "ncu",
        """for last; do case $last in *,*) echo '==ERROR== Failed to find metric lts__x'; exit 1;; esac; done
        while [ "$1" != --log-file ]; do shift; done
        echo '"ID","Kernel Name","Metric Name","Metric Value"' > $2
        echo '"0","nms_collect","gpu__time_duration.sum","12,345"' >> $2""",
    )
    one = task()
    steps.profile(one)
    assert one.row["status"] == "running"
    assert one.row["note"] == "==ERROR== Failed to find metric lts__x"
    assert one.row["figures"] == {"kernels": [{"kernel": "nms_collect", "duration_ns": 12345.0}]}


def test_tools_outside_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"/usr/local/cuda/bin", "/usr/local/nvidia/bin", "/opt/nvidia"} <= set(gpu_versions.TOOL_FOLDERS)
    monkeypatch.setattr(gpu_versions, "TOOL_FOLDERS", (str(tmp_path / "absent"), str(tmp_path)))
    program = tmp_path / "nsight" / "2025.1" / "ncu-of-nobody"
    program.mkdir(parents=True)
    assert gpu_versions.find_tool("ncu-of-nobody") is None  # a folder
    program.rmdir()
    program.write_text("#!/bin/sh\n")
    assert gpu_versions.find_tool("ncu-of-nobody") is None  # nothing that can be started
    program.chmod(0o755)
    assert gpu_versions.find_tool("ncu-of-nobody") == str(program)


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


@pytest.mark.parametrize("program", ["main", "versions", "carry", "claims"])
def test_programs_that_start_where_nothing_is_installed(program: str) -> None:
    command = [sys.executable, "-S", "-E", "-m", f"benchmarks.evidence.{program}", "--help"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
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
    one = dry_task({"benchmarks/gpu/rtx.py": program})
    steps.rtx(one)
    if reason is None:
        assert (one.row["status"], one.row["dry_run"]) == ("running", ["dry run: well"])
    else:
        assert one.row["status"] == "failed"
        assert reason in one.row["reason"]


def test_a_dry_run_collects_the_tests(dry_task: Callable[..., runner.Task]) -> None:
    good = "import pytest\npytestmark = pytest.mark.gpu\ndef test_a(): pass\ndef test_tensorrt(): pass\n"
    first, second = steps.GPU_TESTS
    one = dry_task({first: good, second: good})
    steps.tests(one)
    assert (one.row["status"], one.row["figures"]) == ("running", {"collected": 2})
    one = dry_task({first: "import tqdm\n"})
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
    assert written(tmp_path / "out")["source"] == gpu_source.source(ROOT)
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
