"""Images: single ones, folders, glob patterns, of every kind."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.find import open_source
from ssd_edge.runtime.sources.images import ImageSource


def test_a_folder_of_all_kinds_of_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    colour = Image.fromarray(np.full((6, 8, 3), [200, 100, 0], np.uint8))
    colour.convert("L").save(tmp_path / "1_grey.png")
    colour.convert("CMYK").save(tmp_path / "2_cmyk.jpg")
    (tmp_path / "3_broken.jpg").write_bytes(b"\xff\xd8 broken")
    colour.convert("RGBA").resize((20, 10)).save(tmp_path / "4_rgba.PNG")
    cv2.imwrite(str(tmp_path / "5_deep.tif"), np.full((6, 8), 0x8000, np.uint16))
    (tmp_path / "notes.txt").write_text("no image")
    with caplog.at_level(logging.WARNING), open_source(tmp_path) as source:
        assert source.frame_count == 5
        frames = list(source.frames())
    assert [frame.name for frame in frames] == ["1_grey.png", "2_cmyk.jpg", "4_rgba.PNG", "5_deep.tif"]
    assert [frame.image_bgr.shape for frame in frames] == [(6, 8, 3), (6, 8, 3), (10, 20, 3), (6, 8, 3)]
    assert all(frame.image_bgr.dtype == np.uint8 for frame in frames)
    assert "3_broken.jpg" in caplog.text
    with pytest.raises(SourceError, match="none of 1 images"):
        list(open_source(tmp_path / "3_broken.jpg").frames())


def test_a_glob_and_a_single_image(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "b/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    found = open_source(f"{tmp_path}/*/1.*")
    assert isinstance(found, ImageSource)
    assert [frame.name for frame in found.frames()] == ["a/1.png", "b/1.png"]
    single = open_source(str(tmp_path / "b/2.jpg"))
    assert [frame.name for frame in single.frames()] == ["2.jpg"]
