"""Write goldens/amdegroot_*.npz: what the original ssd.pytorch makes of `tests/ssd_edge/importers/filling.py`.

    PYTHONPATH=REPOSITORY HOME=HOME python make_amdegroot.py ORIGINAL COMMIT

ORIGINAL is a checkout of amdegroot/ssd.pytorch and COMMIT its commit; HOME/data/coco must have ORIGINAL's
data/coco_labels.txt, as its README asks for. It needs PyTorch and OpenCV.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.ssd_edge.importers.filling import images
from tests.ssd_edge.importers.golden import GOLDENS, Found, anchors_of, filled, save_golden

# The code takes VOC's default boxes for 21 columns and COCO's for any other number, so that 4 stand for COCO's 201.
COLUMNS = {"voc": 21, "coco": 4}
GAINS = {"vgg.0.": 0.01, "conf.0.": 30, "loc.0.": 10, "conf.": 0.5, "loc.": 0.4}
ANCHORS = anchors_of((38, 19, 10, 5, 3, 1), (4, 6, 6, 6, 4, 4))


@torch.no_grad()
def main(original: Path, commit: str) -> None:
    sys.path.insert(0, str(original))
    data, layers = importlib.import_module("data"), importlib.import_module("layers")
    transform = data.BaseTransform(300, data.MEANS)
    # As data/voc0712.py, line 136, which eval.py reads images with
    inputs = np.stack([transform(picture[..., ::-1])[0][:, :, (2, 1, 0)] for picture in images(300, 300)])
    for variant, columns in COLUMNS.items():
        network = importlib.import_module("ssd").build_ssd("train", 300, columns).eval()
        state = network.state_dict()
        network.load_state_dict(filled({name: value.shape for name, value in state.items()}, GAINS))
        offsets, logits, priors = network(torch.from_numpy(inputs).permute(0, 3, 1, 2))
        scores = logits.softmax(-1)
        # As the network of phase "test" does, whose `Detect` no longer runs as an autograd function
        detected = layers.Detect(columns, 0, 200, 0.01, 0.45).forward(offsets, scores, priors)
        variance = data.voc["variance"]
        boxes = torch.stack([layers.box_utils.decode(each, priors, variance) for each in offsets])
        found = [_found(each) for each in detected]
        outputs = (boxes.numpy(), scores.numpy())
        save_golden(GOLDENS / f"amdegroot_{variant}.npz", state, GAINS, ANCHORS, outputs, found, commit)


def _found(detected: Tensor) -> Found:
    """`Detect`'s [classes, 200, (score, x0, y0, x1, y1)], filled up with zeros, as a list."""
    labels, rows = torch.nonzero(detected[..., 0], as_tuple=True)
    kept = detected[labels, rows].numpy()
    return Found(kept[:, 1:], kept[:, 0], labels.numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
