from __future__ import annotations

import pytest
from torch import nn

from ssd_edge.models.create import create_model


def test_heads_and_extras_start_as_in_the_papers() -> None:
    """Xavier's uniform range and zero biases for SSD, N(0, 0.03) for SSDlite."""
    for arch in ("ssd300_vgg16", "ssd512_vgg16", "ssd300_resnet50"):
        model = create_model(arch, 2)
        new = [model.head, *list(model.backbone.get_submodule("extra").children())[1:]]
        for conv in (layer for module in new for layer in module.modules() if isinstance(layer, nn.Conv2d)):
            area = conv.kernel_size[0] * conv.kernel_size[1]
            limit = (6 / (area * (conv.in_channels + conv.out_channels))) ** 0.5
            assert 0.95 * limit < conv.weight.abs().max() <= limit
            assert conv.bias is None or not conv.bias.any()
    lite = create_model("ssdlite320_mobilenet_v3_large", 2)
    last = lite.head.get_submodule("classification_head.module_list.0.1")
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    assert last.weight.std().item() == pytest.approx(0.03, rel=0.1)
    assert not last.bias.any()
