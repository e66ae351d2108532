"""Outputs are checked before they are begun, and never destroy an input."""

from pathlib import Path

import pytest

from ssd_edge.errors import SinkError
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.sinks.images import ImagesSink
from ssd_edge.runtime.sinks.jsonl import JsonLinesSink
from ssd_edge.runtime.sinks.save import save_sink
from ssd_edge.runtime.sinks.video_opencv import VideoSink
from ssd_edge.runtime.sources.images import ImageSource
from tests.fakes.any_source import AnySource


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    video, image, link = tmp_path / "in.mp4", tmp_path / "in.png", tmp_path / "link.mp4"
    for path in (video, image):
        path.write_bytes(b"precious")
    link.symlink_to(video)
    source = AnySource(paths=(video,))
    for sink in (lambda: VideoSink(link, source), lambda: JsonLinesSink(str(video), source)):
        with pytest.raises(SinkError, match="is an input"):
            sink()
    with pytest.raises(SinkError, match="is an input"):
        ImagesSink(tmp_path, ImageSource("in", (image,)))
    assert video.read_bytes() == image.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["file/out.mp4", "folder.mp4", "file/out.jsonl", "file/folder"])
def test_unwritable_outputs_are_found_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()

    def open_sink() -> Sink:
        if name.endswith("jsonl"):
            return JsonLinesSink(str(tmp_path / name), AnySource())
        return save_sink(tmp_path / name, AnySource())

    with pytest.raises(SinkError, match="choose"):
        open_sink()


def test_checking_leaves_nothing_and_destroys_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_text("old")
    for sink in (VideoSink(tmp_path / "a.mp4", AnySource()), JsonLinesSink(str(tmp_path / "old.jsonl"), AnySource())):
        sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["old.jsonl"]
    assert (tmp_path / "old.jsonl").read_text() == "old"
