"""The one resize, against a literal result and against PyTorch's definition."""

import numpy as np
import pytest

from ssd_edge.runtime.colours import BT601, BT709, YuvColours
from ssd_edge.runtime.pixels import YuvPlanes
from ssd_edge.runtime.preprocess import preprocess


def test_bgr_becomes_rgb() -> None:
    assert preprocess(np.full((5, 7, 3), [1, 2, 3], np.uint8), (2, 2)).tolist() == [[[3, 2, 1]] * 2] * 2


def test_half_pixel_centres() -> None:
    # Two pixels stretched to four: centres at -0.25, 0.25, 0.75, 1.25 of the source; the ends repeat.
    row = np.array([[[0] * 3, [100] * 3]], np.uint8)  # [1, 2, 3]
    assert preprocess(row, (1, 4))[0, :, 0].tolist() == [0, 25, 75, 100]


def test_no_antialias() -> None:
    # 8 → 2: each output lies between source pixels 1 and 2 (5 and 6) and sees no others.
    row = np.array([[[v] * 3 for v in (255, 10, 20, 255, 255, 30, 50, 255)]], np.uint8)  # [1, 8, 3]
    assert preprocess(row, (1, 2))[0, :, 0].tolist() == [15, 40]


def test_writes_into_the_given_buffer() -> None:
    out = np.zeros((3, 4, 3), np.uint8)
    assert preprocess(np.full((9, 9, 3), 8, np.uint8), (3, 4), out=out) is out
    assert (out == 8).all()


@pytest.mark.parametrize("view", ["flipped", "cropped", "transposed"])
def test_takes_views_of_arrays(view: str) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    frame = {"flipped": frame[:, ::-1], "cropped": frame[3:30, 5:40], "transposed": frame.transpose(1, 0, 2)}[view]
    assert np.array_equal(preprocess(frame, (16, 20)), preprocess(frame.copy(), (16, 20)))


@pytest.mark.parametrize("size_hw", [(300, 300), (64, 300), (700, 500)])
def test_as_torch_interpolates(size_hw: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    frame = np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    planes = torch.from_numpy(frame[:, :, ::-1].copy()).permute(2, 0, 1)[None].float()
    wanted = torch.nn.functional.interpolate(planes, size=size_hw, mode="bilinear", align_corners=False)
    difference = preprocess(frame, size_hw) - wanted[0].permute(1, 2, 0).numpy()
    assert np.abs(difference).max() < 1.0  # OpenCV works with 11-bit weights, then rounds


@pytest.mark.parametrize("interleaved", [False, True], ids=["planar", "NV12"])
@pytest.mark.parametrize("colours", [BT601, BT709])
@pytest.mark.parametrize("factor_hw", [(2, 2), (1, 2), (1, 1)])
@pytest.mark.parametrize("frame_hw", [(120, 160), (121, 161)])
def test_planes_give_what_their_bgr_gives(
    frame_hw: tuple[int, int], factor_hw: tuple[int, int], colours: YuvColours, interleaved: bool
) -> None:
    rng = np.random.default_rng(2)
    chroma_hw = [-(-side // factor) for side, factor in zip(frame_hw, factor_hw, strict=True)]
    luma, u, v = (rng.integers(0, 256, side_hw, np.uint8) for side_hw in (frame_hw, chroma_hw, chroma_hw))
    planes = YuvPlanes(luma, (np.dstack([u, v]),) if interleaved else (u, v), colours)
    out = np.zeros((60, 90, 3), np.uint8)
    assert preprocess(planes, (60, 90), out=out) is out
    assert np.array_equal(out, preprocess(planes.bgr(), (60, 90)))
