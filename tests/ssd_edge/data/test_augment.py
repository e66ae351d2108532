"""What augmentation does to pixels must be what it does to boxes, drawn as torchvision draws it."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms import v2

from ssd_edge.data.augment import (
    EvalTransform,
    TrainTransform,
    Window,
    iou_crop_window,
    zoom_out_window,
)
from ssd_edge.runtime.preprocess import preprocess

HEIGHT, WIDTH = 120, 160
FILL_RGB = (10.0, 20.0, 30.0)
BOXES = np.array([[40, 30, 100, 90], [10, 70, 40, 110]], np.float32)
LABELS = np.array([1, 0], np.int64)


@pytest.fixture
def image_bgr() -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2), np.uint8)


def test_eval_is_the_runtimes_preprocess(image_bgr: NDArray[np.uint8]) -> None:
    image, boxes, labels = EvalTransform((60, 40))(image_bgr, BOXES, LABELS)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), preprocess(image_bgr, (60, 40)))
    torch.testing.assert_close(boxes, torch.tensor([[0.25, 0.25, 0.625, 0.75], [0.0625, 7 / 12, 0.25, 11 / 12]]))
    assert labels.tolist() == [1, 0]
    assert (image.dtype, boxes.dtype, labels.dtype) == (torch.uint8, torch.float32, torch.int64)


def test_train_without_its_steps_is_eval(image_bgr: NDArray[np.uint8]) -> None:
    plain = TrainTransform((60, 40), FILL_RGB, zoom_out=0, iou_crop=False, photometric=0, hflip=0)
    for got, expected in zip(
        plain(image_bgr, BOXES, LABELS, 3), EvalTransform((60, 40))(image_bgr, BOXES, LABELS), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_flip(image_bgr: NDArray[np.uint8]) -> None:
    flip = TrainTransform((60, 40), FILL_RGB, zoom_out=0, iou_crop=False, photometric=0, hflip=1)
    image, boxes, _ = flip(image_bgr, BOXES, LABELS, 3)
    expected, _, _ = EvalTransform((60, 40))(image_bgr, BOXES, LABELS)
    torch.testing.assert_close(image, expected.flip(2))
    torch.testing.assert_close(boxes, torch.tensor([[0.375, 0.25, 0.75, 0.75], [0.75, 7 / 12, 0.9375, 11 / 12]]))


def test_boxes_go_where_their_pixels_go() -> None:
    image_bgr = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image_bgr[30:90, 40:100] = 255
    transform = TrainTransform((300, 300), (0, 0, 0), zoom_out=0.5, photometric=0)
    for seed in range(200):
        image, boxes, _ = transform(image_bgr, BOXES[:1], LABELS[:1], seed)
        ys, xs = np.nonzero(image[0].numpy() >= 128)
        extent = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        np.testing.assert_allclose(boxes[0].numpy() * 300, extent, atol=1)


def test_zoom_out_fills_with_the_mean_and_leaves_the_colours_to_the_image(
    image_bgr: NDArray[np.uint8],
) -> None:
    transform = TrainTransform((80, 80), FILL_RGB, zoom_out=1, iou_crop=False, photometric=1)
    image, boxes, _ = transform(np.full_like(image_bgr, 255), BOXES, LABELS, 1)
    fill = torch.tensor(FILL_RGB, dtype=torch.uint8)[:, None, None]
    filled = (image == fill).all(dim=0)
    assert 0.1 < filled.float().mean() < 1
    sides = boxes[:, 2:] - boxes[:, :2]
    share = (sides / torch.tensor([[60 / WIDTH, 60 / HEIGHT], [30 / WIDTH, 40 / HEIGHT]])).prod(dim=1)
    torch.testing.assert_close(share, (1 - filled.float().mean()).expand(2), rtol=1e-4, atol=1e-4)


def test_speck_left_by_a_crop_is_removed(image_bgr: NDArray[np.uint8]) -> None:
    boxes = np.array([[40, 30, 100, 90], [5, 5, 5.5, 80]], np.float32)  # 0.5 of 160 pixels is 0.25 of 80
    _, kept, labels = EvalTransform((80, 80))(image_bgr, boxes, LABELS)
    assert len(kept) == 1
    assert labels.tolist() == [1]


def test_same_seed_same_sample_and_torchs_generator_is_left_alone(image_bgr: NDArray[np.uint8]) -> None:
    transform = TrainTransform((60, 40), FILL_RGB, zoom_out=0.5, photometric=1)
    before = torch.get_rng_state()
    first, again, other = (transform(image_bgr, BOXES, LABELS, seed)[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_image_without_boxes(image_bgr: NDArray[np.uint8]) -> None:
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    for seed in range(10):
        image, boxes, labels = TrainTransform((60, 40), FILL_RGB, zoom_out=0.5)(image_bgr, *none, seed)
        assert image.shape == (3, 60, 40)
        assert boxes.shape == (0, 4)
        assert labels.shape == (0,)


def torchvision_window(transform: v2.Transform) -> Window:
    """The window that a v2 transform takes of an image, from pixels that know their place (−1: filled)."""
    ys, xs = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    places = tv_tensors.Image(torch.stack([xs, ys]).to(torch.int16))
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYXY", canvas_size=(HEIGHT, WIDTH))
    out = transform({"image": places, "boxes": boxes})["image"]
    y, x = (int(value) for value in (out[0] >= 0).nonzero()[0])
    left, top = int(out[0, y, x]) - x, int(out[1, y, x]) - y
    return left, top, left + out.shape[2], top + out.shape[1]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            v2.RandomZoomOut(fill=-1, p=1.0),
            lambda random: zoom_out_window((0, 0, WIDTH, HEIGHT), 4.0, random),
        ),
        (v2.RandomIoUCrop(), lambda random: iou_crop_window((0, 0, WIDTH, HEIGHT), BOXES, random)),
    ],
    ids=["zoom out", "IoU crop"],
)
def test_windows_are_drawn_as_torchvision_draws_them(
    theirs: v2.Transform, ours: Callable[[np.random.Generator], Window]
) -> None:
    random = np.random.default_rng(0)
    our_windows = np.array([ours(random) for _ in range(2000)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        their_windows = np.array([torchvision_window(theirs) for _ in range(500)])
    for statistic in (np.mean, np.std):
        spread = np.hypot(our_windows.std(0) / 2000**0.5, their_windows.std(0) / 500**0.5)
        difference = np.abs(statistic(our_windows, axis=0) - statistic(their_windows, axis=0))
        assert (difference <= 4 * spread).all()
