"""Annotated images keep their names, and say what cannot be encoded."""

from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from ssd_edge.errors import SinkError
from ssd_edge.runtime.sinks.images import ImageSink, ImagesSink
from ssd_edge.runtime.sinks.save import save_sink
from ssd_edge.runtime.sources.find import open_source
from ssd_edge.runtime.sources.images import ImageSource
from tests.fakes.any_source import AnySource
from tests.runtime.sinks.frames import feed, frame, read_image


def test_images_keep_their_names(tmp_path: Path) -> None:
    names = ["a.png", "grey.pgm", "sub/b.JPG"]
    sink = save_sink(tmp_path / "out", ImageSource("in", tuple(tmp_path / "in" / name for name in names)))
    feed(sink, *(frame(index, name=name) for index, name in enumerate(names)))
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert written == names
    assert (read_image(tmp_path / "out" / "a.png") == 200).all()


@pytest.mark.parametrize("name", ["camera 0", "http://cam/video.jpg"])
def test_frames_that_are_no_image_files_are_numbered(tmp_path: Path, name: str) -> None:
    feed(save_sink(tmp_path / "out", AnySource()), frame(0, name=name), frame(3, name=name))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000000.jpg", "000003.jpg"]


def test_frames_of_a_video_can_go_beside_it(tmp_path: Path) -> None:
    (tmp_path / "in.mp4").touch()
    feed(ImagesSink(tmp_path, AnySource(paths=(tmp_path / "in.mp4",))), frame(0))
    assert (tmp_path / "000000.jpg").exists()


def test_a_folder_of_links_is_saved_under_their_names_and_its_originals_stay(tmp_path: Path) -> None:
    original, links, out = tmp_path / "originals" / "a.png", tmp_path / "links", tmp_path / "new" / "out"
    original.parent.mkdir()
    links.mkdir()
    cv2.imwrite(str(original), np.zeros((4, 4, 3), np.uint8))
    before = original.read_bytes()
    for name in ("1.png", "2.png"):
        (links / name).symlink_to(original)
    (links / "broken.png").symlink_to(tmp_path / "gone.png")
    for _ in range(2):  # into a new folder, then over the outputs of the first time
        source = open_source(links)
        feed(save_sink(out, source), *source.frames())
    assert sorted(path.name for path in out.rglob("*")) == ["1.png", "2.png"]
    assert original.read_bytes() == before
    for folder in (links, original.parent, tmp_path / "nowhere" / ".." / "links"):
        if folder == original.parent:
            (links / "a.png").symlink_to(original)
        with pytest.raises(SinkError, match="is an input"):
            save_sink(folder, open_source(links))


def test_grey_formats_get_grey_images(tmp_path: Path) -> None:
    feed(save_sink(tmp_path / "out.pgm", ImageSource("a.png", (tmp_path / "a.png",))), frame())
    assert read_image(tmp_path / "out.pgm", cv2.IMREAD_UNCHANGED).tolist() == [[200] * 64] * 48


def test_an_image_that_cannot_be_encoded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sink = save_sink(tmp_path / "out.webp", ImageSource("a.png", (tmp_path / "a.png",)))
    with pytest.raises(SinkError, match=r"20000×2 pixels as \.webp"):
        feed(sink, frame(0, (2, 20_000)))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_an_encoder_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.imencode", Mock(side_effect=cv2.error("as OpenCV 4 does")))
    with pytest.raises(SinkError, match=r"64×48 pixels as \.jpg"):
        feed(ImagesSink(tmp_path, AnySource()), frame())


def test_one_image(tmp_path: Path) -> None:
    source = ImageSource("a.png", (tmp_path / "a.png",))
    feed(save_sink(tmp_path / "out.png", source), frame())
    assert read_image(tmp_path / "out.png").shape == (48, 64, 3)
    with pytest.raises(SinkError, match="one frame"):
        ImageSink(tmp_path / "out.png", AnySource())
