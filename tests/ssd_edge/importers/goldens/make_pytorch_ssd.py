"""Write goldens/pytorch_ssd_*.npz: what the original pytorch-ssd makes of `tests/ssd_edge/importers/filling.py`.

    PYTHONPATH=REPOSITORY python make_pytorch_ssd.py ORIGINAL COMMIT

ORIGINAL is a checkout of dusty-nv/pytorch-ssd or qfgaohao/pytorch-ssd, which give the same numbers, and COMMIT its
commit. It needs PyTorch and OpenCV.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.ssd_edge.importers.filling import images
from tests.ssd_edge.importers.golden import GOLDENS, Found, anchors_of, filled, save_golden

COLUMNS = 4  # of the logits: three classes and the background
CLASSES, OFFSETS = "classification_headers", "regression_headers"
MOBILENET = ((19, 10, 5, 3, 2, 1), (6,) * 6)  # cells and boxes a cell of each level


class Variant(NamedTuple):
    """A network of the original.

    Attributes:
        module: of `vision.ssd`.
        gains: spread logits by about 2 and offsets by about 1.
        levels: cells and boxes a cell.
        options: of the function that makes it.
    """

    module: str
    gains: dict[str, float]
    levels: tuple[tuple[int, ...], tuple[int, ...]] = MOBILENET
    options: dict[str, Any] = {}  # noqa: RUF012 - of a tuple


MB2_GAINS = {"base_net": 0.8, CLASSES: 0.7, OFFSETS: 0.5}  # else rounding grows along the residual blocks
VARIANTS = {
    "mb1_ssd": Variant("mobilenetv1_ssd", {OFFSETS: 0.7}),
    "mb1_ssd_lite": Variant("mobilenetv1_ssd_lite", {OFFSETS: 0.8}),
    "mb2_ssd_lite": Variant("mobilenet_v2_ssd_lite", MB2_GAINS),
    "mb2_ssd_lite_050": Variant("mobilenet_v2_ssd_lite", MB2_GAINS, options={"width_mult": 0.5}),
    "vgg16_ssd": Variant(
        "vgg_ssd",
        {"base_net.0.": 1 / 70, CLASSES: 0.6, OFFSETS: 0.3},
        ((38, 19, 10, 5, 3, 1), (4, 6, 6, 6, 4, 4)),
    ),
    "sq_ssd_lite": Variant("squeezenet_ssd_lite", {CLASSES: 0.7, OFFSETS: 0.5}, ((17, 10, 5, 3, 2, 1), MOBILENET[1])),
}


@torch.no_grad()
def main(original: Path, commit: str) -> None:
    sys.path.insert(0, str(original))
    pictures = images(300, 300)
    for name, variant in VARIANTS.items():
        make_network, make_predictor = _makers(importlib.import_module(f"vision.ssd.{variant.module}"))
        network = make_network(COLUMNS, is_test=True, **variant.options).eval()
        state = network.state_dict()
        network.load_state_dict(filled({key: value.shape for key, value in state.items()}, variant.gains))
        predictor = make_predictor(network)
        scores, boxes = network(torch.stack([predictor.transform(picture) for picture in pictures]))
        found = []
        for picture in pictures:
            in_pixels, labels, probabilities = (value.numpy() for value in predictor.predict(picture))
            found.append(Found(in_pixels / 300, probabilities, labels))
        path, outputs = GOLDENS / f"pytorch_ssd_{name}.npz", (boxes.numpy(), scores.numpy())
        save_golden(path, state, variant.gains, anchors_of(*variant.levels), outputs, found, commit)


def _makers(module: Any) -> tuple[Any, Any]:
    """The functions of a module that make the network and its predictor."""
    (predictor,) = (name for name in vars(module) if name.startswith("create_") and name.endswith("_predictor"))
    return getattr(module, predictor.removesuffix("_predictor")), getattr(module, predictor)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
