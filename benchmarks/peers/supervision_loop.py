"""One video through `supervision` and ONNX Runtime, as supervision's guides write it: read, resize, run, suppress.

python benchmarks/peers/supervision_loop.py MODEL.onnx VIDEO THREADS SCORE

Prints frames and seconds as JSON. https://supervision.roboflow.com/latest/how_to/process_datasets/,
https://supervision.roboflow.com/latest/utils/video/
"""

from __future__ import annotations

import json
import sys
import time

import supervision as sv

from benchmarks.peers.plain_detector import PlainDetector


def main() -> None:
    """Command line."""
    detect = PlainDetector(sys.argv[1], threads=int(sys.argv[3]), score=float(sys.argv[4]))
    frames, found, begin = 0, 0, time.perf_counter()
    for frame in sv.get_video_frames_generator(sys.argv[2]):  # OpenCV's VideoCapture
        found += len(detect(frame))
        frames += 1
    print(json.dumps({"frames": frames, "seconds": time.perf_counter() - begin, "detections": found}))


if __name__ == "__main__":
    main()
