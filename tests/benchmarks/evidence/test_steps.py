"""The steps of the evidence script, with programs, tools and tests that stand for the real ones."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.evidence import carry, steps
from benchmarks.evidence import run as runner
from tests.benchmarks.evidence.script import ROOT


def test_what_travelled_comes_before_what_the_caller_has(task: Callable[..., runner.Task], tmp_path: Path) -> None:
    """So that it takes the place of what is too old."""
    package = tmp_path / "package"
    package.mkdir()
    content = {"format": carry.FORMAT, "wheels": [], "images": None, "video": None, "pip_options": []}
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
