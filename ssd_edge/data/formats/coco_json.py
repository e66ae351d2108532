"""A dataset in memory as COCO's JSON: what `pycocotools` scores against, and what users get as a file."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssd_edge.data.dataset import DetectionDataset


def coco_json(dataset: DetectionDataset) -> dict[str, Any]:
    """`images` (with absolute file names), `categories` and `annotations` as COCO has them.

    Boxes without a class or a finite position are left out; `ssd_edge.data.lint` names them.
    """
    annotations: list[dict[str, Any]] = []
    for record in dataset.records:
        usable = record.select((record.labels >= 0) & np.isfinite(record.boxes_xyxy).all(axis=1))
        for box, label, area, crowd in zip(usable.boxes_xyxy, usable.labels, usable.areas, usable.crowd, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,  # from 1: COCOeval takes a match with annotation 0 for no match
                    "image_id": record.image_id,
                    "category_id": dataset.category_ids[label],
                    "bbox": bbox_xywh(box.tolist()),
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    return {
        "images": [
            {
                "id": record.image_id,
                "file_name": str(record.path.absolute()),
                "height": record.size_hw[0],
                "width": record.size_hw[1],
            }
            for record in dataset.records
        ],
        "categories": [
            {"id": category_id, "name": name}
            for category_id, name in zip(dataset.category_ids, dataset.class_names, strict=True)
        ],
        "annotations": annotations,
    }


def bbox_xywh(box_xyxy: list[float]) -> list[float]:
    """COCO's box: x, y, width, height."""
    x0, y0, x1, y1 = box_xyxy
    return [x0, y0, x1 - x0, y1 - y0]
