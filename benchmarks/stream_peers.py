"""One H.264 file through `stream` and through its peers, alternately: same file, model, machine and threads.

python -m benchmarks.stream_peers int8.onnx --video DATA/video/vtest.avi --inference VENV/bin/python \\
    -o benchmarks/stream_peers.json

`supervision` comes with the extra `track`; Roboflow's `inference` wants an environment of its own:
pip install inference. Each runs in a process of its own; importing and loading the model do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.report import report
from benchmarks.streams import SCORE, make_video

ROOT = Path(__file__).resolve().parents[1]
OURS = """
import json, sys
from pathlib import Path
from ssd_edge.runtime.stream.config import StreamConfig
from ssd_edge.runtime.stream.run import run_stream
model, video, threads, score = sys.argv[1:]
config = StreamConfig(Path(video), Path(model), score_threshold=float(score), threads=int(threads))
stats = run_stream(config, progress=False)
print(json.dumps({"frames": stats.frames, "seconds": stats.seconds}))
"""


def fps_of(command: list[str], frames: int) -> float:
    """Frames per second of a process that prints frames and seconds.

    Raises:
        RuntimeError: it failed, or did not work on every frame.
    """
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    if done.returncode:
        raise RuntimeError(f"{command[1]} failed: {done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if told["frames"] != frames:
        raise RuntimeError(f"{command[1]} worked on {told['frames']} of {frames} frames")
    return float(frames / told["seconds"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="such as SSDlite320 in int8, exported with --target cpu")
    parser.add_argument("--video", type=Path, required=True, help="what the file shows")
    parser.add_argument("--inference", type=Path, metavar="PYTHON", help="an interpreter that has Roboflow's inference")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=900)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "a.mp4"
        make_video(args.video, video, args.frames)
        what = [str(args.model.absolute()), str(video), str(args.threads), str(SCORE)]

        def peer(python: Path | str, name: str) -> Callable[[], float]:
            return lambda: fps_of([str(python), "-m", f"benchmarks.peers.{name}", *what], args.frames)

        turns = {
            "ssd-edge stream": lambda: fps_of([sys.executable, "-c", OURS, *what], args.frames),
            f"supervision {version('supervision')}": peer(sys.executable, "supervision_loop"),
        }
        if args.inference:
            turns["inference"] = peer(args.inference, "inference_pipeline")
        rounds = [{name: turn() for name, turn in turns.items()} for _ in range(args.rounds)]
    ours, *peers = turns
    figures = {
        "file": f"{args.frames} frames of 1280×720, H.264 of {args.video.name}",
        "threads": args.threads,
        "fps": {name: statistics.median(one[name] for one in rounds) for name in turns},
        "times_as_fast_as": {name: statistics.median(one[ours] / one[name] for one in rounds) for name in peers},
        "rounds": rounds,
    }
    report(figures, args.output)


if __name__ == "__main__":
    main()
