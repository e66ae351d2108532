"""How long `ssd-edge --help` takes as a whole process, beside an empty Python; median of several runs.

python benchmarks/startup.py -o benchmarks/startup.json
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from report import report

COMMANDS = {"python -c pass": ["-c", "pass"], "ssd-edge --help": ["-m", "ssd_edge", "--help"]}


def time_process(arguments: list[str], runs: int) -> float:
    """Median seconds from start to end, after one run that warms the file cache."""
    times = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    seconds = {name: time_process(arguments, args.runs) for name, arguments in COMMANDS.items()}
    report({"median_seconds": seconds}, args.output)


if __name__ == "__main__":
    main()
