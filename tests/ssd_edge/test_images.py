"""Every kind of image file becomes uint8 BGR, and what is none is refused by name."""

import io
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ssd_edge.errors import DatasetError, SsdEdgeError
from ssd_edge.images import IMAGE_SUFFIXES, ImageError, image_size, load_image, quiet_opencv, to_bgr8

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


def jpeg(*, progressive: bool = False, thumbnail: bytes = b"") -> bytes:
    """8×16 pixels; with a thumbnail, an EXIF segment that holds it."""
    encoded = io.BytesIO()
    exif = b"Exif\x00\x00" + thumbnail if thumbnail else b""
    Image.fromarray(RED_BLUE).save(encoded, "JPEG", progressive=progressive, exif=exif)
    return encoded.getvalue()


@pytest.mark.parametrize("trailer", [b"\xff\xda", b"ftypmp42\xff\xd8\xff\xda\x00", jpeg(), jpeg()[:-2]])
@pytest.mark.parametrize("progressive", [False, True])
def test_what_follows_a_jpegs_end_does_not_matter(tmp_path: Path, trailer: bytes, progressive: bool) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(progressive=progressive) + trailer)
    assert image_size(tmp_path / "a.jpg") == (8, 16)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_is_cut_off_anywhere_is_refused(
    tmp_path: Path, progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenCV 4 decodes these, so whichever version is here, it is not asked.
    monkeypatch.setattr("cv2.imdecode", lambda *_: RED_BLUE)
    whole = jpeg(progressive=progressive, thumbnail=jpeg())
    path = tmp_path / "a.jpg"
    for length in range(2, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError, match="cut off"):
            load_image(path)
    path.write_bytes(whole)
    assert image_size(path) == (8, 16)


def log_level() -> int:
    return int((getattr(cv2, "getLogLevel", None) or cv2.utils.logging.getLogLevel)())


def test_opencv_stays_quiet_until_the_last_thread_has_done_and_then_speaks_again() -> None:
    before = log_level()
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def first() -> None:
        with quiet_opencv():
            first_in.set()
            second_in.wait(5)
        first_out.set()

    def second() -> None:
        first_in.wait(5)
        with quiet_opencv():
            second_in.set()
            first_out.wait(5)
            seen.append(log_level())

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen == [0]
    assert log_level() == before != 0


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


@pytest.mark.parametrize("name", ["a\0b.png", "a\ud800.png"])
def test_a_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(DatasetError, match="cannot read image"):
        load_image(Path(name))
