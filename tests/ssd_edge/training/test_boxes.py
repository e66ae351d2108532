"""Coverage by default boxes equals that of all of them tiled, and fitting makes it better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ssd_edge.data.augment import TrainTransform
from ssd_edge.data.dataset import DetectionDataset, ImageRecord
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import read_dataset
from ssd_edge.models.create import create_model
from ssd_edge.models.default_box_fit import best_ious, coverage, fit_default_boxes
from ssd_edge.models.matcher import box_iou
from ssd_edge.training.boxes import boxes_of, compare_boxes

LITE = "ssdlite320_mobilenet_v3_large"


def random_boxes(count: int, smallest: float, largest: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    wh = smallest + (largest - smallest) * torch.rand(count, 2, generator=generator)
    corner = torch.rand(count, 2, generator=generator) * (1 - wh)
    return torch.cat((corner, corner + wh), dim=1)


@pytest.mark.parametrize("arch", ["ssd300_vgg16", "ssd512_vgg16", LITE])
def test_the_best_iou_is_that_of_all_default_boxes(arch: str) -> None:
    model = create_model(arch, 1)
    boxes = random_boxes(300, 0.01, 0.9)
    fast = best_ious(boxes, model.config.default_boxes, model.grid_sizes_hw, model.config.size_hw)
    tiled = box_iou(boxes, model.default_boxes_xyxy).amax(1)
    torch.testing.assert_close(fast, tiled, atol=1e-5, rtol=0)


def test_fitting_covers_small_objects() -> None:
    model = create_model(LITE, 1)
    boxes, labels = random_boxes(500, 0.05, 0.09), torch.zeros(500, dtype=torch.int64)
    grid, size, own = model.grid_sizes_hw, model.config.size_hw, model.config.default_boxes
    fitted = fit_default_boxes(boxes, labels, own, grid, size)
    assert best_ious(boxes, own, grid, size).mean() < 0.2
    assert best_ious(boxes, fitted, grid, size).mean() > 0.5
    assert fitted.boxes_per_cell == own.boxes_per_cell  # so that published weights go on fitting
    assert list(fitted.scales) == sorted(fitted.scales)
    assert fit_default_boxes(boxes, labels, own, grid, size) == fitted
    with pytest.raises(ValueError, match="no box"):
        fit_default_boxes(boxes[:0], labels[:0], own, grid, size)


def test_a_rare_class_counts_as_much_as_a_common_one() -> None:
    model = create_model(LITE, 2)
    boxes = torch.cat((random_boxes(990, 0.5, 0.6), random_boxes(10, 0.04, 0.06)))
    labels = torch.cat((torch.zeros(990), torch.ones(10))).long()
    fitted = fit_default_boxes(boxes, labels, model.config.default_boxes, model.grid_sizes_hw, model.config.size_hw)
    found = coverage(best_ious(boxes, fitted, model.grid_sizes_hw, model.config.size_hw), labels, ("large", "small"))
    assert found.boxes == {"large": 990, "small": 10}
    assert min(found.mean_best_iou.values()) > 0.4


def test_coverage_by_hand() -> None:
    found = coverage(torch.tensor([0.4, 0.5, 0.9]), torch.tensor([0, 0, 2]), ("a", "b", "c"))
    assert found.recall == {"a": 0.5, "c": 1.0}
    assert found.mean_best_iou == {"a": pytest.approx(0.45), "c": pytest.approx(0.9)}


def test_transformed_boxes_are_those_of_the_images() -> None:
    """The boxes alone follow the same windows as the images' (without mirroring, which no default box minds)."""
    transform = TrainTransform((320, 320), (0, 0, 0), zoom_out=0.5, photometric=0.0, hflip=0.0)
    boxes = random_boxes(8, 0.2, 0.4).numpy() * 200
    labels = torch.arange(8).numpy()
    image = torch.zeros(200, 200, 3, dtype=torch.uint8).numpy()
    for seed in range(20):
        _, expected, expected_labels = transform(image, boxes, labels, seed)
        found, found_labels = transform.boxes((200, 200), boxes, labels, seed)
        assert found_labels.tolist() == expected_labels.tolist()
        # The image goes to whole pixels of the result, of 320.
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=2 / 320, rtol=0)


def test_blood_cells(shared_data: Path) -> None:
    """Platelets are smaller than all of SSDlite320's default boxes; SSD300's cover them."""
    dataset = lint(read_dataset(shared_data / "bccd", "train"))[0]
    lite = compare_boxes(dataset, LITE)
    assert lite.fitted is not None
    assert lite.own.recall["Platelets"] < 0.05
    assert lite.fitted.recall["Platelets"] > 0.5
    assert compare_boxes(dataset, "ssd300_vgg16").own.recall["Platelets"] > 0.9
    assert "Platelets" in lite.table().splitlines()[1]


def test_boxes_of_a_dataset_by_hand() -> None:
    """As fractions of the image, without crowds; a transform that only mirrors shows them as they are."""
    boxes = np.array([[10, 20, 60, 70], [0, 0, 100, 50], [5, 5, 9, 9]], np.float32)
    crowd = np.array([False, False, True])
    record = ImageRecord(Path("a.png"), 1, (200, 100), boxes, np.array([1, 0, 1]), np.ones(3, np.float32), crowd)
    dataset = DetectionDataset("one", ("a", "b"), (1, 2), (record,))
    expected = torch.tensor([[0.1, 0.1, 0.6, 0.35], [0.0, 0.0, 1.0, 0.25]])
    for transform in (None, TrainTransform((320, 320), (0, 0, 0), iou_crop=False)):
        found, labels = boxes_of(dataset, transform)
        torch.testing.assert_close(found, expected)
        assert labels.tolist() == [1, 0]
