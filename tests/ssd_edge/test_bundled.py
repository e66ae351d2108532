"""The model that comes with the package is whole, small, and finds codes."""

from pathlib import Path

import numpy as np

from ssd_edge.bundled import BUNDLED_MODEL, bundled_model
from ssd_edge.card import file_sha256
from ssd_edge.checkpoint import load_checkpoint
from ssd_edge.data.codes.scenes import CodesScenes
from ssd_edge.data.codes.symbols import CATEGORY_IDS, CLASS_NAMES
from ssd_edge.data.dataset import DetectionDataset, ImageRecord, box_areas
from ssd_edge.evaluation.evaluate import evaluate_detections
from ssd_edge.runtime.detector import open_detector


def test_both_files_are_one_model_of_under_15_mb() -> None:
    checkpoint = BUNDLED_MODEL.with_suffix(".pt")
    with open_detector(bundled_model()) as detector:
        card = detector.card
    assert card.class_names == CLASS_NAMES
    assert card.parent_sha256 == file_sha256(checkpoint)
    assert {str(value.dtype) for value in load_checkpoint(checkpoint).state_dict.values()} == {
        "torch.float16",
        "torch.int64",  # how many batches a batch norm has seen
    }
    assert checkpoint.stat().st_size + BUNDLED_MODEL.stat().st_size < 15_000_000


def test_it_finds_codes() -> None:
    """A guard against a broken file or contract, not a measurement: that is in benchmarks/codes.json."""
    scenes = [CodesScenes(seed=31).scene(index) for index in range(40)]
    records = []
    for index, scene in enumerate(scenes):
        areas, crowd = box_areas(scene.boxes_xyxy), np.zeros(len(scene.labels), np.bool_)
        size_hw = (scene.image_bgr.shape[0], scene.image_bgr.shape[1])
        records.append(ImageRecord(Path(str(index)), index, size_hw, scene.boxes_xyxy, scene.labels, areas, crowd))
    with open_detector(bundled_model()) as detector:
        found = [detector([scene.image_bgr])[0] for scene in scenes]
    truth = DetectionDataset("codes", CLASS_NAMES, CATEGORY_IDS, tuple(records))
    assert evaluate_detections(found, truth, CLASS_NAMES).metrics["AP50"] > 0.7
