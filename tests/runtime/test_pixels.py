"""Planes of every layout become the same BGR, and turn."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.runtime.colours import BT601, BT601_FULL, BT709, BT2020_FULL, YuvColours
from ssd_edge.runtime.pixels import GpuPicture, YuvPlanes, in_memory, size_hw_of, to_bgr

Planes = NDArray[np.uint8]


def planes_of(size_hw: tuple[int, int], factor_hw: tuple[int, int], *, interleaved: bool) -> tuple[Planes, ...]:
    """Luma, then chroma with so many pixels per sample; rows with something behind them."""
    rng = np.random.default_rng(0)
    chroma_hw = [-(-length // factor) for length, factor in zip(size_hw, factor_hw, strict=True)]
    luma = rng.integers(16, 236, (size_hw[0], size_hw[1] + 5), dtype=np.uint8)[:, : size_hw[1]]
    u, v = (rng.integers(16, 241, (chroma_hw[0], chroma_hw[1] + 3), dtype=np.uint8)[:, :-3] for _ in "uv")
    return (luma, np.stack([u, v], -1)) if interleaved else (luma, u, v)


def exact_bgr(planes: YuvPlanes, factor_hw: tuple[int, int]) -> NDArray[np.float64]:
    """By the definition, in floating point, one chroma for all pixels that share it."""
    height, width = planes.luma.shape
    rows, columns = np.arange(height) // factor_hw[0], np.arange(width) // factor_hw[1]
    chroma = planes.chroma if len(planes.chroma) == 2 else [planes.chroma[0][..., n] for n in (0, 1)]
    y, u, v = (plane.astype(float) for plane in (planes.luma, *(part[rows][:, columns] for part in chroma)))
    one = np.ones_like(y)
    return np.clip(np.stack([y, u, v, one], -1) @ planes.colours.to_bgr.T, 0, 255)


@pytest.mark.parametrize("interleaved", [False, True], ids=["planar", "NV12"])
@pytest.mark.parametrize("colours", [BT601, BT601_FULL, BT709, BT2020_FULL], ids=["601", "601 full", "709", "2020"])
@pytest.mark.parametrize("factor_hw", [(2, 2), (1, 2), (1, 1), (2, 1)])
@pytest.mark.parametrize("size_hw", [(48, 64), (49, 67), (1, 1), (2, 3)])
def test_bgr_is_the_definition(
    size_hw: tuple[int, int], factor_hw: tuple[int, int], colours: YuvColours, interleaved: bool
) -> None:
    luma, *chroma = planes_of(size_hw, factor_hw, interleaved=interleaved)
    planes = YuvPlanes(luma, tuple(chroma), colours)
    found = to_bgr(planes)
    assert (str(found.dtype), found.shape, size_hw_of(planes)) == ("uint8", (*size_hw, 3), size_hw)
    assert np.abs(found - exact_bgr(planes, factor_hw)).max() <= 1.0  # OpenCV's NV12 rounds its factors


@pytest.mark.parametrize("degrees", [-90, 0, 90, 180, 270, 360])
@pytest.mark.parametrize("interleaved", [False, True])
def test_turned_counter_clockwise(degrees: int, interleaved: bool) -> None:
    luma, *chroma = planes_of((48, 64), (2, 2), interleaved=interleaved)
    planes = YuvPlanes(luma, tuple(chroma), BT709)
    turned = planes.turned(degrees)
    assert turned.colours == BT709
    assert np.array_equal(turned.bgr(), np.rot90(planes.bgr(), degrees // 90))


@pytest.mark.parametrize(
    ("luma", "chroma"),
    [
        ((4, 4, 1), [(2, 2), (2, 2)]),
        ((4, 4), [(2, 2)]),
        ((4, 4), [(2, 2), (2, 1)]),
        ((4, 4), [(2, 2, 3)]),
        ((4, 4), [(2, 2)] * 3),
        ((0, 4), [(2, 2), (2, 2)]),
        ((4, 4), [(0, 2), (0, 2)]),
    ],
)
def test_planes_that_do_not_fit_are_refused(luma: tuple[int, ...], chroma: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"luma of shape .*expected \[H, W\]"):
        YuvPlanes(np.zeros(luma, np.uint8), tuple(np.zeros(shape, np.uint8) for shape in chroma))


def test_a_picture_on_a_gpu_is_fetched_when_it_is_used() -> None:
    planes = YuvPlanes(np.full((4, 6), 235, np.uint8), (np.full((2, 3, 2), 128, np.uint8),))
    fetched = []

    def download() -> YuvPlanes:
        fetched.append(1)
        return planes

    picture = GpuPicture(object(), (4, 6), download)
    assert (size_hw_of(picture), fetched) == ((4, 6), [])
    assert in_memory(picture) is planes
    assert (to_bgr(picture) == 255).all()
    assert len(fetched) == 2


def test_bgr_stays_what_it_is() -> None:
    image = np.zeros((3, 5, 3), np.uint8)
    assert to_bgr(image) is image
    assert in_memory(image) is image
    assert size_hw_of(image) == (3, 5)


def test_only_even_420_fits_nv12() -> None:
    for size_hw, factor_hw, fits in [((4, 6), (2, 2), True), ((5, 6), (2, 2), False), ((4, 6), (1, 2), False)]:
        luma, *chroma = planes_of(size_hw, factor_hw, interleaved=False)
        assert YuvPlanes(luma, tuple(chroma)).is_420 is fits


def test_nv12_and_i420_are_opencv_has_them() -> None:
    luma, u, v = planes_of((48, 64), (2, 2), interleaved=False)
    packed = np.concatenate([np.ascontiguousarray(plane).reshape(-1) for plane in (luma, u, v)])
    wanted = cv2.cvtColor(packed.reshape(72, 64), cv2.COLOR_YUV2BGR_I420)
    assert np.array_equal(YuvPlanes(luma, (u, v)).bgr(), wanted)
    assert np.array_equal(YuvPlanes(luma, (np.stack([u, v], -1),)).bgr(), wanted)
