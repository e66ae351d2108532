"""How long `ssd-edge --help` takes as a whole process, beside an empty Python; median of several runs.

python benchmarks/startup.py -o benchmarks/startup.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import describe_machine

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
    text = json.dumps({"machine": describe_machine(), "median_seconds": seconds}, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
