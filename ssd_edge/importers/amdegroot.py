"""amdegroot/ssd.pytorch: SSD300 on VGG-16, as its train.py saves it. Line numbers are those of commit 5b0b77f.

- Images: `data/voc0712.py` reads BGR, `SubtractMeans((104, 117, 123))` subtracts in that order, and line 136 (the same
  line in coco.py) turns the result into RGB. So the network sees RGB minus (123, 117, 104). eval.py goes the same way;
  test.py, line 46, and demo/live.py leave the channels as BGR, which is not what the network was trained on.
- Default boxes: `ssd.py`, line 32, takes those of VOC for 21 class columns and those of COCO for any other number;
  `prior_box.py`, line 54, limits centres and sizes to the image.
- Detections: `ssd.py`, line 48: score above 0.01, the best 200 of each class, IoU 0.45; boxes are not clipped, and the
  offsets have no limit (`box_utils.py`, line 155).
- L2 norm: x / (|x| + 1e-10) (`l2norm.py`, lines 20 and 22).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ssd_edge.errors import ModelFileError
from ssd_edge.importers.family import Assumption, Facts, Normalisation, Settings, StateDictFamily
from ssd_edge.importers.labels import VOC_CLASSES
from ssd_edge.importers.state_dicts import StateDict
from ssd_edge.importers.vgg import COCO_CLASSES, VGGNames, head_classes, vgg_config
from ssd_edge.models.default_box_presets import SSD300_COCO, SSD300_VOC

ARCH = "ssd300_vgg16_amdegroot"
NAMES = VGGNames("vgg", "L2Norm.weight", "extras", ("conf", "loc"))
VOC, COCO = 20, 200  # classes of its configurations; those of COCO are 80, its other columns stay untrained


class Amdegroot(StateDictFamily):
    """SSD300, of VOC, COCO or own classes."""

    name = "amdegroot"
    about = "ssd.pytorch's SSD300 on VGG-16"

    def recognise(self, source: StateDict) -> Sequence[str]:
        lists = {name.split(".")[0] for name in source.tensors}
        norms = {name for name in lists if "L2Norm" in name}  # RefineDet and S3FD have other ones
        return [ARCH] if "vgg" in lists and norms <= {"L2Norm"} and lists & {"L2Norm", "loc", "conf"} else []

    def rename(self, name: str, variant: str) -> str:
        return NAMES.theirs(name)

    def configure(self, source: StateDict, variant: str, facts: Facts) -> Settings:
        if "conf.6.weight" in source.tensors:
            raise ModelFileError(
                f"{source.path}: seven levels, as SSD512 has; ssd.pytorch knows SSD300 alone, so nothing says what its "
                "default boxes are"
            )
        count = head_classes(source, "conf.0.weight", "loc.0.weight")
        boxes, assumed = SSD300_VOC, []
        if count != VOC:
            boxes = SSD300_COCO
            text = "default boxes: those of COCO, which ssd.pytorch takes for all but 21 class columns"
            assumed.append(Assumption(text, "--default-boxes"))
        unused = ("unused",) * (COCO - len(COCO_CLASSES))
        known: dict[int, tuple[str, ...]] = {VOC: VOC_CLASSES, COCO: COCO_CLASSES + unused}
        names = known.get(count)
        if names:
            text = f"class names: {'VOC' if count == VOC else 'COCO'}'s, as the model has its number of classes"
            assumed.append(Assumption(text, "--classes"))
        config = replace(vgg_config(ARCH, boxes), candidates=200, detections=min(200 * count, 1000))
        return Settings(config, count, names, tuple(assumed))

    def preprocess(self, source: StateDict, variant: str, facts: Facts) -> tuple[Normalisation, tuple[Assumption, ...]]:
        return Normalisation((123, 117, 104), (1, 1, 1)), ()
