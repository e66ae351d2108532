"""torchvision's SSD300 and SSDlite320: state dicts of `torchvision.models.detection` and of its reference scripts.

Source: torchvision/models/detection/ssd.py and ssdlite.py; references/detection/train.py writes `model_N.pth`. Our
names and default settings equal torchvision's, so that nothing is renamed.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssd_edge.errors import ModelFileError
from ssd_edge.importers.family import Assumption, Facts, Normalisation, Settings, StateDictFamily, classes_of
from ssd_edge.importers.state_dicts import StateDict
from ssd_edge.models.architecture import find_architecture
from ssd_edge.models.create import COCO, COCO_CLASSES

SSD300, LITE, LITE_FULL = "ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large_full_tail"
HEAD = "head.{kind}_head.module_list.0{layer}.weight"


class Torchvision(StateDictFamily):
    """ssd300_vgg16 and ssdlite320_mobilenet_v3_large, with any number of classes."""

    name = "torchvision"
    about = "ssd300_vgg16, ssdlite320_mobilenet_v3_large"

    def recognise(self, source: StateDict) -> Sequence[str]:
        names = source.tensors
        if not any(name.startswith("head.classification_head.module_list.") for name in names):
            return []
        if any(name.startswith("backbone.features.0.0.") for name in names):
            tail = source.shape("backbone.features.1.3.0.weight")  # of the last layer, 480 or 960 channels
            return [LITE_FULL if tail and tail[0] == 960 else LITE]
        if "backbone.scale_weight" in names:
            return [SSD300]
        return []

    def rename(self, name: str, variant: str) -> str:
        return name

    def configure(self, source: StateDict, variant: str, facts: Facts) -> Settings:
        layer = "" if variant == SSD300 else ".1"
        outputs = [source.shape(HEAD.format(kind=kind, layer=layer)) for kind in ("classification", "regression")]
        if not all(outputs):
            missing = HEAD.format(kind="classification" if not outputs[0] else "regression", layer=layer)
            raise ModelFileError(f"{source.path}: {missing} is missing; the state dict is not whole")
        num_classes = classes_of(*(shape[0] for shape in outputs if shape))
        if num_classes is None:
            raise ModelFileError(f"{source.path}: the class and box layers of the head do not fit together ({outputs})")
        architecture = find_architecture(variant)
        coco = architecture.weights[COCO].class_names if COCO in architecture.weights else None
        if num_classes != COCO_CLASSES or coco is None:
            return Settings(architecture.config, num_classes)
        assumed = Assumption("class names: COCO's, as the model has its 90 category ids", "--classes")
        return Settings(architecture.config, num_classes, coco, (assumed,))

    def preprocess(self, source: StateDict, variant: str, facts: Facts) -> tuple[Normalisation, tuple[Assumption, ...]]:
        config = find_architecture(variant).config
        return Normalisation(config.mean, config.std), ()
