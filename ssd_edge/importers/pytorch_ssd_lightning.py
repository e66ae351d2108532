"""PyPI's pytorch-ssd (1.8.0), which trains with PyTorch Lightning; no relative of qfgaohao's repository of that name.

- Images: `data/datasets/*.py` divide RGB by 255, `data/transforms.py`, line 113, normalises them with ImageNet's mean
  and std (`modeling/backbones/base.py`, lines 11-12).
- Default boxes: those of COCO whatever the dataset (`modeling/backbones/vgg.py`, lines 192 and 235), centres and sizes
  limited to the image (`data/priors.py`, line 177).
- Detections (`modeling/model.py`, lines 87-89 and 452-519): score above 0.8, IoU 0.45, 100 an image; boxes are not
  clipped, and offsets have no limit. No number of candidates is named; what counts here are the best 1,000 of a class.
- L2 norm as amdegroot/ssd.pytorch.

Lightning's `hyper_parameters` may hold other settings, which are not read: the command says what it takes instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ssd_edge.errors import ModelFileError
from ssd_edge.importers.family import Assumption, Facts, Normalisation, Settings, StateDictFamily
from ssd_edge.importers.state_dicts import StateDict
from ssd_edge.importers.vgg import COCO_CLASSES, VGGNames, head_classes, vgg_config
from ssd_edge.models.default_box_presets import SSD300_COCO, SSD512_COCO

HEADS = ("predictor.cls_headers", "predictor.reg_headers")
PLAIN = VGGNames("backbone.backbone", "backbone.l2_norm.weight", "backbone.extras", HEADS)
BATCH_NORM = PLAIN._replace(pool4=33, pool5=43)
VARIANTS = {
    "VGG300": ("ssd300_vgg16_amdegroot", SSD300_COCO),
    "VGG300BN": ("ssd300_vgg16_bn", SSD300_COCO),
    "VGG512": ("ssd512_vgg16_amdegroot", SSD512_COCO),
    "VGG512BN": ("ssd512_vgg16_bn", SSD512_COCO),
}
OTHERS = "VGGLite, MobileNetV2 or ResNeXt"
MEAN, STD = (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)


class PyTorchSSDLightning(StateDictFamily):
    """VGG300 and VGG512, with and without batch norms."""

    name = "pytorch-ssd-lightning"
    about = "PyPI's pytorch-ssd: VGG300, VGG512, VGG300BN, VGG512BN"

    def recognise(self, source: StateDict) -> Sequence[str]:
        names = source.tensors
        if not any(name.startswith("backbone.backbone.") for name in names) or not any(
            name.startswith("predictor.") for name in names
        ):
            return []
        if "backbone.l2_norm.weight" not in names:
            return [OTHERS]
        levels = {found[1] for name in names if (found := re.match(rf"{re.escape(HEADS[0])}\.(\d+)\.", name))}
        batch_norm = "backbone.backbone.1.weight" in names
        return [("VGG512" if len(levels) == 7 else "VGG300") + ("BN" if batch_norm else "")]

    def rename(self, name: str, variant: str) -> str:
        return (BATCH_NORM if variant.endswith("BN") else PLAIN).theirs(name)

    def configure(self, source: StateDict, variant: str, facts: Facts) -> Settings:
        if variant == OTHERS:
            raise ModelFileError(f"{source.path}: pytorch-ssd's {OTHERS}, by its names; {self.about} come in")
        arch, boxes = VARIANTS[variant]
        count = head_classes(source, *(f"{head}.0.weight" for head in HEADS))
        config = replace(vgg_config(arch, boxes), score_threshold=0.8, candidates=1000, detections=100)
        assumed = [
            Assumption("default boxes: the backbone's own, COCO's", "--default-boxes"),
            Assumption("score threshold: 0.8, pytorch-ssd's default", "--score-threshold"),
        ]
        if count != len(COCO_CLASSES):
            return Settings(config, count, None, tuple(assumed))
        assumed.append(Assumption("class names: COCO's, as the model has its number of classes", "--classes"))
        return Settings(config, count, COCO_CLASSES, tuple(assumed))

    def preprocess(self, source: StateDict, variant: str, facts: Facts) -> tuple[Normalisation, tuple[Assumption, ...]]:
        return Normalisation(MEAN, STD), ()
