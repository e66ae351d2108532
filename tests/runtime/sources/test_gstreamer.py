"""Pipelines of real GStreamer, with its own elements in place of NVIDIA's."""

import gc
import os
import threading
import time
from collections import deque
from typing import Any

import numpy as np
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.colours import BT601, BT601_FULL, BT709, BT709_FULL, BT2020, YuvColours
from ssd_edge.runtime.host.kind import Host
from ssd_edge.runtime.pixels import YuvPlanes
from ssd_edge.runtime.sources import gstreamer as module
from ssd_edge.runtime.sources.base import Frame, SourceOptions
from ssd_edge.runtime.sources.gstreamer import (
    GStreamer,
    GStreamerSource,
    gstreamer_decodes,
    has_element,
    pixels_of_sample,
    prefer_elements,
)

pytestmark = pytest.mark.usefixtures("gstreamer")
PLANES = "video/x-raw, format=NV12, width=64, height=48"


def play(pipeline: str, *, live: bool = True, **options: Any) -> GStreamerSource:
    chosen = SourceOptions(**({"timeout_s": 5.0} | options))
    return GStreamerSource("door", pipeline, chosen, live=live, advice="check it")


def all_of(source: GStreamerSource) -> list[Any]:
    with source:
        return list(source.frames())


@pytest.mark.parametrize("form", ["NV12", "I420", "Y42B", "Y444", "BGRx"])
def test_planes_of_odd_sizes_with_padded_rows(form: str) -> None:
    pipeline = "videotestsrc num-buffers=2 ! video/x-raw, format={}, width=323, height=25, colorimetry=bt601"
    frame, _ = all_of(play(pipeline.format(form), live=False))
    _, reference = all_of(play(pipeline.format("BGRx").replace(", colorimetry=bt601", ""), live=False))
    assert frame.size_hw == (25, 323)
    height = 16  # below there is noise
    difference = np.abs(frame.image_bgr[:height].astype(int) - reference.image_bgr[:height])
    assert np.percentile(difference, 90) <= 2  # but for the edges, where chroma has fewer samples
    if form != "BGRx":
        assert isinstance(frame.pixels, YuvPlanes)
        assert frame.pixels.colours == BT601


def test_planes_lie_where_the_buffer_says(gstreamer: GStreamer) -> None:
    gst, video, _ = gstreamer
    rows = bytes([1, 2, 0, 0, 3, 4, 0, 0]) + bytes(8) + bytes([5, 6, 0, 0])  # 2×2 in rows of 4, chroma from byte 16
    buffer = gst.Buffer.new_wrapped(rows)
    nv12 = video.VideoFormat.NV12
    video.buffer_add_video_meta_full(buffer, video.VideoFrameFlags.NONE, nv12, 2, 2, 2, [0, 16, 0, 0], [4, 4, 0, 0])
    caps = gst.Caps.from_string("video/x-raw, format=NV12, width=2, height=2")
    planes = pixels_of_sample(gst.Sample.new(buffer, caps, None, None), video)
    assert isinstance(planes, YuvPlanes)
    assert planes.luma.tolist() == [[1, 2], [3, 4]]
    assert planes.chroma[0].tolist() == [[[5, 6]]]


@pytest.mark.parametrize(
    ("colorimetry", "colours"),
    [
        ("bt601", BT601),
        ("1:4:0:0", BT601_FULL),
        ("bt709", BT709),
        ("1:3:5:1", BT709_FULL),
        ("bt2020", BT2020),
    ],
)
def test_colours_are_those_of_the_caps(colorimetry: str, colours: YuvColours) -> None:
    frame, *_ = all_of(play(f"videotestsrc num-buffers=1 ! {PLANES}, colorimetry={colorimetry}", live=False))
    assert frame.pixels.colours == colours


def test_a_file_loses_no_frame_and_ends_without_an_error() -> None:
    source = play(f"videotestsrc num-buffers=30 ! {PLANES}, framerate=25/1", live=False)
    assert source.fps == 25
    frames = []
    for frame in source.frames():
        frames.append(frame)
        time.sleep(0.005)  # slower than the pipeline
    source.close()
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.media_time_s for frame in frames] == pytest.approx([number / 25 for number in range(30)])


def test_of_a_live_source_only_the_newest_frame_waits() -> None:
    with play(f"videotestsrc is-live=true ! {PLANES}, framerate=30/1") as source:
        frames = source.frames()
        first = next(frames)
        time.sleep(0.5)
        waited, after = next(frames), next(frames)
    assert first.media_time_s == 0
    assert waited.media_time_s is not None
    assert waited.media_time_s > 0.4
    assert after.media_time_s is not None
    assert after.media_time_s > waited.media_time_s


def test_while_it_waits_for_a_frame_other_threads_work() -> None:
    ticks, end = [], threading.Event()

    def tick() -> None:
        while not end.wait(0.01):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    with pytest.raises(SourceError, match=r"door: no frame within 1 s; check it"):
        play("appsrc format=time ! video/x-raw, format=NV12, width=8, height=8, framerate=30/1", timeout_s=1.0)
    end.set()
    thread.join()
    assert len(ticks) > 10


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("no_such_element", r'GStreamer says: no element "no_such_element"'),
        ("filesrc location=/no/such ! decodebin ! videoconvert", r"GStreamer says: Resource not found \(No such file"),
        ("videotestsrc ! video/x-h264", "GStreamer says: "),
        ("videotestsrc num-buffers=0 ! videoconvert", "was opened but gives no frame"),
        ("rtspsrc location=rtsp://me:s3cret@127.0.0.1:1/x ! decodebin ! videoconvert", "GStreamer says: .*connect"),
    ],
)
def test_what_gstreamer_says_is_told(pipeline: str, message: str) -> None:
    begin = time.monotonic()
    with pytest.raises(SourceError, match=f"^door: {message}.*; check it$") as caught:
        play(f"{pipeline} ! {PLANES}", timeout_s=30.0)
    assert "s3cret" not in str(caught.value)
    assert time.monotonic() - begin < 20  # not after the time-out


def test_an_error_in_the_middle() -> None:
    source = play(f"videotestsrc num-buffers=20 ! {PLANES} ! identity error-after=10", live=False)
    seen: list[Frame] = []
    with source, pytest.raises(SourceError, match=r"^door: GStreamer says: Failed after iterations as requested"):
        deque(map(seen.append, source.frames()), maxlen=0)
    assert [frame.index for frame in seen] == list(range(9))


@pytest.mark.parametrize("damaged", ["skip", "keep"])
def test_damaged_frames_are_counted(damaged: str, gstreamer: GStreamer, monkeypatch: pytest.MonkeyPatch) -> None:
    gst, number = gstreamer.gst, iter(range(100))
    parse_launch = gst.parse_launch

    def mark(_: Any, info: Any) -> Any:
        """As a camera's driver marks what came broken, here every third buffer."""
        if next(number) % 3 == 1:
            info.get_buffer().set_flags(gst.BufferFlags.CORRUPTED)
        return gst.PadProbeReturn.OK

    def launch(text: str) -> Any:
        pipeline = parse_launch(text)
        pipeline.get_by_name("camera").get_static_pad("src").add_probe(gst.PadProbeType.BUFFER, mark)
        return pipeline

    monkeypatch.setattr(gst, "parse_launch", launch)
    source = play(f"videotestsrc name=camera num-buffers=6 ! {PLANES}", live=False, damaged=damaged)
    frames = all_of(source)
    assert source.corrupt == 2
    assert [frame.index for frame in frames if frame.damaged] == ([1, 4] if damaged == "keep" else [])
    assert len(frames) == (6 if damaged == "keep" else 4)


def test_nothing_is_left_behind(gstreamer: GStreamer) -> None:
    def open_and_close() -> None:
        with play(
            f"videotestsrc is-live=true ! jpegenc ! identity name=jpegs ! jpegdec ! videoconvert ! {PLANES}"
        ) as source:
            frames = source.frames()
            for _ in range(3):
                next(frames)

    open_and_close()
    counts = []
    for _ in range(6):
        open_and_close()
        gc.collect()
        counts.append((threads(), len(os.listdir("/proc/self/fd"))))
    assert max(counts[-3:]) <= max(counts[:3])
    assert not [one for one in gc.get_objects() if isinstance(one, gstreamer.gst.Pipeline)]


def threads() -> int:
    """GStreamer's too."""
    return len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize(
    ("hwaccel", "jetson", "elements", "chosen"),
    [
        ("gstreamer", False, (), True),
        ("auto", False, ("nvv4l2decoder",), False),
        ("auto", True, ("nvv4l2decoder",), True),
        ("auto", True, (), False),
        ("none", True, ("nvv4l2decoder",), False),
    ],
)
def test_when_gstreamer_decodes(
    hwaccel: str, jetson: bool, elements: tuple[str, ...], chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_host", lambda: Host(jetson=jetson))
    monkeypatch.setattr(module, "has_element", elements.__contains__)
    assert gstreamer_decodes(SourceOptions(hwaccel=hwaccel)) == chosen


def test_asked_for_and_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_gstreamer", lambda: None)
    assert not has_element("videotestsrc")
    with pytest.raises(
        SourceError, match=r"--hwaccel gstreamer: there is no PyGObject .*; sudo apt install python3-gi"
    ):
        gstreamer_decodes(SourceOptions(hwaccel="gstreamer"))


def test_decoders_can_be_preferred(gstreamer: GStreamer) -> None:
    gst = gstreamer.gst
    factories = gst.ElementFactory.list_get_elements(gst.ELEMENT_FACTORY_TYPE_DECODER, gst.Rank.NONE)
    ranks = {factory: factory.get_rank() for factory in factories}
    videos = [factory for factory in factories if "Decoder/Video" in factory.get_metadata("klass")]
    assert min(ranks[factory] for factory in videos) < gst.Rank.PRIMARY
    try:
        prefer_elements(gst, "Decoder/Video")
        assert min(factory.get_rank() for factory in videos) > gst.Rank.PRIMARY
        assert all(factory.get_rank() == ranks[factory] for factory in factories if factory not in videos)
    finally:
        for factory, rank in ranks.items():
            factory.set_rank(rank)
