"""mAP of frames in YUV, stretched plane by plane, against the same frames turned into BGR first.

Images go through 4:2:0 planes, as H.264 has them; of a video the decoder's own planes are taken, and moving blobs stand
in for labels. Both ways see the same planes.

python -m benchmarks.yuv --dataset bccd.onnx DATA/bccd test --dataset codes.onnx CODES all \
    --video person.onnx DATA/video/vtest.avi -o benchmarks/yuv.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import report
from ssd_edge.data.dataset import DetectionDataset, ImageRecord
from ssd_edge.data.readers import read_dataset
from ssd_edge.detections import Detections
from ssd_edge.evaluation.evaluate import evaluate_detections
from ssd_edge.images import load_image
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.pixels import YuvPlanes
from ssd_edge.runtime.sources.find import open_source

BLOB_PX = 500  # pixels of a blob that counts


def planes_of(image_bgr: NDArray[np.uint8]) -> YuvPlanes:
    """4:2:0 planes of an image, less a last odd row or column."""
    height, width = (side // 2 * 2 for side in image_bgr.shape[:2])
    i420 = cv2.cvtColor(np.ascontiguousarray(image_bgr[:height, :width]), cv2.COLOR_BGR2YUV_I420)
    u, v = i420[height:].reshape(2, height // 2, width // 2)
    return YuvPlanes(np.asarray(i420[:height], np.uint8), (u, v))


def both_ways(model: Path, pictures: Callable[[], Iterator[YuvPlanes]]) -> tuple[list[Detections], list[Detections]]:
    """Detections of the same pictures: by their planes, and by BGR made of them."""
    with open_detector(model) as detector:
        pairs = [detector([planes, planes.bgr()]) for planes in pictures()]
    by_planes, by_bgr = zip(*pairs, strict=True)
    return list(by_planes), list(by_bgr)


def compare(model: Path, dataset: DetectionDataset, pictures: Callable[[], Iterator[YuvPlanes]]) -> dict[str, Any]:
    """mAP of both ways."""
    with open_detector(model) as detector:
        card = detector.card
    by_planes, by_bgr = (evaluate_detections(found, dataset, card.class_names) for found in both_ways(model, pictures))
    return {
        "model": {"arch": card.arch, "precision": card.precision, "file": model.name},
        "data": dataset.name,
        "images": len(dataset),
        "boxes": sum(len(record.labels) for record in dataset.records),
        "ap_points_by_planes": 100 * by_planes.metrics["AP"],
        "ap_points_by_bgr": 100 * by_bgr.metrics["AP"],
        "difference_in_points": 100 * (by_planes.metrics["AP"] - by_bgr.metrics["AP"]),
    }


def compare_on_images(model: Path, folder: Path, split: str) -> dict[str, Any]:
    """On a dataset of images."""
    dataset = read_dataset(folder, None if split == "all" else split)
    return compare(model, dataset, lambda: (planes_of(load_image(record.path)) for record in dataset.records))


def compare_on_video(model: Path, video: Path, last: int) -> dict[str, Any]:
    """On the last frames of a video of one class of moving things."""
    kept, records = [], []
    background = cv2.createBackgroundSubtractorMOG2(detectShadows=False)
    with open_source(video) as source:
        for frame in source.frames():
            mask = cv2.dilate(cv2.medianBlur(background.apply(frame.image_bgr), 5), np.ones((9, 5), np.uint8))
            stats = cv2.connectedComponentsWithStats(mask)[2][1:]
            x, y, w, h, _ = stats[stats[:, 4] > BLOB_PX].T.astype(np.float32)
            boxes = np.stack((x, y, x + w, y + h), axis=1)
            labels = np.zeros(len(boxes), np.int64)
            records.append(
                ImageRecord(Path(f"{frame.index}"), frame.index, frame.size_hw, boxes, labels, w * h, labels > 0)
            )
            assert isinstance(frame.pixels, YuvPlanes)
            kept.append(frame.pixels)
            del kept[:-last]
    dataset = DetectionDataset(video.name, ("person",), (1,), tuple(records[-last:]))
    return compare(model, dataset, lambda: iter(kept))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    names = ("MODEL", "DATA", "SPLIT")
    parser.add_argument("--dataset", nargs=3, action="append", default=[], metavar=names, help="SPLIT may be all")
    parser.add_argument("--video", nargs=2, metavar=("MODEL", "VIDEO"), help="a model of one class, which moves")
    parser.add_argument("--last", type=int, default=195, help="frames of the video that count")
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    found = [compare_on_images(Path(model), Path(data), split) for model, data, split in args.dataset]
    if args.video:
        found.append(compare_on_video(Path(args.video[0]), Path(args.video[1]), args.last))
    report({"compared": found}, args.output)


if __name__ == "__main__":
    main()
