"""Weights for BGR and for a background behind the classes become those for ours, with the same outputs."""

from __future__ import annotations

import torch

from ssd_edge.importers.conversions import FIRST, LAST, background_first, rgb_from_bgr
from ssd_edge.models.create import create_model


def test_rgb_from_bgr() -> None:
    torch.manual_seed(0)
    model = create_model("ssdlite320_mobilenet_v3_large", 2).eval()
    bgr = torch.rand(1, 3, 320, 320) * 255
    with torch.no_grad():
        wanted = model(bgr)
        model.load_state_dict(rgb_from_bgr(model, model.state_dict()))
        found = model(bgr.flip(1))  # mean and std are the same for all three channels
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_background_first() -> None:
    torch.manual_seed(0)
    model = create_model("ssdlite320_mobilenet_v3_large", 2).eval()
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    state = model.state_dict()
    assert background_first(state, 2, FIRST).keys() == state.keys()
    image = torch.rand(1, 3, 320, 320) * 255
    with torch.no_grad():
        last = model(image)
        model.load_state_dict(background_first(state, 2, LAST))
        first = model(image)
    torch.testing.assert_close(first.cls_logits, last.cls_logits[..., [2, 0, 1]])
    torch.testing.assert_close(first.bbox_regression, last.bbox_regression)
