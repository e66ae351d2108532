"""One video through Roboflow's `inference`: its `InferencePipeline` with the model as custom logic.

python benchmarks/peers/inference_pipeline.py MODEL.onnx VIDEO THREADS SCORE

Prints frames and seconds as JSON. https://inference.roboflow.com/using_inference/inference_pipeline/
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from inference import InferencePipeline

from benchmarks.peers.plain_detector import PlainDetector


def main() -> None:
    """Command line."""
    detect = PlainDetector(sys.argv[1], threads=int(sys.argv[3]), score=float(sys.argv[4]))
    counted = {"frames": 0, "detections": 0}

    def on_video_frame(frames: list[Any]) -> list[Any]:
        return [detect(frame.image) for frame in frames]

    def on_prediction(found: Any, _: Any) -> None:
        counted["frames"] += 1
        counted["detections"] += len(found)

    pipeline = InferencePipeline.init_with_custom_logic(
        video_reference=sys.argv[2], on_video_frame=on_video_frame, on_prediction=on_prediction
    )
    begin = time.perf_counter()
    pipeline.start()
    pipeline.join()
    print(json.dumps(counted | {"seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main()
