"""mAP of frames in YUV against the same frames as BGR; and of a faster way to take YUV, which moves mAP.

Images go through 4:2:0 planes, as H.264 has them; of a video the decoder's own planes are taken, and moving blobs stand
in for labels. Both ways see the same planes.

python -m benchmarks.yuv --dataset bccd.onnx DATA/bccd test --dataset codes.onnx CODES all \
    --video person.onnx DATA/video/vtest.avi -o benchmarks/yuv.json
"""

from __future__ import annotations

import argparse
import statistics
import time
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
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.pixels import YuvPlanes
from ssd_edge.runtime.preprocess import preprocess
from ssd_edge.runtime.sources.find import open_source

BLOB_PX = 500  # pixels of a blob that counts


def planes_of(image_bgr: NDArray[np.uint8]) -> YuvPlanes:
    """4:2:0 planes of an image, less a last odd row or column."""
    height, width = (side // 2 * 2 for side in image_bgr.shape[:2])
    i420 = cv2.cvtColor(np.ascontiguousarray(image_bgr[:height, :width]), cv2.COLOR_BGR2YUV_I420)
    u, v = i420[height:].reshape(2, height // 2, width // 2)
    return YuvPlanes(np.asarray(i420[:height], np.uint8), (u, v))


def stretched(planes: YuvPlanes, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 [height, width, 3] BGR by the way not taken: each plane is stretched, and the few pixels converted."""
    parts = [
        cv2.resize(plane, size_hw[::-1], interpolation=cv2.INTER_LINEAR) for plane in (planes.luma, *planes.chroma)
    ]
    return np.asarray(cv2.transform(cv2.merge(parts), planes.colours.to_bgr), np.uint8)


def found_in_stretched(detector: Detector, planes: YuvPlanes) -> Detections:
    """Detections by that way, in pixels of the picture. An image of the input's own size is not resized again."""
    card = detector.card
    (found,) = detector([stretched(planes, (card.height, card.width))])
    height, width = planes.size_hw
    scale = np.array([width / card.width, height / card.height] * 2, np.float32)
    return Detections(found.boxes_xyxy * scale, found.scores, found.labels)


def compare(model: Path, dataset: DetectionDataset, pictures: Callable[[], Iterator[YuvPlanes]]) -> dict[str, Any]:
    """mAP by planes, by BGR made of them, and by the way not taken."""
    with open_detector(model) as detector:
        card = detector.card
        found = [(*detector([planes, planes.bgr()]), found_in_stretched(detector, planes)) for planes in pictures()]
    by_planes, by_bgr, by_stretched = (
        100 * evaluate_detections(way, dataset, card.class_names).metrics["AP"] for way in zip(*found, strict=True)
    )
    return {
        "model": {"arch": card.arch, "precision": card.precision, "file": model.name},
        "data": dataset.name,
        "images": len(dataset),
        "boxes": sum(len(record.labels) for record in dataset.records),
        "ap_points_by_planes": by_planes,
        "ap_points_by_bgr": by_bgr,
        "difference_in_points": by_planes - by_bgr,
        "difference_in_points_of_stretched_planes": by_stretched - by_bgr,
    }


def cost_ms(frame_hw: tuple[int, int] = (720, 1280), size_hw: tuple[int, int] = (320, 320)) -> dict[str, float]:
    """Milliseconds of a core that each way takes for a frame, measured alternately."""
    rng = np.random.default_rng(0)
    half = (frame_hw[0] // 2, frame_hw[1] // 2)
    planes = YuvPlanes(*(rng.integers(0, 256, frame_hw, np.uint8), tuple(rng.integers(0, 256, (2, *half), np.uint8))))
    ways: dict[str, Callable[[], object]] = {
        "as BGR": lambda: preprocess(planes, size_hw),
        "stretched planes": lambda: stretched(planes, size_hw),
    }
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(20):
        for name, way in ways.items():
            begin = time.process_time()
            for _ in range(20):
                way()
            rounds[name].append(1e3 * (time.process_time() - begin) / 20)
    return {name: statistics.median(values) for name, values in rounds.items()}


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
    report({"compared": found, "ms_per_1280x720_frame": cost_ms()}, args.output)


if __name__ == "__main__":
    main()
