"""Two pictures of one image: what the reference finds in it and what a model finds, with the differences marked."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.parity.compare_detections import ImagePairs
from ssd_edge.runtime.overlay import FONT, draw

# Width in pixels that a picture is brought to: large enough for labels, small enough for a page of them.
SMALLEST_WIDTH, LARGEST_WIDTH = 480, 800
JPEG_QUALITY = 85
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
TAG_SCALE = 0.5  # of the font
FRAME = 4  # pixels between a box and its frame


def side_by_side(
    image_bgr: NDArray[np.uint8], pairs: ImagePairs, class_names: tuple[str, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(reference's, model's) picture, uint8 [H, W, 3] BGR each; a white frame and a word mark what differs.

    Args:
        image_bgr: uint8 [H, W, 3], the image that the detections are of.
    """
    width = image_bgr.shape[1]
    scale = min(max(width, SMALLEST_WIDTH), LARGEST_WIDTH) / width
    size_wh = tuple(max(1, round(side * scale)) for side in (width, image_bgr.shape[0]))
    image = cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    reference = _picture(
        image, _scaled(pairs.reference, scale), class_names, missed=pairs.missed, shifted=pairs.shifted_reference
    )
    model = _picture(image, _scaled(pairs.model, scale), class_names, extra=pairs.extra, shifted=pairs.shifted_model)
    return reference, model


def jpeg(image_bgr: NDArray[np.uint8]) -> bytes:
    """The image as a JPEG file."""
    _, encoded = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(encoded)


def _scaled(detections: Detections, scale: float) -> Detections:
    return Detections(detections.boxes_xyxy * np.float32(scale), detections.scores, detections.labels)


def _picture(
    image: NDArray[np.uint8], detections: Detections, class_names: tuple[str, ...], **marks: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    canvas = image.copy()
    marked = [
        (tuple(round(float(value)) for value in box_xyxy), word)
        for word, mask in marks.items()
        for box_xyxy in detections.boxes_xyxy[mask]
    ]
    for corners, _ in marked:  # under the boxes' own labels
        _frame(canvas, corners)
    canvas = draw(canvas, detections, class_names)
    for corners, word in marked:
        _tag(canvas, corners, word)
    return canvas


def _frame(canvas: NDArray[np.uint8], corners: tuple[int, ...]) -> None:
    """A white frame with black edges around the box."""
    x0, y0, x1, y1 = corners
    for colour, line in ((BLACK, 5), (WHITE, 3)):
        cv2.rectangle(canvas, (x0 - FRAME, y0 - FRAME), (x1 + FRAME, y1 + FRAME), colour, line)


def _tag(canvas: NDArray[np.uint8], corners: tuple[int, ...], word: str) -> None:
    """The word under the box or, without room, in its bottom."""
    height, width = canvas.shape[:2]
    x0, _, _, y1 = corners
    (text_width, text_height), descent = cv2.getTextSize(word, FONT, TAG_SCALE, 1)
    tag_width, tag_height = text_width + 8, text_height + descent + 6
    left = min(max(x0 - FRAME, 0), max(width - tag_width, 0))
    top = min(max(y1 + FRAME + 2, 0), max(height - tag_height, 0))
    cv2.rectangle(canvas, (left, top), (left + tag_width, top + tag_height), WHITE, cv2.FILLED)
    cv2.rectangle(canvas, (left, top), (left + tag_width, top + tag_height), BLACK, 1)
    cv2.putText(canvas, word, (left + 4, top + 3 + text_height), FONT, TAG_SCALE, BLACK, 1, cv2.LINE_AA)
