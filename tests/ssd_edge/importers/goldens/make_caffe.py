"""Make `caffe_*.npz`: what OpenCV 4's `dnn` makes of the networks of `tests/ssd_edge/importers/caffe_networks.py`.

    python -m tests.ssd_edge.importers.goldens.make_caffe PYTHON [NETWORK…]

PYTHON is the interpreter of an environment with opencv-python-headless 4 (OpenCV 5 reads no Caffe) and NumPy.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.ssd_edge.importers.caffe_networks import NETWORKS, fill_weights
from tests.ssd_edge.importers.filling import images

FOLDER = Path(__file__).parent
KEPT = 200  # default boxes of which boxes and scores are kept
BEST = 50  # detections of an image
VGG, MOBILENET = ((123.0, 117.0, 104.0), 1.0), ((127.5, 127.5, 127.5), 0.007843)  # mean of RGB, scale
OUTPUTS = ("mbox_conf_flatten", "mbox_loc", "mbox_priorbox", "detection_out")
RUN = """
import sys, cv2, numpy as np
folder, *outputs = sys.argv[1:]
net = cv2.dnn.readNetFromCaffe(folder + "/deploy.prototxt", folder + "/net.caffemodel")
net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
net.enableWinograd(False)  # whose rounding alone changes scores by 1.5e-5
found = {"version": cv2.__version__}
for k, blob in enumerate(np.load(folder + "/blobs.npy")):
    net.setInput(blob[None])
    found.update({f"{name}{k}": value for name, value in zip(outputs, net.forward(outputs))})
np.savez(folder + "/found.npz", **found)
"""


def make(name: str, python: str) -> None:
    """Run one network and write its file."""
    with tempfile.TemporaryDirectory() as folder:
        prototxt = Path(folder, "deploy.prototxt")
        prototxt.write_text(NETWORKS[name](), encoding="utf-8")
        shapes = fill_weights(prototxt, Path(folder, "net.caffemodel"))
        height, width = (96, 160) if name.startswith("small") else (512, 512) if "512" in name else (300, 300)
        mean, scale = MOBILENET if name.startswith("mobilenet") else VGG
        rgb = images(height, width).astype(np.float32) - np.array(mean, np.float32)
        blobs = rgb[..., ::-1].transpose(0, 3, 1, 2) * np.float32(scale)
        np.save(Path(folder, "blobs.npy"), np.ascontiguousarray(blobs))
        subprocess.run([python, "-c", RUN, folder, *OUTPUTS], check=True)
        found = dict(np.load(Path(folder, "found.npz")))
    scores = np.stack([found[f"mbox_conf_flatten{k}"].reshape(-1, 4)[:, 1:] for k in range(3)])
    boxes = np.stack([_decoded(found[f"mbox_loc{k}"], found[f"mbox_priorbox{k}"][0]) for k in range(3)])
    anchors = np.unique(np.linspace(0, scores.shape[1] - 1, KEPT).astype(np.int64))
    rows = [found[f"detection_out{k}"][0, 0][:BEST] for k in range(3)]
    np.savez_compressed(
        FOLDER / f"caffe_{name}.npz",
        original=f"OpenCV {found['version']}",
        tensors=json.dumps(shapes),
        anchors=anchors,
        boxes=boxes[:, anchors],
        scores=scores[:, anchors],
        largest=np.array([np.abs(boxes).max(), np.abs(scores).max()]),
        **{f"detections{k}": found_rows[:, 1:] for k, found_rows in enumerate(rows)},
    )
    print(
        name,
        f"logits spread {np.log(scores / scores.sum(2, keepdims=True)).std():.2f}, boxes to {np.abs(boxes).max():.1f}",
    )
    print(*(f"{len(found_rows)} detections, {found_rows[:, 2].max():.2f}" for found_rows in rows), sep="; ")


def _decoded(offsets: NDArray[np.float32], priors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Corners of the boxes: CENTER_SIZE of Caffe."""
    offsets, (priors, variances) = offsets.reshape(-1, 4), priors.reshape(2, -1, 4)
    size = priors[:, 2:] - priors[:, :2]
    centre = priors[:, :2] + size / 2 + offsets[:, :2] * variances[:, :2] * size
    half = np.exp(offsets[:, 2:] * variances[:, 2:]) * size / 2
    return np.concatenate((centre - half, centre + half), axis=1)


if __name__ == "__main__":
    for network in sys.argv[2:] or NETWORKS:
        make(network, sys.argv[1])
