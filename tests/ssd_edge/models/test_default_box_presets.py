"""Default boxes that are known by name."""

from __future__ import annotations

import pytest

from ssd_edge.models.default_box_presets import PRESETS, SSD300_VOC, SSD512_COCO, SSD512_VOC


@pytest.mark.parametrize(
    ("name", "side", "smallest", "between", "largest"),
    [  # from the original prototxts: min_size and max_size of the first level, min_size and max_size of the last
        ("ssd300_coco", 300, 21.0, 45.0, (261.0, 315.0)),
        ("ssd300_voc", 300, 30.0, 60.0, (264.0, 315.0)),
        ("ssd512_coco", 512, 20.48, 51.2, (460.8, 542.72)),
        ("ssd512_voc", 512, 35.84, 76.8, (460.8, 537.6)),
    ],
)
def test_presets_have_the_sizes_of_the_original_prototxts(
    name: str, side: int, smallest: float, between: float, largest: tuple[float, float]
) -> None:
    scales = PRESETS[name].scales
    assert (scales[0] * side, scales[1] * side) == pytest.approx((smallest, between))
    assert (scales[-2] * side, scales[-1] * side) == pytest.approx(largest)


def test_presets_in_full() -> None:
    pixels = {300: SSD300_VOC, 512: SSD512_VOC}
    sizes = {side: [round(s * side, 2) for s in config.scales] for side, config in pixels.items()}
    assert sizes == {
        300: [30, 60, 111, 162, 213, 264, 315],
        512: [35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.6],
    }
    assert [round(s * 512, 2) for s in SSD512_COCO.scales] == [
        20.48,
        51.2,
        133.12,
        215.04,
        296.96,
        378.88,
        460.8,
        542.72,
    ]
    for config in (SSD512_COCO, SSD512_VOC):
        assert list(config.steps or ()) == [8, 16, 32, 64, 128, 256, 512]
        assert config.aspect_ratios == ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
