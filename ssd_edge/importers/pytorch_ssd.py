"""pytorch-ssd of qfgaohao and of dusty-nv, whose `train_ssd.py` jetson-inference brings along: bare state dicts.

Line numbers are those of qfgaohao/pytorch-ssd, commit 7a839cb; the networks, settings and predictor of
dusty-nv/pytorch-ssd, commit e7b5af5, are the same.

- Images: RGB minus 127, divided by 128 (vision/ssd/config/mobilenetv1_ssd_config.py, lines 7-8), for VGG minus
  (123, 117, 104) (vgg_ssd_config.py, line 7).
- Default boxes: `generate_ssd_priors` in vision/utils/box_utils.py limits centres and sizes to the image.
- Detections: score above 0.01, the best 200 of each class (vision/ssd/predictor.py, line 10), IoU 0.45; boxes are not
  clipped, and the offsets have no limit. Its IoU has 1e-5 more in the denominator (`iou_of`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ssd_edge.errors import ModelFileError
from ssd_edge.importers.family import Assumption, Facts, Normalisation, Settings, StateDictFamily
from ssd_edge.importers.labels import VOC_CLASSES
from ssd_edge.importers.state_dicts import StateDict
from ssd_edge.importers.vgg import VGGNames, head_classes
from ssd_edge.models.architecture import find_architecture
from ssd_edge.models.backbone_mobilenet_v2 import WIDTHS, arch_of_width

# What `--net` of train_ssd.py calls them
MB1, MB1_LITE, MB2_LITE, VGG, SQ_LITE = "mb1-ssd", "mb1-ssd-lite", "mb2-ssd-lite", "vgg16-ssd", "sq-ssd-lite"
OTHER = "another network"
ARCHITECTURES = {
    MB1: "ssd300_mobilenet_v1",
    MB1_LITE: "ssdlite300_mobilenet_v1",
    VGG: "ssd300_vgg16_batchnorm",
    SQ_LITE: "ssdlite300_squeezenet",
}
CLASS_HEADS, BOX_HEADS = "classification_headers", "regression_headers"
LAST_LAYER = {MB1: "", VGG: "", MB1_LITE: ".2", SQ_LITE: ".2", MB2_LITE: ".3"}  # of a level's head
PLACES = {
    "backbone.features": "base_net",
    "backbone.extra": "extras",
    "head.classification_head.module_list": CLASS_HEADS,
    "head.regression_head.module_list": BOX_HEADS,
}
VGG_NAMES = VGGNames("base_net", "", "extras", (CLASS_HEADS, BOX_HEADS))
SIZE_HW = (300, 300)
IOU_EPSILON = 1e-5


class PyTorchSSD(StateDictFamily):
    """The five networks of `train_ssd.py`, with any number of classes."""

    name = "pytorch-ssd"
    about = f"jetson-inference's train_ssd.py and qfgaohao's: {MB1}, {MB1_LITE}, {MB2_LITE}, {VGG}, {SQ_LITE}"
    labels_file = "labels.txt"

    def recognise(self, source: StateDict) -> Sequence[str]:
        base = [name for name in source.tensors if name.startswith("base_net.")]
        if not base or not any(name.startswith((f"{CLASS_HEADS}.", f"{BOX_HEADS}.")) for name in source.tensors):
            return []
        if all(re.fullmatch(r"base_net\.\d+\.(weight|bias)", name) for name in base):
            return [VGG]
        if any(re.match(r"base_net\.\d+\.conv\.\d+\.", name) for name in base):
            return [MB2_LITE]
        if any(".squeeze.weight" in name for name in base):
            return [SQ_LITE]
        if all(re.match(r"base_net\.\d+\.\d+\.", name) for name in base):
            return [MB1_LITE if any(name.startswith(f"{CLASS_HEADS}.0.0.") for name in source.tensors) else MB1]
        return [OTHER]

    def rename(self, name: str, variant: str) -> str:
        if variant == VGG:
            return _vgg_name(name)
        place = next(place for place in PLACES if name.startswith(place))
        return PLACES[place] + name.removeprefix(place)

    def configure(self, source: StateDict, variant: str, facts: Facts) -> Settings:
        if facts.size_hw not in (None, SIZE_HW):
            raise ModelFileError(
                f"{source.path}: the default boxes of pytorch-ssd are known for {SIZE_HW[1]}×{SIZE_HW[0]} pixels "
                "alone; for a network trained at another --resolution import its ONNX file, which holds them"
            )
        config = find_architecture(_arch(source, variant)).config
        layer = LAST_LAYER[variant]
        count = head_classes(source, f"{CLASS_HEADS}.0{layer}.weight", f"{BOX_HEADS}.0{layer}.weight")
        text = "input: 300×300 pixels; for a network trained at another --resolution import its ONNX file"
        assumed = [Assumption(text)]
        names = VOC_CLASSES if count == len(VOC_CLASSES) else None
        if names:
            assumed.append(Assumption("class names: VOC's, as the model has its number of classes", "--classes"))
        return Settings(
            replace(config, detections=min(200 * count, 1000), iou_epsilon=IOU_EPSILON), count, names, tuple(assumed)
        )

    def preprocess(self, source: StateDict, variant: str, facts: Facts) -> tuple[Normalisation, tuple[Assumption, ...]]:
        config = find_architecture(_arch(source, variant)).config
        return Normalisation(config.mean, config.std), ()


def _arch(source: StateDict, variant: str) -> str:
    """The architecture of a variant.

    Raises:
        ModelFileError: there is none.
    """
    if variant == OTHER:
        base = [name for name in source.tensors if name.startswith("base_net.")]
        name = next((name for name in base if not re.match(r"base_net\.\d+\.\d+\.", name)), base[0])
        raise ModelFileError(
            f"{source.path}: pytorch-ssd's headers on another backbone ({name}), such as MobileNetV3 or a feature "
            f"pyramid; ssd-edge takes {MB1}, {MB1_LITE}, {MB2_LITE}, {VGG} and {SQ_LITE}"
        )
    if variant != MB2_LITE:
        return ARCHITECTURES[variant]
    first = source.shape("base_net.0.0.weight")
    width = first[0] / 32 if first else 1.0
    if width not in WIDTHS:
        raise ModelFileError(
            f"{source.path}: base_net.0.0.weight is {list(first or ())}, MobileNetV2 at a width of {width:g}; ssd-edge "
            f"takes {', '.join(f'{known:g}' for known in WIDTHS)}"
        )
    return arch_of_width(width)


def _vgg_name(name: str) -> str:
    """The original's `extras` are blocks, and its norm is a layer that is added on."""
    _, part, number, *rest = name.split(".")
    if part == "norm":
        return f"source_layer_add_ons.0.{number}"
    if part == "extra" and number != "0":
        return ".".join(("extras", str(int(number) - 1), *rest))
    return VGG_NAMES.theirs(name)
