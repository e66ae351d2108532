"""Take the evidence that only a GPU can give, within a time budget; or prepare for a machine without a network.

    benchmarks/gpu_evidence.sh --minutes 9 --out DIR [--carry FOLDER] [--steps a,b]
    benchmarks/gpu_evidence.sh --prepare DIR --budget-mib 64 [--have FILE]
    benchmarks/gpu_evidence.sh --dry-run --out DIR

Writes `gpu_evidence.json`, complete after every step, and `gpu_evidence.log`. Needs no more than the standard library
to start, so that it can say what is missing. Exit status 0: every step passed or was skipped; 1: one failed or did not
run; 2: wrong arguments; 143 and the like: stopped by a signal, with all that ran kept.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.evidence.absent import canonical, environment
from benchmarks.evidence.carry import CarryError, read_manifest
from benchmarks.evidence.have import read_have, stands_in
from benchmarks.evidence.run import RESERVE_S, Budget, Evidence, Row, Setup, Stopped, Task, read_json, stop_on_signals
from benchmarks.evidence.source import source
from benchmarks.evidence.steps import CARRY, SAMPLES, STEPS, Step

ROOT = Path(__file__).resolve().parents[2]
HAVE = Path(__file__).with_name("target_packages.txt")
MINUTES = 9.0  # the time limits of the steps are for this
LEAST_S = 3.0  # with less a step is not started
ALWAYS = "versions"
NO_TIME = "not run: budget"
EVIDENCE, LOG = "gpu_evidence.json", "gpu_evidence.log"


def chosen(names: str | None, *, carry: bool, dry_run: bool) -> list[Step]:
    """The steps to run, in their order; always `versions`, without which evidence cannot be merged.

    Raises:
        ValueError: a name is none of a step.
    """
    known = [step.name for step in STEPS]
    wanted = known if names is None else [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"no step {', '.join(unknown)}; there are {', '.join(known)}")
    first = [CARRY] if carry else [SAMPLES] if dry_run else []
    return first + [step for step in STEPS if step.name in (ALWAYS, *wanted)]


def limit_s(step: Step, minutes: float) -> float:
    """A step's time limit: more in a longer run, never less."""
    return step.timeout_s * max(1.0, minutes / MINUTES)


def limit_now_s(step: Step, later: Sequence[Step], minutes: float, left_s: float) -> float:
    """The limit as the step begins: up to twice its own, from time that earlier steps have left over."""
    if step.takes_rest:
        return left_s
    own = limit_s(step, minutes)
    spare = left_s - sum(limit_s(each, minutes) for each in later)
    return min(left_s, max(own, min(2 * own, spare)))


def budget_problem(steps: Sequence[Step], minutes: float) -> str | None:
    """Why the time limits do not fit into the budget, if they do not."""
    needed = sum(limit_s(step, minutes) for step in steps) + RESERVE_S
    if needed <= 60 * minutes:
        return None
    there = f"the steps may take {needed:.0f} s together, the budget is {60 * minutes:.0f} s"
    return f"{there}: give more --minutes or fewer --steps"


def run_steps(steps: Sequence[Step], setup: Setup, evidence: Evidence, minutes: float) -> str | None:
    """Run the steps and keep each as it ends.

    Returns:
        The name of the signal that stopped them, if one did.
    """
    pace = 10 if setup.dry_run else 1  # it checks whether the limits fit, not whether this machine keeps to them
    budget = Budget(60 * minutes * pace, RESERVE_S)
    try:
        for number, step in enumerate(steps, 1):
            left = budget.left_s()
            if left < LEAST_S:
                evidence.steps[step.name] = {"status": NO_TIME}
                evidence.save()
                continue
            limit = limit_now_s(step, steps[number:], minutes * pace, left)
            row = evidence.steps[step.name] = {"what": step.what}
            run_step(step, Task(setup, evidence, row, limit), row)
            evidence.save()
            ended = f"{row['status']}, {row['seconds']} s"
            print(": ".join(filter(None, (step.name, ended, row.get("reason")))), flush=True)
    except Stopped as stopped:
        for row in evidence.steps.values():
            if row["status"] == "running":
                row["status"] = f"stopped: {stopped}"
        not_begun = [step for step in steps if step.name not in evidence.steps]
        evidence.steps |= {step.name: {"status": f"not run: {stopped}"} for step in not_begun}
        evidence.save()
        return str(stopped)
    return None


def run_step(step: Step, task: Task, row: Row) -> None:
    """One step; an error in the script itself does not end the others."""
    begin = time.monotonic()
    try:
        step.does(task)
    except Exception as error:
        task.fail(f"{type(error).__name__}: {error}")
        row["traceback"] = traceback.format_exc()
    finally:
        row["seconds"] = round(time.monotonic() - begin, 1)
    if row["status"] == "running":
        row["status"] = "passed"


def hider(have: Path, carried: Sequence[str], folder: Path) -> Callable[[tuple[str, ...]], dict[str, str]]:
    """Of the environment that hides what is installed here and neither on the target nor carried.

    ssd-edge is not installed there either: it is imported from the checkout.
    """
    there = {*read_have(have), *map(canonical, carried)}
    installed = {canonical(each.metadata["Name"]) for each in distributions()}
    targets = there | {name for name in installed if stands_in(name, there)}

    @cache
    def hide(show: tuple[str, ...]) -> dict[str, str]:
        return environment(installed - targets - set(map(canonical, show)), folder, importable=["ssd_edge"])

    return hide


def python_path(callers: str) -> str:
    """`PYTHONPATH` of the commands, which run in the repository: it comes first, then what the caller has."""
    return os.pathsep.join([str(ROOT), *(os.path.abspath(path) for path in callers.split(os.pathsep) if path)])


def take(args: argparse.Namespace) -> int:
    """Run the steps; the exit status."""
    steps = chosen(args.steps, carry=args.carry is not None, dry_run=args.dry_run)
    problem = budget_problem([step for step in steps if step is not SAMPLES], args.minutes)
    if problem:
        print(problem, file=sys.stderr)
    head: Row = {"schema": 1, "dry_run": args.dry_run, "started": time.strftime("%FT%TZ", time.gmtime())}
    head |= {"minutes": args.minutes, "budget_problem": problem, "source": source(ROOT)}
    log = args.out.resolve() / LOG
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
    except OSError as error:
        print(f"--out {args.out}: {error}", file=sys.stderr)
        return 2
    stop_on_signals()
    with tempfile.TemporaryDirectory(prefix="gpu_evidence-") as name:
        work = Path(name)
        base = {**os.environ, "PYTHONPATH": python_path(os.environ.get("PYTHONPATH", ""))}
        base |= {"PYTHONUNBUFFERED": "1", "SSD_EDGE_CACHE": str(work / "cache")}
        setup = Setup(ROOT, work, log, sys.executable, base, args.dry_run)
        short = {sys.executable: "python", str(work): "WORK", f"{ROOT}/": ""}
        if args.carry is not None:
            setup.carried = {"folder": str(args.carry.resolve())}
            short = {str(args.carry.resolve()): "CARRY", **short}
        if args.dry_run:
            carried = [] if args.carry is None else [wheel["name"] for wheel in read_manifest(args.carry)["wheels"]]
            setup.hide = hider(args.have, carried, work / "absent")
        evidence = Evidence(args.out.resolve() / EVIDENCE, head, short)
        stopped = run_steps(steps, setup, evidence, args.minutes)
    if stopped is not None:
        print(f"stopped by {stopped}; what ran is in {args.out}", file=sys.stderr)
        return 128 + signal.Signals[stopped].value
    failed = [step for step, row in evidence.steps.items() if row["status"] in ("failed", "timeout", NO_TIME)]
    return 1 if failed or evidence.unsaved or (args.dry_run and problem) else 0


def prepare(args: argparse.Namespace) -> int:
    """Write the packages for the target and say how to use them; the exit status."""
    try:
        from benchmarks.evidence.packages import PrepareError, Target, collect, project_requirements
        from benchmarks.evidence.prepare import MIB, summary
        from benchmarks.evidence.prepare import prepare as write
    except ModuleNotFoundError as error:
        print(f"--prepare: {error}: set PYTHON to one that has ssd-edge's extras demo and video", file=sys.stderr)
        return 1
    target = Target(args.target_python, args.target_glibc, args.target_machine)
    try:
        with tempfile.TemporaryDirectory() as cache:
            requirements = project_requirements(ROOT / "pyproject.toml", target)
            print("downloading wheels …", flush=True)
            wheels = list(collect(requirements, read_have(args.have), target, Path(cache)).values())
            print("rendering images and a video …", flush=True)
            manifest = write(args.prepare, round(args.budget_mib * MIB), wheels, target, images=args.images)
        print(summary(args.prepare, manifest))
    except PrepareError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def positive(text: str) -> float:
    """A finite number above 0.

    Raises:
        argparse.ArgumentTypeError: the text is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number above 0")
    return number


def is_taken(out: Path) -> bool:
    """Whether a folder has evidence that must not be overwritten; that of a dry run may be."""
    found = read_json(out / EVIDENCE)
    return (out / EVIDENCE).exists() and not (isinstance(found, dict) and found.get("dry_run"))


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="gpu_evidence.sh", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    add = parser.add_argument
    add("--minutes", type=positive, default=MINUTES, metavar="N", help=f"time budget in all ({MINUTES:g})")
    add("--out", type=Path, metavar="DIR", help="folder for gpu_evidence.json and gpu_evidence.log")
    add(
        "--carry", type=Path, metavar="FOLDER", help="a package of --prepare: its wheels are installed, its images used"
    )
    add("--steps", metavar="A,B", help=f"only these, and versions: {', '.join(step.name for step in STEPS)}")
    add("--dry-run", action="store_true", help="do all of it that needs no GPU; exit status 1 if anything is wrong")
    add(
        "--have",
        type=Path,
        default=HAVE,
        metavar="FILE",
        help=f"packages that the target has, one per line ({HAVE.name})",
    )
    add("--prepare", type=Path, metavar="DIR", help="collect what the target lacks")
    add("--budget-mib", type=positive, metavar="N", help="size limit of a package of --prepare")
    add("--images", type=int, default=48, metavar="N", help="labelled images to prepare (48)")
    add("--target-python", default="3.12", metavar="X.Y", help="Python of the target (3.12)")
    add("--target-glibc", type=int, default=35, metavar="N", help="the target has glibc 2.N (35)")
    add("--target-machine", default="x86_64", metavar="NAME", help="processor of the target (x86_64)")
    args = parser.parse_args(arguments)
    if args.prepare is not None and args.budget_mib is None:
        parser.error("--prepare needs --budget-mib")
    if args.prepare is None and args.out is None:
        parser.error("one of --out and --prepare is needed")
    try:
        read_have(args.have)
        chosen(args.steps, carry=False, dry_run=False)
        if args.carry is not None:
            read_manifest(args.carry)
    except (OSError, ValueError, CarryError) as error:
        parser.error(str(error))
    if args.prepare is None and is_taken(args.out):
        parser.error(f"{args.out / EVIDENCE} is there already: name another folder for --out, or move it away")
    return args


def main() -> None:
    """Command line."""
    args = parse_args()
    raise SystemExit(take(args) if args.prepare is None else prepare(args))


if __name__ == "__main__":
    main()
