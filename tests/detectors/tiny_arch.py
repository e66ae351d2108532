"""Two detectors that train in milliseconds, one with batch norm and one without; and a dataset that suits them.

`python tiny_arch.py …` is the whole command line with both known.
"""

import os
import sys
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
from torch import Tensor, nn

from ssd_edge.errors import DatasetError
from ssd_edge.models.architecture import Architecture, register_architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.default_boxes import DefaultBoxConfig, linear_scales
from ssd_edge.models.head import ssd_head
from ssd_edge.models.ssd import SSDConfig

WITH_NORM, WITHOUT_NORM = "tiny", "tiny_without_norm"


class TinyFeatures(Backbone):
    """Two feature maps of a 64×64 image: 8 and 4 cells wide."""

    channels = (16, 16)

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_block(3, 16, 8, norm), _block(16, 16, 2, norm)])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps

    def stages(self) -> list[list[nn.Module]]:
        return [[block] for block in self.blocks]


def _block(channels: int, out: int, stride: int, norm: bool) -> nn.Module:
    conv = nn.Conv2d(channels, out, kernel_size=stride + 1, stride=stride, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(out) if norm else nn.Identity(), nn.ReLU())


def _register(name: str, norm: bool) -> None:
    config = SSDConfig(
        arch=name,
        size_hw=(64, 64),
        default_boxes=DefaultBoxConfig(aspect_ratios=((2,),) * 2, scales=linear_scales(0.2, 0.8, levels=2)),
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
        score_threshold=0.01,
        nms_iou=0.5,
        candidates=50,
        detections=20,
    )
    register_architecture(Architecture(config, backbone=lambda: TinyFeatures(norm), head=ssd_head))


_register(WITH_NORM, norm=True)
_register(WITHOUT_NORM, norm=False)


def write_yolo(folder: Path, count: int, classes: tuple[str, ...] = ("square",)) -> Path:
    """Grey images with one white square each."""
    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        x, y = (int(v) for v in random.integers(0, 48, 2))
        image = np.full((96, 96, 3), 60, np.uint8)
        image[y : y + 48, x : x + 48] = 250
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
        (folder / "labels" / f"{number}.txt").write_text(f"0 {(x + 24) / 96} {(y + 24) / 96} 0.5 0.5\n")
    (folder / "classes.txt").write_text("\n".join(classes) + "\n")
    return folder


def let_an_image_vanish() -> None:
    """In the last process, the last batch cannot be read."""
    from ssd_edge.data.augment import Sample
    from ssd_edge.data.samples import EpochBatches, ImageSamples, Key  # needs zxing-cpp, which the architectures do not

    original = ImageSamples.sample

    def sample(samples: ImageSamples, key: Key) -> Sample:
        if os.environ["RANK"] == "1" and key in EpochBatches(len(samples), 4, 2, samples.seed).keys(3):
            raise DatasetError("cannot read image")
        return original(samples, key)

    mock.patch.object(ImageSamples, "sample", sample).start()


if __name__ == "__main__":
    from ssd_edge.cli.main import main

    if "SSD_EDGE_TEST_VANISH" in os.environ:
        let_an_image_vanish()
    sys.exit(main())
