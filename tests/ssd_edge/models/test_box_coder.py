import math
from typing import Any

import pytest
import torch

from ssd_edge.box_coding import BoxCoding
from ssd_edge.errors import ModelFileError
from ssd_edge.models.box_coder import decode_boxes, encode_boxes


def test_box_coding_with_the_papers_variances() -> None:
    default = torch.tensor([[10.0, 10.0, 30.0, 50.0]])
    box = torch.tensor([[12.0, 8.0, 52.0, 48.0]])  # centre +12 −2, width ×2, height ×1
    expected = torch.tensor([[12 / 20 / 0.1, -2 / 40 / 0.1, math.log(2) / 0.2, 0.0]])
    torch.testing.assert_close(encode_boxes(box, default), expected)
    torch.testing.assert_close(decode_boxes(expected, default), box)


def test_decoding_stays_finite() -> None:
    decoded = decode_boxes(torch.tensor([[0.0, 0.0, 1e6, 1e6]]), torch.tensor([[0.0, 0.0, 16.0, 16.0]]))
    torch.testing.assert_close(decoded, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))  # 1000 / 16 times


def test_other_variances_and_limits() -> None:
    coding = BoxCoding((0.1, 0.2, 0.3, 0.5), min_log_scale=-1, max_log_scale=math.log(2))
    default = torch.tensor([[0.0, 0.0, 2.0, 4.0]])
    boxes = decode_boxes(torch.tensor([[5.0, -2.5, 100.0, -100.0]]), default, coding)
    high = 4 / math.e  # centre (1 + 0.1 · 5 · 2, 2 − 0.2 · 2.5 · 4), twice as wide, a factor e lower
    torch.testing.assert_close(boxes, torch.tensor([[0.0, -high / 2, 4.0, high / 2]]))
    wanted = torch.tensor([[0.5, 0.5, 2.5, 3.5]])
    torch.testing.assert_close(decode_boxes(encode_boxes(wanted, default, coding), default, coding), wanted)


@pytest.mark.parametrize(
    "values",
    [
        {"variances": [1, 1, 1]},
        {"variances": [1, 1, 0, 1]},
        {"max_log_scale": "2"},
        {"min_log_scale": 1, "max_log_scale": 0},
        {"colour": 1},
        [1],
    ],
    ids=repr,
)
def test_what_is_no_box_coding(values: Any) -> None:
    with pytest.raises(ModelFileError, match=r"^a\.pt: not a box coding"):
        BoxCoding.from_dict(values, source="a.pt")
