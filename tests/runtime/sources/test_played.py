"""A file played as if it were a camera."""

from pathlib import Path

from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.find import open_source
from tests.runtime.sources.sample_video import write_video


def test_a_file_in_real_time_is_like_a_camera(tmp_path: Path) -> None:
    with open_source(write_video(tmp_path / "a.mp4", frames=5), SourceOptions(realtime=True)) as source:
        assert (source.live, source.fps, source.frame_count) == (True, 20.0, 5)
        times = [frame.captured_at for frame in source.frames()]
    assert 0.19 < times[-1] - times[0] < 0.6
