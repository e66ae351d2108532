"""Two `ssd-edge` processes next to each other on the same two CPUs: the share of its quiet speed that each one keeps.

python -m benchmarks.neighbours -o benchmarks/neighbours.json

Every command runs as a user starts it, on the bundled model and synthetic scenes; its speed is read from its own
progress once it computes. `--checkout` measures the commands of another checkout.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import report
from benchmarks.startup import write_video
from ssd_edge.bundled import bundled_model

ROOT = Path(__file__).resolve().parents[1]
CPUS = 2
MIXED = ("train", "calibrate")  # another pair than one command twice
BAR = 0.4  # of its quiet speed that each of two processes keeps
SCENES, COPIES = 64, 48  # different images, and how often each is in the data set
SIZE_OF_TERMINAL = (24, 100, 0, 0)  # rows, columns, pixels; without columns there is no progress bar
START_S = 120.0  # the longest that a command takes to its first progress
SETTLE_S = 1.5
COUNT = r"\s+\d+%\|[^|\r]*\|\s*(\d+)/"  # behind the title of a progress bar


@dataclass(frozen=True)
class Command:
    """A command that has more to do than the measurement takes, unless it measures its speed itself.

    Attributes:
        arguments: of `ssd-edge`; `{out}` is a folder for the process, `{seconds}` how long it has to run at least.
        progress: finds how much it has done in what it prints: the group of the last match, or the number of matches.
        unit: of its speed.
        factor: units in one of its progress.
        report: JSON file in `{out}` with the speed of `bench`, which rests between turns.
    """

    arguments: str
    progress: str
    unit: str = "images per second"
    factor: float = 1.0
    report: str | None = None


def commands(data: Path, video: Path) -> dict[str, Command]:
    """All commands of the bar, those that run models with both back-ends."""
    onnx, checkpoint = bundled_model(), bundled_model().with_suffix(".pt")

    def bench(model: Path) -> Command:
        arguments = f"bench {model} --data {data} --no-accuracy --seconds {{seconds}} --json {{out}}/bench.json"
        return Command(arguments, r"timing:\s+(\d+)%", report="bench.json")

    return {
        "train": Command(f"train {data} -o {{out}} --epochs 1 --batch 8", rf"epoch 1/1:{COUNT}", factor=8),
        "calibrate": Command(
            f"export {checkpoint} -o {{out}}/int8.onnx --precision int8 --calib {data} --images {SCENES * COPIES}",
            rf"calibrating:{COUNT}",
        ),
        "eval, ONNX Runtime": Command(f"eval {onnx} {data}", rf"\r{COUNT}"),
        "eval, PyTorch": Command(f"eval {checkpoint} {data}", rf"\r{COUNT}"),
        "bench, ONNX Runtime": bench(onnx),
        "bench, PyTorch": bench(checkpoint),
        "stream": Command(f"stream --video {video} --loop --jsonl -", r'"schema"', "frames per second"),
    }


@dataclass
class Running:
    """A process and its progress so far: (time, done), one entry per change."""

    command: Command
    process: subprocess.Popen[bytes]
    out: Path
    progress: list[tuple[float, float]] = field(default_factory=list)
    output: str = ""

    def read(self, terminal: int) -> None:
        """Follow what the process prints until it ends."""
        pattern, pending, done = re.compile(self.command.progress), "", 0.0
        while text := _read(terminal):
            self.output = (self.output + text)[-4000:]
            pending += text
            if matches := list(pattern.finditer(pending)):
                now = float(matches[-1][1]) if pattern.groups else done + len(matches)
                if now != done:
                    self.progress.append((time.monotonic(), now))
                done, pending = now, pending[matches[-1].end() :]

    def check(self) -> None:
        """Raises: SystemExit: the process has failed, or was through too early."""
        status = self.process.poll()
        if status or (status == 0 and self.command.report is None):
            raise SystemExit(f"ssd-edge {self.command.arguments} ended too early:\n{self.output}")

    def per_second(self, begin: float, end: float) -> float:
        """Speed between two times, or as reported."""
        if self.command.report is not None:
            self.process.wait()
            self.check()
            content = json.loads((self.out / self.command.report).read_text(encoding="utf-8"))
            return float(content["models"][0]["speed"]["fps"])
        within = [entry for entry in self.progress if begin <= entry[0] <= end]
        if len(within) < 2:
            raise SystemExit(f"ssd-edge {self.command.arguments} showed too little progress; give more --seconds")
        (first, before), (last, after) = within[0], within[-1]
        return self.command.factor * (after - before) / (last - first)


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 1 << 16).decode(errors="replace")
    except OSError:  # the process has ended
        return ""


@contextmanager
def running(command: Command, checkout: Path, seconds: float) -> Iterator[Running]:
    """Start a command on a terminal, where it shows progress; end it with all that it has started."""
    terminal, its_end = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", *SIZE_OF_TERMINAL))
    with tempfile.TemporaryDirectory() as out:
        arguments = command.arguments.format(out=out, seconds=SETTLE_S + seconds)
        process = subprocess.Popen(
            [sys.executable, "-m", "ssd_edge", *arguments.split()],
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
            cwd=checkout,
            start_new_session=True,
        )
        os.close(its_end)
        run = Running(command, process, Path(out))
        reader = threading.Thread(target=run.read, args=(terminal,))
        reader.start()
        try:
            yield run
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reader.join()
            os.close(terminal)


def speeds(together: Sequence[Command], checkout: Path, seconds: float) -> list[float]:
    """Speed of each command, of all at the same time, from when the last of them has begun its work."""
    with ExitStack() as stack:
        runs = [stack.enter_context(running(command, checkout, seconds)) for command in together]
        deadline = time.monotonic() + START_S
        while not all(run.progress for run in runs):
            for run in runs:
                run.check()
            if time.monotonic() > deadline:
                raise SystemExit("\n".join(run.output for run in runs if not run.progress))
            time.sleep(0.05)
        begin = time.monotonic() + SETTLE_S
        time.sleep(SETTLE_S + seconds)
        for run in runs:
            run.check()
        return [run.per_second(begin, begin + seconds) for run in runs]


def copies_of(dataset: Path, copies: int) -> None:
    """Make a COCO data set larger, so that no command gets to its end: hard links of its images."""
    file = dataset / "annotations.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    images, boxes = list(content["images"]), list(content["annotations"])
    for copy in range(1, copies):
        for image in images:
            name = f"{copy}_{image['file_name']}"
            os.link(dataset / "images" / image["file_name"], dataset / "images" / name)
            content["images"].append({**image, "id": image["id"] + copy * len(images), "file_name": name})
        for box in boxes:
            ids = {"id": box["id"] + copy * len(boxes), "image_id": box["image_id"] + copy * len(images)}
            content["annotations"].append({**box, **ids})
    file.write_text(json.dumps(content), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="commands that begin like this (all)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement (%(default)s)")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose commands are measured (this one's)")
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CPUS])  # child processes inherit it
    if len(os.sched_getaffinity(0)) < CPUS:
        parser.error(f"{CPUS} CPUs are needed")
    with tempfile.TemporaryDirectory() as folder:
        data, video = Path(folder) / "data", Path(folder) / "a.mp4"
        codes = ("codes", "-o", str(data), "--count", str(SCENES), "--size", "640x480")
        subprocess.run(
            [sys.executable, "-m", "ssd_edge", *codes], cwd=args.checkout, check=True, stdout=subprocess.DEVNULL
        )
        copies_of(data, COPIES)
        write_video(video)
        chosen = {name: one for name, one in commands(data, video).items() if name.startswith(tuple(args.only))}
        quiet: dict[str, float] = {}
        rows: list[dict[str, Any]] = []
        lowest = 1.0
        for pair in [*((name, name) for name in chosen), *([MIXED] if chosen.keys() >= set(MIXED) else [])]:
            for name in pair:
                if name not in quiet:
                    (quiet[name],) = speeds([chosen[name]], args.checkout, args.seconds)
            both = speeds([chosen[name] for name in pair], args.checkout, args.seconds)
            shares = [speed / quiet[name] for name, speed in zip(pair, both, strict=True)]
            print(" next to ".join(pair), *(f"{share:.0%}" for share in shares), file=sys.stderr)
            rows.append(
                {
                    "commands": pair,
                    "unit": [chosen[name].unit for name in pair],
                    "quiet": [quiet[name] for name in pair],
                    "together": both,
                    "share_of_quiet": shares,
                }
            )
            lowest = min(lowest, *shares)
    report({"cpus": CPUS, "seconds": args.seconds, "bar": BAR, "lowest_share": lowest, "pairs": rows}, args.output)


if __name__ == "__main__":
    main()
