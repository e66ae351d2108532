"""The options of a stream."""

from pathlib import Path

from ssd_edge.runtime.stream.config import SourceConfig, StreamConfig


def test_one_source_needs_no_more() -> None:
    for uri in ("rtsp://host/a", 0, Path("a.mp4")):
        assert StreamConfig(uri, Path("m.onnx")).sources == (SourceConfig(uri),)
