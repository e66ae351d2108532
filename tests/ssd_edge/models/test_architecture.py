"""The register of architectures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ssd_edge.errors import UsageError
from ssd_edge.models.architecture import ARCHITECTURES, find_architecture, register_architecture
from tests.ssd_edge.models.two_maps import TWO_MAPS


def test_a_name_means_one_architecture() -> None:
    with pytest.raises(UsageError, match=r"'ssd300_vgg16' is registered already, by ssd_edge\.models\.backbone_vgg;"):
        register_architecture(replace(TWO_MAPS, config=find_architecture("ssd300_vgg16").config))


def test_a_module_may_register_its_own_again() -> None:
    """As when a cell of a notebook is run again."""
    again = replace(TWO_MAPS, config=replace(TWO_MAPS.config, nms_iou=0.3))
    try:
        register_architecture(TWO_MAPS)
        register_architecture(again)
        assert find_architecture("two_maps") is again
    finally:
        ARCHITECTURES.pop("two_maps", None)
