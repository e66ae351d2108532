"""How long `ssd-edge --help` takes as a whole process, beside an empty Python, and how long it takes from the start of
`ssd-edge stream` to its first line of detections, with a file and the bundled model; median of several runs, in turns.

python -m benchmarks.startup -o benchmarks/startup.json
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.report import report

SIZE_WH, FRAMES = (1280, 720), 100
COMMANDS = {"python -c pass": ["-c", "pass"], "ssd-edge --help": ["-m", "ssd_edge", "--help"]}
STREAM = ["-m", "ssd_edge", "stream", "--jsonl", "-", "--video"]


def time_process(arguments: list[str]) -> float:
    """Seconds from start to end."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def time_first_line(arguments: list[str]) -> float:
    """Seconds from start to the first line on stdout."""
    begin = time.perf_counter()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        if process.stdout is None or not process.stdout.readline():
            raise SystemExit(f"{' '.join(arguments)} wrote nothing")
        taken_s = time.perf_counter() - begin
        process.terminate()
        process.communicate()
    return taken_s


def write_video(path: Path) -> None:
    """A grey ramp that moves, MPEG-4."""
    ramp = np.tile(np.arange(SIZE_WH[0]) * 255 // SIZE_WH[0], (SIZE_WH[1], 1)).astype(np.uint8)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30.0, SIZE_WH)
    for index in range(FRAMES):
        writer.write(cv2.cvtColor(np.roll(ramp, index, axis=1), cv2.COLOR_GRAY2BGR))
    writer.release()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "a.mp4"
        write_video(video)
        rounds = [
            {name: time_process(arguments) for name, arguments in COMMANDS.items()}
            | {"first detection of ssd-edge stream": time_first_line([*STREAM, str(video)])}
            for _ in range(args.runs + 1)  # the first one warms the file cache
        ]
    seconds = {name: statistics.median(one[name] for one in rounds[1:]) for name in rounds[0]}
    report({"median_seconds": seconds}, args.output)


if __name__ == "__main__":
    main()
