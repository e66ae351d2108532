"""Pictures of every kind a decoder gives: colours, depths, sizes, rotation, and memory that lasts."""

import gc
import io
import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.runtime.pixels import YuvPlanes
from ssd_edge.runtime.sources.base import Frame, SourceOptions
from ssd_edge.runtime.sources.ffmpeg import pixels_of
from ssd_edge.runtime.sources.find import open_source
from tests.runtime.sources.sample_video import encode, ramp

EVEN, ODD = (48, 64), (49, 67)
BT709, BT2020, FULL = 1, 9, 2  # AVColorSpace and AVColorRange
ONE, END = 1 << 16, 1 << 30  # of a display matrix, in fixed point
TURNS = {
    90: (0, ONE, 0, -ONE, 0, 0, 0, 0, END),
    180: (-ONE, 0, 0, 0, -ONE, 0, 0, 0, END),
    270: (0, -ONE, 0, ONE, 0, 0, 0, 0, END),
}


def frames_of(path: Path) -> list[Frame]:
    with open_source(path, SourceOptions(damaged="keep")) as source:
        return list(source.frames())


def assert_like(found: NDArray[np.uint8], wanted: NDArray[np.uint8], mean: float = 2.5) -> None:
    """Equal but for what chroma of fewer samples, 8 bits and a lossy codec cost."""
    assert found.shape == wanted.shape
    difference = np.abs(found.astype(int) - wanted)
    assert difference.mean() < mean
    assert np.percentile(difference, 90) < 3 * mean


@pytest.mark.parametrize("size_hw", [EVEN, ODD], ids=["even", "odd"])
@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format"),
    [
        *(("mkv", "ffv1", name) for name in ("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p")),
        *(("mkv", "ffv1", name) for name in ("yuv420p10le", "yuv422p12le", "yuv444p16le", "yuva420p", "yuva444p10le")),
        *(("mkv", "ffv1", name) for name in ("bgra", "gbrp10le")),
        *(("mkv", "rawvideo", name) for name in ("nv12", "nv21", "yuyv422", "uyvy422")),
        *(("avi", "rawvideo", name) for name in ("bgr24", "bgra", "rgb555le", "yuv420p")),
        *(("avi", "mjpeg", name) for name in ("yuvj420p", "yuvj422p", "yuvj444p")),
        *(("mov", "png", name) for name in ("rgb24", "rgba", "rgb48be")),
        *(("mov", "qtrle", name) for name in ("rgb24", "argb")),
        ("mov", "prores_ks", "yuva444p10le"),
        ("mp4", "mpeg4", "yuv420p"),
        ("mpg", "mpeg2video", "yuv422p"),
        ("mp4", "libx264", "yuv444p"),
        ("mp4", "libx264rgb", "bgr24"),
    ],
)
def test_pixel_formats(tmp_path: Path, suffix: str, codec: str, pixel_format: str, size_hw: tuple[int, int]) -> None:
    path = tmp_path / f"a.{suffix}"
    options = {"qmax": "2"} if codec in ("mjpeg", "mpeg4", "mpeg2video") else {}
    encode(path, [ramp(size_hw)] * 2, codec=codec, pixel_format=pixel_format, options=options)
    frames = frames_of(path)
    assert [frame.damaged for frame in frames] == [False, False]
    assert frames[1].size_hw == size_hw
    assert_like(frames[1].image_bgr, ramp(size_hw), 4.5 if pixel_format in ("yuv410p", "rgb555le") else 3.5)


@pytest.mark.parametrize(
    ("codec", "pixel_format"), [("ffv1", "gray"), ("ffv1", "gray10le"), ("ffv1", "gray16le"), ("ffv1", "ya8"),
                                ("libx264", "gray"), ("libx264", "gray10le")]
)  # fmt: skip
def test_grey(tmp_path: Path, codec: str, pixel_format: str) -> None:
    grey = np.repeat(np.tile(np.arange(0, 256, 4).astype(np.uint8), (48, 1))[..., None], 3, 2)
    encode(tmp_path / "a.mkv", [grey] * 2, codec=codec, pixel_format=pixel_format, colour_range=FULL)
    assert_like(frames_of(tmp_path / "a.mkv")[0].image_bgr, grey, 1.5)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("colour_range", [None, FULL])
@pytest.mark.parametrize("colour_space", [None, BT709, BT2020])
@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_colours_are_those_that_the_video_declares(
    tmp_path: Path, codec: str, pixel_format: str, colour_space: int | None, colour_range: int | None
) -> None:
    path = tmp_path / "a.mkv"
    encode(
        path,
        [ramp()],
        codec=codec,
        pixel_format=pixel_format,
        colour_space=colour_space,
        colour_range=colour_range,
        options={"crf": "4"} if codec == "libx264" else {},
    )
    frame = frames_of(path)[0]
    assert isinstance(frame.pixels, YuvPlanes)
    assert (frame.pixels.colours.black == 0) is (colour_range == FULL)
    assert_like(frame.image_bgr, ramp())


@pytest.mark.parametrize("degrees", TURNS)
@pytest.mark.parametrize(
    ("codec", "pixel_format", "size_hw"),
    [
        ("libx264", "yuv420p", EVEN),
        ("mpeg4", "yuv420p", ODD),
        ("mjpeg", "yuvj422p", EVEN),
        ("png", "rgb24", ODD),
    ],
)
def test_turned_as_opencv_turns_it(
    tmp_path: Path, codec: str, pixel_format: str, size_hw: tuple[int, int], degrees: int
) -> None:
    path = tmp_path / "a.mov"
    encode(path, [ramp(size_hw)] * 2, codec=codec, pixel_format=pixel_format)
    movie = bytearray(path.read_bytes())
    matrix = movie.index(b"tkhd") + 44  # ISO/IEC 14496-12, 8.3.2
    movie[matrix : matrix + 36] = struct.pack(">9i", *TURNS[degrees])
    path.write_bytes(movie)
    _, wanted = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).read()
    frame = frames_of(path)[0]
    assert frame.size_hw == wanted.shape[:2]
    assert_like(frame.image_bgr, wanted, 4 if size_hw == ODD else 2.5)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("size_hw", [(36, 52), (1080, 1920)])
def test_what_pads_a_picture_to_whole_blocks_is_cut_off(tmp_path: Path, codec: str, size_hw: tuple[int, int]) -> None:
    options = {"preset": "ultrafast", "crf": "4", "x265-params": "log-level=none"}
    encode(tmp_path / "a.ts", [ramp(size_hw)], codec=codec, options=options)
    assert_like(frames_of(tmp_path / "a.ts")[0].image_bgr, ramp(size_hw), 3.5)


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", {"x264-params": "interlaced=1", "crf": "4"}), ("mpeg2video", {"flags": "+ildct+ilme", "qmax": "2"})],
)
def test_interlaced(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    encode(tmp_path / "a.ts", [ramp()] * 8, codec=codec, rate=25, options=options)
    frames = frames_of(tmp_path / "a.ts")
    assert [frame.index for frame in frames] == list(range(8))
    assert_like(frames[-1].image_bgr, ramp())


SIZES = [(48, 64), (96, 64), (72, 80), (49, 67), (48, 64)]


def test_the_size_of_jpegs_changes(tmp_path: Path) -> None:
    jpegs = [cv2.imencode(".jpg", ramp(size_hw), [cv2.IMWRITE_JPEG_QUALITY, 95])[1] for size_hw in SIZES]
    (tmp_path / "a.mjpeg").write_bytes(b"".join(jpeg.tobytes() for jpeg in jpegs))
    for frame, size_hw in zip(frames_of(tmp_path / "a.mjpeg"), SIZES, strict=True):
        assert_like(frame.image_bgr, ramp(size_hw), 4)


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "h264"), ("libx265", "hevc"), ("libx264", "ts")])
def test_the_size_of_a_stream_changes(tmp_path: Path, codec: str, suffix: str) -> None:
    sizes = [size_hw for size_hw in SIZES if size_hw != ODD]
    options, pieces = {"crf": "4", "x265-params": "log-level=none"}, []
    for size_hw in sizes:
        piece = io.BytesIO()
        container = {"format": {"ts": "mpegts"}.get(suffix, suffix)}
        encode(piece, [ramp(size_hw)] * 3, codec=codec, options=options, container=container)
        pieces.append(piece.getvalue())
    (tmp_path / f"a.{suffix}").write_bytes(b"".join(pieces))
    frames = frames_of(tmp_path / f"a.{suffix}")  # of the .ts, where pieces meet the packets' numbers do not fit
    assert [frame.size_hw for frame in frames] == [size_hw for size_hw in sizes for _ in range(3)]
    assert suffix == "ts" or not any(frame.damaged for frame in frames)
    for frame in frames:
        assert_like(frame.image_bgr, ramp(frame.size_hw))


@pytest.mark.parametrize(("codec", "pixel_format"), [("libx264", "yuv420p"), ("mjpeg", "yuvj422p"), ("ffv1", "bgra")])
def test_a_frame_that_is_kept_stays_as_it_is(tmp_path: Path, codec: str, pixel_format: str) -> None:
    path = tmp_path / "a.mkv"
    encode(path, [ramp(shift=n) for n in range(40)], codec=codec, pixel_format=pixel_format)
    kept, copies = [], []
    with open_source(path) as source:
        for frame in source.frames():
            planes = frame.pixels
            arrays = (planes.luma, *planes.chroma) if isinstance(planes, YuvPlanes) else (planes,)
            kept.append(arrays)
            copies.append([np.array(array) for array in arrays])
    gc.collect()
    for arrays, wanted in zip(kept, copies, strict=True):
        for array, copy in zip(arrays, wanted, strict=True):
            assert np.array_equal(np.asarray(array), copy)


def test_planes_are_not_copied() -> None:
    frame = av.VideoFrame(70, 48, "yuv420p")  # 70: rows are padded
    planes = pixels_of(frame)
    assert isinstance(planes, YuvPlanes)
    assert planes.luma.ctypes.data == np.frombuffer(memoryview(frame.planes[0]), np.uint8).ctypes.data
    assert planes.luma.shape == (48, 70)
    assert [plane.shape for plane in planes.chroma] == [(24, 35)] * 2
