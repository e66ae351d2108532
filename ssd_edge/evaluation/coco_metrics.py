"""The metrics of COCO, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.formats.coco_json import coco_json
from ssd_edge.evaluation.voc_matching import Boxes

# In the order of COCOeval.stats: https://cocodataset.org/#detection-eval
COCO_METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
# Indices of IoU 0.50 and 0.75 in COCOeval's thresholds 0.50, 0.55, …, 0.95.
_IOU_50, _IOU_75 = 0, 5


@dataclass(frozen=True)
class CocoAp:
    """AP (IoU 0.50:0.95), AP50 and AP75 of one class; NaN where the dataset has no box of it."""

    ap: float
    ap50: float
    ap75: float


def coco_metrics(
    dataset: DetectionDataset, found: Boxes, scores: NDArray[np.float32], labels: tuple[int, ...]
) -> tuple[dict[str, float], dict[int, CocoAp]]:
    """Score detections against the boxes of `dataset`.

    Boxes without a class or a finite position are left out; `ssd_edge.data.lint` names them.

    Args:
        found: the detections [n], highest score first.
        scores: float32 [n].
        labels: the classes to score.

    Returns:
        the twelve metrics by name, NaN where no box can be scored; and the figures of each class by label.
    """
    category_ids = {label: dataset.category_ids[label] for label in labels}
    truth = coco_json(dataset)
    results = _result_annotations(dataset, found, scores)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with print
        coco_eval = COCOeval(_coco(truth), _coco({**truth, "annotations": results}), iouType="bbox")
        coco_eval.params.catIds = list(category_ids.values())  # COCOeval sorts them when it evaluates
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    precision = coco_eval.eval["precision"][..., 0, -1]  # [iou, recall, class]: all areas, 100 detections
    index_of = {category_id: index for index, category_id in enumerate(coco_eval.params.catIds)}
    of_class = {}
    for label, category_id in category_ids.items():
        curves = precision[:, :, index_of[category_id]]  # [iou, recall]
        of_class[label] = CocoAp(_mean(curves), _mean(curves[_IOU_50]), _mean(curves[_IOU_75]))
    metrics = {
        name: _nan_if_unmeasured(float(value)) for name, value in zip(COCO_METRIC_NAMES, coco_eval.stats, strict=True)
    }
    return metrics, of_class


def _result_annotations(dataset: DetectionDataset, found: Boxes, scores: NDArray[np.float32]) -> list[dict[str, Any]]:
    image_ids = [dataset.records[image].image_id for image in found.images.tolist()]
    boxes_xywh = np.concatenate([found.boxes_xyxy[:, :2], found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]], axis=1)
    return [
        {
            "id": number,
            "image_id": image_id,
            "category_id": dataset.category_ids[label],
            "bbox": bbox,
            "area": bbox[2] * bbox[3],
            "score": score,
            "iscrowd": 0,
        }
        for number, (image_id, label, bbox, score) in enumerate(
            zip(image_ids, found.labels.tolist(), boxes_xywh.tolist(), scores.tolist(), strict=True), start=1
        )
    ]


def _coco(content: dict[str, Any]) -> Any:
    """A pycocotools COCO object. `COCO.loadRes` is not used: it refuses an empty list."""
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _mean(precision: NDArray[Any]) -> float:
    """Mean over what COCOeval filled in; it marks the rest with -1."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else math.nan


def _nan_if_unmeasured(value: float) -> float:
    return math.nan if value == -1 else value  # -1 is COCOeval's mark for "no ground truth"
