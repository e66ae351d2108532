"""Every kind of image file becomes uint8 BGR, and what is none is refused by name."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ssd_edge.errors import DatasetError, SsdEdgeError
from ssd_edge.images import IMAGE_SUFFIXES, ImageError, image_size, load_image, to_bgr8

RED_BLUE = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8).repeat(8, 0).repeat(8, 1)  # RGB [8, 16, 3]


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "a.png"),
        ("RGBA", "a.png"),
        ("P", "a.png"),
        ("RGB", "a.tif"),
        ("CMYK", "a.tif"),
        ("RGB", "a.bmp"),
    ],
)
def test_colours_survive_each_lossless_kind(tmp_path: Path, mode: str, name: str) -> None:
    Image.fromarray(RED_BLUE).convert(mode).save(tmp_path / name)
    image = load_image(tmp_path / name)
    assert image.shape == (8, 16, 3)
    assert image.dtype == np.uint8
    assert image[0, 0].tolist() == [0, 0, 255]
    assert image[0, 15].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_jpeg_colours_are_close(tmp_path: Path, mode: str) -> None:
    Image.fromarray(RED_BLUE).convert(mode).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    image = load_image(tmp_path / "a.jpg").astype(int)
    assert np.abs(image[0, 0] - [0, 0, 255]).max() < 12
    assert np.abs(image[0, 15] - [255, 0, 0]).max() < 12


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 100], [200, 255]], np.uint8)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png")[1, 0].tolist() == [200, 200, 200]


def test_16_bit_keeps_the_high_byte(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((4, 4), 0x12FF, np.uint16))
    cv2.imwrite(str(tmp_path / "colour.png"), np.full((4, 4, 3), [0x0100, 0x8000, 0xFFFF], np.uint16))
    assert load_image(tmp_path / "grey.png")[0, 0].tolist() == [0x12, 0x12, 0x12]
    assert load_image(tmp_path / "colour.png")[0, 0].tolist() == [0x01, 0x80, 0xFF]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    Image.fromarray(RED_BLUE).save(tmp_path / "a.png", exif=exif)
    assert image_size(tmp_path / "a.png") == (16, 8)
    assert load_image(tmp_path / "a.png")[0, 0].tolist() == [0, 0, 255]


def test_a_name_with_other_letters(tmp_path: Path) -> None:
    Image.fromarray(RED_BLUE).save(tmp_path / "Blüte 花.png")
    assert image_size(tmp_path / "Blüte 花.png") == (8, 16)


def test_missing_empty_and_cut_off_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(RED_BLUE).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) - 20])
    for name in ("missing.jpg", "empty.jpg", "text.png", "cut.jpg"):
        with pytest.raises(DatasetError, match=name):
            load_image(tmp_path / name)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 4), (4, 5, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_to_bgr8_takes_grey_bgr_and_bgra(shape: tuple[int, ...], dtype: type) -> None:
    image = to_bgr8(np.full(shape, 7, dtype) * (256 if dtype is np.uint16 else 1))
    assert image.shape == (4, 5, 3)
    assert image.dtype == np.uint8
    assert (image == 7).all()


def test_to_bgr8_copies_nothing_when_nothing_is_to_do() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    assert to_bgr8(image) is image


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 5, 3), np.float32),
        np.zeros((4, 5, 2), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros(3, np.uint8),
    ],
)
def test_to_bgr8_refuses_what_is_no_image(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match="expected") as caught:
        to_bgr8(image)
    assert isinstance(caught.value, SsdEdgeError)


def test_suffixes_are_lower_case_with_a_dot() -> None:
    assert {".jpg", ".jpeg", ".png"} <= IMAGE_SUFFIXES
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)
