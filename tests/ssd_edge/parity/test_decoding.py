"""Decoding is that of the models."""

import numpy as np
import pytest
import torch

from ssd_edge.box_coding import BoxCoding
from ssd_edge.card import SIGMOID, SOFTMAX
from ssd_edge.models import box_coder
from ssd_edge.parity import decoding

OTHER = BoxCoding((0.05, 0.2, 0.1, 0.3), min_log_scale=-1, max_log_scale=2)


@pytest.mark.parametrize("coding", [BoxCoding(), OTHER], ids=["paper", "other"])
def test_decoding_is_that_of_the_models(coding: BoxCoding) -> None:
    random = np.random.default_rng(0)
    default_cxcywh = random.uniform(0.1, 0.9, (50, 4)).astype(np.float32)
    corners = [default_cxcywh[:, :2] - default_cxcywh[:, 2:] / 2, default_cxcywh[:, :2] + default_cxcywh[:, 2:] / 2]
    defaults = torch.from_numpy(np.concatenate(corners, axis=1))
    offsets = random.normal(0, 3, (50, 4)).astype(np.float32)
    offsets[0] = (0, 0, 100, -5)  # beyond the limit
    boxes = box_coder.decode_boxes(torch.from_numpy(offsets), defaults, coding).numpy()
    recovered = decoding.default_boxes_of(boxes, offsets, coding)
    np.testing.assert_allclose(recovered, default_cxcywh, atol=2e-6)
    np.testing.assert_allclose(decoding.decode(offsets, recovered, coding), boxes, atol=1e-5)
    # by hand: a default box of 0.2 × 0.4 around (0.5, 0.5), moved by 0.1 · 1 · 0.2 and as large as before
    moved = decoding.decode(np.array([[1, 0, 0, 0]], np.float32), np.array([[0.5, 0.5, 0.2, 0.4]]), BoxCoding())
    np.testing.assert_allclose(moved, [[0.42, 0.3, 0.62, 0.7]], atol=1e-6)


def test_scores_are_the_softmax_without_background() -> None:
    logits = np.log(np.array([[2, 1, 1], [1, 0.5, 2.5]], np.float32))
    np.testing.assert_allclose(decoding.scores_of(logits, SOFTMAX), [[0.25, 0.25], [0.125, 0.625]], atol=1e-6)
    huge = decoding.scores_of(np.array([[1000, 1000]], np.float32), SOFTMAX)
    assert huge.tolist() == [[0.5]]


def test_scores_by_sigmoid_without_background() -> None:
    logits = np.array([[9, 0, np.log(3)], [9, -1000, 1000]], np.float32)
    np.testing.assert_allclose(decoding.scores_of(logits, SIGMOID), [[0.5, 0.75], [0.0, 1.0]], atol=1e-6)
