"""What a URI names, and what is wrong with one that names nothing."""

from pathlib import Path

import pytest
from PIL import Image

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.find import find_source, open_source


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.mp4", "no source"),
        ("text.mp4", "is no video"),
        ("empty", "no image in"),
        ("*.png", "no image in"),
        ("gopher://x/y", "unknown kind of address"),
    ],
)
def test_no_source(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=message):
        open_source(name if "://" in name else str(tmp_path / name))


def test_digits_are_a_camera_only_where_nothing_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("63").mkdir()
    Image.new("RGB", (4, 4)).save("63/a.png")
    for folder in ("63", Path("63")):
        assert [frame.name for frame in open_source(folder).frames()] == ["a.png"]
    with pytest.raises(SourceError, match="no camera 63"):
        open_source(63)
    with pytest.raises(SourceError, match="no camera 64"):
        open_source("64")


@pytest.mark.parametrize("name", ["64", "/dev/video64", "rtsp://127.0.0.1:1/live"])
def test_a_path_is_never_a_camera_or_an_address(name: str) -> None:
    with pytest.raises(SourceError, match="no source"):
        open_source(Path(name))


@pytest.mark.parametrize(("uri", "name"), [(3, "3"), ("3", "3"), ("camera:3", "3"), ("camera:HD Cam", "HD Cam")])
def test_a_camera_may_come_later(uri: int | str, name: str) -> None:
    place = find_source(uri)
    assert (place.name, place.remote) == (f"camera {name}", True)
