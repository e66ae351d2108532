"""Augmentation for training.

The steps are those of the SSD paper (section 2.2, "Data augmentation") with torchvision's parameters
(`RandomZoomOut`, `RandomIoUCrop` and `RandomPhotometricDistort` of `torchvision.transforms.v2`). Zoom-out and
crop only choose which window of the plane is seen, so they are drawn first, without touching a pixel; then
the part of the image within the window is resized once, straight into its place. torchvision pads to a canvas
of up to 16 times the image and crops that: the same windows, at many times the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from ssd_edge.runtime.preprocess import preprocess

Window = tuple[int, int, int, int]  # x0 y0 x1 y1 in pixels of the image; may reach beyond it
Sample = tuple[Tensor, Tensor, Tensor]  # uint8 [3, h, w] RGB, float32 [m, 4] fractions, int64 [m]

MIN_SIDE_PIXELS = 0.5  # of the resized image; what a crop leaves of a box below it cannot be seen


@dataclass(frozen=True)
class TrainTransform:
    """The random transform of training. Calling it gives the same result for the same arguments.

    Attributes:
        size_hw: (height, width) of the result in pixels.
        fill_rgb: colour around a zoomed-out image; the model's mean, so that it is 0 once normalised.
        zoom_out: probability of zooming out, to an image of 1 to `max_zoom` times the sides (paper: small
            objects need it).
        max_zoom: greatest factor of the sides.
        iou_crop: whether to crop to a random patch with a minimum overlap with an object.
        photometric: probability of each of brightness, contrast, saturation, hue and channel order changing.
        hflip: probability of mirroring left to right; 0 where left and right matter (text, codes).
    """

    size_hw: tuple[int, int]
    fill_rgb: tuple[float, float, float]
    zoom_out: float = 0.0
    max_zoom: float = 4.0
    iou_crop: bool = True
    photometric: float = 0.5
    hflip: float = 0.5

    def __call__(
        self,
        image_bgr: NDArray[np.uint8],
        boxes_xyxy: NDArray[np.float32],
        labels: NDArray[np.int64],
        seed: int,
    ) -> Sample:
        """Transform one image.

        Args:
            image_bgr: uint8 [H, W, 3].
            boxes_xyxy: float32 [n, 4] in pixels.
            labels: int64 [n].
            seed: everything random is drawn from it.

        Returns:
            image uint8 [3, h, w] RGB, boxes float32 [m, 4] as fractions (0–1) of it, labels int64 [m], m ≤ n.
        """
        random = np.random.default_rng(seed)
        window, boxes_xyxy, labels = self._choose_window(image_bgr.shape[:2], boxes_xyxy, labels, random)
        flip = random.random() < self.hflip
        image, boxes = self._render(image_bgr, boxes_xyxy, window, random)
        if flip:
            image = image.flip(2)
            boxes[:, [0, 2]] = 1 - boxes[:, [2, 0]]
        keep = _visible(boxes, self.size_hw)
        return image.contiguous(), torch.from_numpy(boxes[keep]), torch.from_numpy(labels[keep])

    def boxes(
        self, size_hw: tuple[int, int], boxes_xyxy: NDArray[np.float32], labels: NDArray[np.int64], seed: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The boxes alone as calling the transform would give them but for mirroring, without touching an image.

        Args:
            size_hw: (height, width) of the image in pixels; the rest as in a call.

        Returns:
            float32 [m, 4] as fractions of what is seen, int64 [m].
        """
        window, boxes_xyxy, labels = self._choose_window(size_hw, boxes_xyxy, labels, np.random.default_rng(seed))
        start, end = np.array(window[:2]), np.array(window[2:])
        corners = boxes_xyxy.reshape(-1, 2, 2).clip(start, end)  # [n, 2 corners, xy]
        boxes = ((corners - start) / (end - start)).reshape(-1, 4).astype(np.float32)
        keep = _visible(boxes, self.size_hw)
        return boxes[keep], labels[keep]

    def _choose_window(
        self,
        image_hw: Sequence[int],
        boxes_xyxy: NDArray[np.float32],
        labels: NDArray[np.int64],
        random: np.random.Generator,
    ) -> tuple[Window, NDArray[np.float32], NDArray[np.int64]]:
        """The part of the plane to be seen, and the boxes (in pixels) whose centre is within it."""
        height, width = image_hw
        window: Window = (0, 0, width, height)
        boxes_xyxy = boxes_xyxy.clip(0, np.array([width, height] * 2, np.float32))
        if random.random() < self.zoom_out:
            window = zoom_out_window(window, self.max_zoom, random)
        # Without boxes no patch overlaps an object: torchvision's search then ends at "leave as it is" too.
        if self.iou_crop and len(boxes_xyxy):
            window = iou_crop_window(window, boxes_xyxy, random)
            inside = _centres_inside(boxes_xyxy, np.array([window]))[0]  # [n]
            boxes_xyxy, labels = boxes_xyxy[inside], labels[inside]
        return window, boxes_xyxy, labels

    def _render(
        self,
        image_bgr: NDArray[np.uint8],
        boxes_xyxy: NDArray[np.float32],
        window: Window,
        random: np.random.Generator,
    ) -> tuple[Tensor, NDArray[np.float32]]:
        """What is seen in the window, at the model's size, with the boxes as fractions of it, clipped."""
        size_wh = np.array(self.size_hw[::-1])
        start, end = np.array(window[:2]), np.array(window[2:])
        seen_start = np.clip(start, 0, None)
        seen_end = np.clip(end, None, image_bgr.shape[1::-1])
        # The seen part goes to whole pixels of the result, and the boxes go exactly along with it.
        scale = size_wh / (end - start)
        place_start = np.minimum(np.rint((seen_start - start) * scale).astype(int), size_wh - 1)
        place_end = np.maximum(np.rint((seen_end - start) * scale).astype(int), place_start + 1)

        (x0, y0), (x1, y1) = seen_start, seen_end
        place_w, place_h = place_end - place_start
        seen = resize_to_rgb(image_bgr[y0:y1, x0:x1], (int(place_h), int(place_w)))
        # Colours change after the resize: they change pixel by pixel (contrast also looks at the mean grey,
        # which a resize keeps), so fewer pixels give the same picture sooner. And before the fill, so that it
        # stays the mean.
        if self.photometric:
            seen = distort_colours(seen, self.photometric, int(random.integers(2**63)))
        image = torch.empty(3, *self.size_hw, dtype=torch.uint8)
        if seen.shape != image.shape:
            image[:] = torch.tensor(self.fill_rgb).round().to(torch.uint8)[:, None, None]
        (x0, y0), (x1, y1) = place_start, place_end
        image[:, y0:y1, x0:x1] = seen

        seen_scale = (place_end - place_start) / (seen_end - seen_start)
        corners = boxes_xyxy.reshape(-1, 2, 2).clip(seen_start, seen_end)  # [n, 2 corners, xy]
        boxes = ((corners - seen_start) * seen_scale + place_start) / size_wh
        return image, boxes.reshape(-1, 4).astype(np.float32)


@dataclass(frozen=True)
class EvalTransform:
    """The runtime's preprocess and nothing else; same arguments and results as `TrainTransform`."""

    size_hw: tuple[int, int]

    def __call__(
        self,
        image_bgr: NDArray[np.uint8],
        boxes_xyxy: NDArray[np.float32],
        labels: NDArray[np.int64],
        seed: int = 0,
    ) -> Sample:
        height, width = image_bgr.shape[:2]
        boxes = (boxes_xyxy / np.array([width, height] * 2)).clip(0, 1).astype(np.float32)
        keep = _visible(boxes, self.size_hw)
        image = resize_to_rgb(image_bgr, self.size_hw)
        return image.contiguous(), torch.from_numpy(boxes[keep]), torch.from_numpy(labels[keep])


def zoom_out_window(window: Window, max_zoom: float, random: np.random.Generator) -> Window:
    """A window of 1 to `max_zoom` times the sides around the given one, as `RandomZoomOut` draws it."""
    x0, y0, x1, y1 = window
    factor = random.uniform(1, max_zoom)
    width, height = int((x1 - x0) * factor), int((y1 - y0) * factor)
    left = x0 - int((width - (x1 - x0)) * random.random())
    top = y0 - int((height - (y1 - y0)) * random.random())
    return left, top, left + width, top + height


# Minimum overlaps, from https://github.com/weiliu89/caffe/blob/ssd/examples/ssd/ssd_coco.py; None: no crop.
IOU_OPTIONS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, None)
CROP_TRIALS = 40  # for each option drawn, as torchvision; the original has 50


def iou_crop_window(window: Window, boxes_xyxy: NDArray[np.float32], random: np.random.Generator) -> Window:
    """A patch of the window, drawn as torchvision's `RandomIoUCrop` draws it.

    Sides are 0.3–1 of the window's, their ratio 0.5–2, at least one box has its centre in the patch, and
    among those one has the IoU with the patch that was drawn from `IOU_OPTIONS`. torchvision tries one patch
    after the other until one fits; here all trials of an option are tested at once and the first that fits is
    taken, which is the same choice at a fraction of the time.
    """
    x0, y0, x1, y1 = window
    size_wh = np.array([x1 - x0, y1 - y0])
    while (min_iou := IOU_OPTIONS[random.integers(len(IOU_OPTIONS))]) is not None:
        patch_wh = (size_wh * random.uniform(0.3, 1.0, (CROP_TRIALS, 2))).astype(int)  # [trials, 2]
        shift = (size_wh - patch_wh) * random.random((CROP_TRIALS, 2))  # [trials, 2]
        patch_start = np.array([x0, y0]) + shift.astype(int)
        patches = np.concatenate([patch_start, patch_start + patch_wh], axis=1)  # [trials, 4]
        patch_w, patch_h = patch_wh.T
        fits = (patch_h > 0) & (patch_w >= 0.5 * patch_h) & (patch_w <= 2 * patch_h) & (patch_w > 0)  # [trials]
        overlaps = np.where(_centres_inside(boxes_xyxy, patches), _iou(patches, boxes_xyxy), -1)  # [trials, n]
        fits &= overlaps.max(axis=1) >= min_iou
        if fits.any():
            left, top, right, bottom = patches[fits.argmax()].tolist()
            return left, top, right, bottom
    return window


def _centres_inside(boxes_xyxy: NDArray[np.float32], windows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which boxes have their centre within which windows: [n, 4], [m, 4] -> bool [m, n]."""
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2  # [n, 2]
    after = centres > windows[:, None, :2]  # [m, n, 2]
    before = centres < windows[:, None, 2:]  # [m, n, 2]
    return np.all(after & before, axis=2)


def _iou(a_xyxy: NDArray[np.int64], b_xyxy: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of each pair: [m, 4], [n, 4] -> [m, n]."""
    start = np.maximum(a_xyxy[:, None, :2], b_xyxy[:, :2])  # [m, n, 2]
    end = np.minimum(a_xyxy[:, None, 2:], b_xyxy[:, 2:])  # [m, n, 2]
    intersection = (end - start).clip(0).prod(axis=2)  # [m, n]
    area_a = (a_xyxy[:, 2:] - a_xyxy[:, :2]).prod(axis=1)  # [m]
    area_b = (b_xyxy[:, 2:] - b_xyxy[:, :2]).prod(axis=1)  # [n]
    union = area_a[:, None] + area_b - intersection
    iou: NDArray[np.float64] = intersection / np.maximum(union, 1e-9)
    return iou


def resize_to_rgb(image_bgr: NDArray[np.uint8], size_hw: tuple[int, int]) -> Tensor:
    """The runtime's preprocess as a tensor: uint8 [H, W, 3] BGR -> [3, h, w] RGB."""
    return torch.from_numpy(preprocess(image_bgr, size_hw)).permute(2, 0, 1)


def distort_colours(image: Tensor, probability: float, seed: int) -> Tensor:
    """torchvision's `RandomPhotometricDistort`, with its randomness drawn from `seed` alone.

    v2 draws from torch's global generator: it is set for the call and put back afterwards. Only the CPU's,
    since `torch.manual_seed` would reach for the GPU in every worker.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return v2.RandomPhotometricDistort(p=probability)(image)


def _visible(boxes: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Which boxes (fractions) are more than a speck of the resized image: [n, 4] -> bool [n]."""
    height, width = size_hw
    sides = (boxes[:, 2:] - boxes[:, :2]) * (width, height)  # [n, 2]
    return np.all(sides >= MIN_SIDE_PIXELS, axis=1)
