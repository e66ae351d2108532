"""The detector of the peers: the same ONNX file, with nothing but ONNX Runtime, OpenCV and `supervision`."""

from __future__ import annotations

import cv2
import numpy as np
import onnxruntime as ort
import supervision as sv
from numpy.typing import NDArray


class PlainDetector:
    """Detects in one frame at a time, on all threads."""

    def __init__(self, model: str, *, threads: int, score: float) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._height, self._width = self._session.get_inputs()[0].shape[1:3]
        self._score = score

    def __call__(self, frame_bgr: NDArray[np.uint8]) -> sv.Detections:
        """The detections of a frame, uint8 [H, W, 3] BGR."""
        image = cv2.cvtColor(cv2.resize(frame_bgr, (self._width, self._height)), cv2.COLOR_BGR2RGB)
        boxes, scores = (output[0] for output in self._session.run(["boxes", "scores"], {"images": image[None]}))
        labels = scores.argmax(axis=1)
        best = scores[np.arange(len(labels)), labels]
        keep = best > self._score
        scale = np.array([*frame_bgr.shape[1::-1]] * 2, np.float32)
        found = sv.Detections(boxes[keep] * scale, confidence=best[keep], class_id=labels[keep])
        return found.with_nms(threshold=0.55)
