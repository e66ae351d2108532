"""The steps of the evidence script: their commands, and what is kept of each. Standard library only.

A step gets a `Task`, runs commands with it and fills its row: `status` is `passed`, `failed`, `skipped` (with a reason)
or `timeout`. In a dry run each command does all that it can without a GPU.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.evidence.run import Ended, Row, Task, read_json
from benchmarks.evidence.tool_output import DURATION, METRICS, added, junit, ncu_kernels, outcomes, sanitizer
from benchmarks.evidence.versions import find_tool

DRY_RUN = "dry run:"  # how a program says that only the GPU is missing
SANITIZER_FINDS = 86  # exit status, apart from those of Python
NVDEC_LIBRARY = "libnvcuvid.so.1"
# All tests marked `gpu` but TensorRT's. A run each: one that hangs or loses the GPU leaves the other alone.
GPU_TESTS = ("tests/runtime/cuda/test_cuda_gpu.py", "tests/runtime/backends/test_gpu.py")
PYTEST_STATUSES = {0: "passed", 1: "tests failed", 5: "no test selected"}  # with any other, pytest did not finish
TIMED = ("suppression", "preprocess", "whole_graph", "hardware_floor")
# What the tools say where they are there and do not work.
REFUSALS = (
    *("Device not supported", "Profiling is not supported", "ERR_NVGPUCTRPERM"),
    *("Failed to initialize the profiler", "LibraryNotLoaded"),
    "Target application terminated before first instrumented API call",
)
NO_METRIC = "Failed to find metric"  # what ncu says of a name that it does not know; it then profiles nothing
# By module: the packages that bring it.
RTX = {
    "tensorrt_rtx": ("tensorrt-rtx",),
    "tensorrt_rtx_bindings": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"),
}
DECODERS = {"av": ("av",), "PyNvVideoCodec": ("pynvvideocodec",)}


@dataclass(frozen=True)
class Step:
    """A step.

    Attributes:
        timeout_s: its time limit in a run of nine minutes; longer runs give more in proportion.
        takes_rest: whether it may use all the time that is left.
        does: with what was carried, which must come before.
    """

    name: str
    timeout_s: float
    what: str
    does: Callable[[Task], None]
    takes_rest: bool = False


def carry(task: Task) -> None:
    """Check and install what travelled."""
    setup, figures = task.setup, task.setup.work / "carry.json"
    parts = setup.work / "wheels"
    parts.mkdir()
    trial = ["--trial"] if setup.dry_run else []
    folder = ["--site", str(setup.work / "site"), "--work", str(parts), "-o", str(figures)]
    ended = _program(task, "evidence.carry", setup.carried["folder"], *folder, *trial, figures=figures, hide=False)
    shutil.rmtree(parts)
    found = read_json(figures)
    if ended.status != 0:
        failed = (found or {}).get("failed", {})
        task.fail("; ".join(f"{name}: {reason}" for name, reason in failed.items()) or ended.tail(3))
    setup.carried = found or setup.carried
    if not setup.dry_run:
        root, *callers = setup.environment["PYTHONPATH"].split(os.pathsep)
        setup.environment["PYTHONPATH"] = os.pathsep.join([root, str(setup.work / "site"), *callers])


def versions(task: Task) -> None:
    """What the machine has."""
    figures = task.setup.work / "versions.json"
    ended = _program(task, "evidence.versions", "-o", str(figures), figures=figures, hide=False)
    if ended.status != 0:
        task.fail(ended.tail(3))
    elif not task.setup.dry_run and not task.row["figures"]["gpus"]:
        task.fail("nvidia-smi shows no GPU")


def tests(task: Task) -> None:
    """The GPU tests without TensorRT."""
    for number, file in enumerate(GPU_TESTS):
        command = [task.setup.python, "-m", "pytest", "-m", "gpu", file, "-k", "not tensorrt"]
        command += ["-p", "no:cacheprovider", "--continue-on-collection-errors", "-o", "faulthandler_timeout=30"]
        parts = len(GPU_TESTS) - number
        if task.setup.dry_run:
            _collect(task, command, parts)
            continue
        earlier, figures = task.row.get("figures"), _test(task, Path(file).stem, command, parts)
        task.row["figures"] = added(earlier, figures) if earlier else figures


def _collect(task: Task, command: list[str], parts: int) -> None:
    ended = task.command(*command, "--collect-only", "-q", parts=parts)
    found = [line for line in ended.output.splitlines() if line.startswith("tests/") and "::" in line]
    figures = task.row.setdefault("figures", {"collected": 0})
    figures["collected"] += len(found)
    if ended.status != 0 or not found:
        task.fail(f"pytest could not collect the tests: {ended.tail(12)}")


def _test(task: Task, name: str, command: list[str], parts: int) -> Row:
    report = task.setup.work / f"{name}.xml"
    ended = task.command(*command, "-v", f"--junitxml={report}", parts=parts)
    figures = junit(report) if report.is_file() else outcomes(ended.output)
    if ended.status == 1:
        task.fail(f"{name}: {figures['failed']} tests failed")
    elif ended.status in PYTEST_STATUSES and not figures["passed"]:
        task.fail(f"{name}: no test ran: {', '.join(figures.get('skips', {})) or PYTEST_STATUSES[ended.status]}")
    elif ended.status is not None and ended.status not in PYTEST_STATUSES:
        figures["crashed"] = f"{name}: pytest ended with {_said(ended.status)}"
        task.fail(f"{figures['crashed']}: {ended.tail(5)}")
    return figures


def _said(status: int) -> str:
    """An exit status in words."""
    return f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def benchmark(task: Task) -> None:
    """Right and how fast: kernels, whole graph, hardware floor; mAP where images travelled."""
    images = task.setup.carried.get("images")
    of_map = ["--map", "bundled", images, "all"] if images else []
    if not images:
        task.row["note"] = "mAP not measured: no images travelled"
    # Two programs, so that the first has left its figures when the second hangs or loses the GPU.
    _gpu_benchmark(task, ["--runs", "100", "--sections", *TIMED], parts=2)
    _gpu_benchmark(task, [*of_map, "--sections", "correctness"])


def end_to_end(task: Task) -> None:
    """Frame to detections against torchvision, eager and compiled."""
    _gpu_benchmark(task, ["--runs", "100", "--sections", "end_to_end"])


def _gpu_benchmark(task: Task, arguments: list[str], *, parts: int = 1) -> None:
    figures = task.setup.work / f"{arguments[-1]}.json"
    ended = _program(task, "gpu.measure", "-o", str(figures), *arguments, figures=figures, parts=parts)
    _expect(task, ended, figures)


def sanitize(task: Task) -> None:
    """compute-sanitizer's racecheck and memcheck on the hard cases of suppression."""
    tool = find_tool("compute-sanitizer")
    # Without API errors: a call that asks whether an address is the GPU's may fail, and is no wrong access.
    checks = {"racecheck": [], "memcheck": ["--report-api-errors", "no"]}
    task.row["figures"] = found = {}
    if tool is None and not task.setup.dry_run:
        task.skip("compute-sanitizer is not on this machine")
        return
    for number, (check, options) in enumerate(checks.items()):
        prefix = [tool or "compute-sanitizer", "--tool", check, *options, "--error-exitcode", str(SANITIZER_FINDS)]
        prefix += ["--target-processes", "all"]
        ended = _under_tool(task, prefix, ["--cases", "hard"], parts=len(checks) - number)
        if ended is None:
            continue
        if refused := _refusal(ended.output):
            found[check] = {"skipped": refused}
            continue
        result = sanitizer(ended.output)
        if result is not None:
            result["clean"] &= ended.status == 0  # else the program ended early, and nothing is known of the rest
            found[check] = result
        if ended.status is not None and not (result and result["clean"]):
            said = result["summary"] if result else ended.tail(5)
            task.fail(f"{check} (exit status {ended.status}): {said}")
    skipped = [f"{check}: {row['skipped']}" for check, row in found.items() if "skipped" in row]
    if len(skipped) == len(checks):
        task.skip("; ".join(skipped))


def profile(task: Task) -> None:
    """ncu's figures of each kernel at SSD300's size; clocks stay as they are."""
    tool = find_tool("ncu")
    if tool is None and not task.setup.dry_run:
        task.skip("ncu is not on this machine")
        return
    ended, text = _ncu(task, tool or "ncu", list(METRICS))
    if NO_METRIC in text:
        task.row["note"] = "; ".join(line for line in text.splitlines() if NO_METRIC in line)
        ended, text = _ncu(task, tool or "ncu", [DURATION])
    if ended is None:
        return
    kernels = ncu_kernels(text)
    task.row["figures"] = {"kernels": kernels}
    said = "\n".join(line for line in text.splitlines() if line.startswith("==ERROR=="))
    if not kernels and (refused := _refusal(text)):
        task.skip(refused)
    elif ended.status or (ended.status == 0 and not kernels):
        task.fail(f"ncu (exit status {ended.status}): {said or ended.tail(5)}")


def _ncu(task: Task, tool: str, metrics: list[str]) -> tuple[Ended | None, str]:
    """Profile the kernels; and what ncu said, its report included."""
    report = task.setup.work / f"ncu{len(metrics)}.csv"
    prefix = [tool, "--clock-control", "none", "--csv", "--print-units", "base", "--log-file", str(report)]
    prefix += ["--target-processes", "all", "--metrics", ",".join(metrics)]
    ended = _under_tool(task, prefix, ["--cases", "ssd300"])
    text = report.read_text(encoding="utf-8", errors="replace") if report.is_file() else ""
    return ended, text + (ended.output if ended else "")


def samples(task: Task) -> None:
    """Render what else would have travelled; in a dry run."""
    setup = task.setup
    images, video = setup.work / "images", setup.work / "video.mp4"
    arguments = ["--images", str(images), "--count", "4", "--video", str(video), "--scenes", "1"]
    ended = task.command(setup.python, "-m", "benchmarks.evidence.samples", *arguments, hide=False)
    if ended.status:
        task.fail(ended.tail(5))
    setup.carried = {"images": str(images), "video": str(video)}


def nvdec(task: Task) -> None:
    """Decoding on the GPU into the NV12 kernel."""
    video = task.setup.carried.get("video")
    if not _importable(task, DECODERS):
        task.skip(f"no decoder package is here: {', '.join(DECODERS)}")
    elif not video:
        task.skip("no video travelled")
    elif not task.setup.dry_run and not _loads(task, NVDEC_LIBRARY):
        task.skip(f"{NVDEC_LIBRARY}, the driver's decoder, cannot be loaded")
    else:
        figures = task.setup.work / "nvdec.json"
        ended = _program(task, "gpu.nvdec", video, "-o", str(figures), figures=figures, show=_shown(task, DECODERS))
        _expect(task, ended, figures)


def rtx(task: Task) -> None:
    """TensorRT-RTX: build, deserialise, run."""
    if not _importable(task, RTX):
        task.skip(f"none of these can be imported: {', '.join(RTX)}")
        return
    figures = task.setup.work / "rtx.json"
    _expect(task, _program(task, "gpu.rtx", "-o", str(figures), figures=figures, show=_shown(task, RTX)), figures)


CARRY = Step("carry", 20, "check and install what travelled along", carry)
SAMPLES = Step("samples", 20, "render images and a video", samples)
STEPS = (
    Step("versions", 20, "GPU, driver, tools, packages", versions),
    Step("tests", 90, "the GPU tests that need no TensorRT", tests),
    Step("benchmark", 145, "correctness, suppression, preprocess, whole graph, hardware floor, mAP", benchmark),
    Step("sanitizer", 65, "racecheck and memcheck on hard cases", sanitize),
    Step("ncu", 45, "the kernels at SSD300's size", profile),
    Step("nvdec", 55, "NVDEC into the NV12 kernel; many streams", nvdec),
    Step("rtx", 30, "TensorRT-RTX: build, deserialise, run", rtx),
    Step("end_to_end", 60, "against torchvision eager and torch.compile", end_to_end, takes_rest=True),
)


def _program(
    task: Task,
    name: str,
    *arguments: str,
    figures: Path,
    parts: int = 1,
    hide: bool = True,
    show: Sequence[str] = (),
) -> Ended:
    """Run one of our programs; in a dry run, up to the GPU. Those that hide nothing need no GPU."""
    dry_run = ["--dry-run"] if task.setup.dry_run and hide else []
    command = (task.setup.python, "-m", f"benchmarks.{name}", *arguments, *dry_run)
    return task.command(*command, figures=None if dry_run else figures, parts=parts, hide=hide, show=show)


def _expect(task: Task, ended: Ended, figures: Path) -> None:
    """Fail unless the program ended well and did what it should; skip where it did."""
    found = read_json(figures)
    if task.setup.dry_run:
        _expect_dry_run(task, ended)
    elif ended.status:
        task.fail(f"{_said(ended.status)}: {ended.tail(5)}")
    elif ended.status == 0 and found is None:
        task.fail("the program wrote no figures")
    elif ended.status == 0 and (why := found.get("skipped")):
        task.skip(why)


def _expect_dry_run(task: Task, ended: Ended) -> None:
    lines = [line for line in ended.output.splitlines() if line.startswith(DRY_RUN)]
    if ended.status == 0 and lines:
        task.row.setdefault("dry_run", []).append(lines[-1])
    elif ended.status is not None:
        task.fail(f"exit status {ended.status} and no line that begins with “{DRY_RUN}”: {ended.tail(12)}")


def _under_tool(task: Task, prefix: list[str], arguments: list[str], *, parts: int = 1) -> Ended | None:
    """Run the kernels' cases under a tool; in a dry run without it, and None."""
    program = [task.setup.python, "-m", "benchmarks.gpu.nms_cases", *arguments]
    task.check_length([*prefix, *program])
    if not task.setup.dry_run:
        return task.command(*prefix, *program, parts=parts)
    task.row.setdefault("not_run_here", []).append(" ".join(prefix))
    _expect_dry_run(task, task.command(*program, "--dry-run", parts=parts))
    return None


def _refusal(output: str) -> str | None:
    """The line in which a tool says that it does not work here, and the last one of the program, which may say why."""
    lines = [line for line in output.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("==")]
    refusals = (line for line in said if any(text in line for text in REFUSALS))
    refusal = next((re.sub(r"^=+ *(?:ERROR=+ *)?", "", line) for line in refusals), None)
    programs = [line for line in lines if not line.startswith("==")]
    return f"{refusal}; the program: {programs[-1]}" if refusal and programs else refusal


def _shown(task: Task, modules: Mapping[str, Sequence[str]]) -> list[str]:
    """Packages that a dry run takes for carried, where it was given nothing that is."""
    return [] if "folder" in task.setup.carried else [name for names in modules.values() for name in names]


def _importable(task: Task, modules: Mapping[str, Sequence[str]]) -> list[str]:
    """Which of these modules commands can import."""
    code = "import importlib.util, sys; print(*filter(importlib.util.find_spec, sys.argv[1:]))"
    ended = task.command(task.setup.python, "-c", code, *modules, show=_shown(task, modules))
    return [name for name in modules if ended.status == 0 and name in ended.output.split()]


def _loads(task: Task, name: str) -> bool:
    return task.command(task.setup.python, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", name).status == 0
