import math

import torch

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
