"""Motion JPEG as cameras send it, rightly and wrongly."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.pixels import YuvPlanes
from ssd_edge.runtime.sources import mjpeg
from ssd_edge.runtime.sources.base import Frame, Source, SourceOptions
from ssd_edge.runtime.sources.find import open_source
from tests.runtime.sources.sample_video import encode, ramp
from tests.runtime.sources.servers import http_answer, raw_server

JPEG = bytes(cv2.imencode(".jpg", ramp(), [cv2.IMWRITE_JPEG_QUALITY, 95])[1])
HALF = JPEG[: len(JPEG) * 3 // 4]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n\r\n"
MULTIPART = HEAD % b"multipart/x-mixed-replace; boundary=f"


def part(jpeg: bytes, length: int | None = None, boundary: bytes = b"--f") -> bytes:
    told = len(jpeg) if length is None else length
    return b"%s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (boundary, told, jpeg)


def bare(jpeg: bytes) -> bytes:
    return b"--f\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg + b"\r\n"


def chunked(body: bytes, size: int = 700) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def read_all(source: Source, problem: str) -> list[Frame]:
    """All frames up to the error that ends a live source."""
    frames: list[Frame] = []
    with source, pytest.raises(SourceError, match=problem):
        frames.extend(source.frames())
    return frames


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=f\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@pytest.mark.parametrize(
    "answer",
    {
        "as it should be": MULTIPART + part(JPEG) * 5 + b"--f--\r\n",
        "no lengths": MULTIPART + bare(JPEG) * 5,
        "lengths too small": MULTIPART + part(JPEG, 9) * 5,
        "lengths too large": MULTIPART + part(JPEG, len(JPEG) + 500) * 5,
        "no first boundary": MULTIPART + part(JPEG, boundary=b"") * 5,
        "boundary after the part": MULTIPART + (JPEG + b"\r\n--f\r\n") * 5,
        "line feeds only": (MULTIPART + part(JPEG) * 5).replace(b"\r\n\r\n", b"\n\n"),
        "a preamble": MULTIPART + b"This is a multipart message.\r\n\r\n" + part(JPEG) * 5,
        "quoted boundary": HEAD % b'multipart/x-mixed-replace;boundary="--a b"' + part(JPEG, boundary=b"----a b") * 5,
        "no boundary": HEAD % b"multipart/x-mixed-replace" + part(JPEG) * 5,
        "capitals": HEAD % b"Multipart/X-Mixed-Replace; Boundary=f" + part(JPEG) * 5,
        "multipart/mixed": HEAD % b"multipart/mixed; boundary=f" + part(JPEG) * 5,
        "bare JPEGs": HEAD % b"image/jpeg" + JPEG * 5,
        "padded JPEGs": HEAD % b"image/jpg" + (JPEG + b"\0" * 64) * 5,
        "chunked": CHUNKED + chunked(part(JPEG) * 5),
        "HTTP/1.0": MULTIPART.replace(b"1.1", b"1.0") + part(JPEG) * 5,
    }.items(),
    ids=lambda item: item[0],
)
def test_frames_come_whatever_is_around_them(answer: tuple[str, bytes]) -> None:
    with raw_server(answer[1]) as server:
        source = open_source(f"http://{server.place}/video")
        assert (source.live, source.frame_count) == (True, None)
        frames = read_all(source, "stopped after 5 frames")
    assert [(frame.index, frame.damaged) for frame in frames] == [(index, False) for index in range(5)]
    assert source.corrupt == 0
    for frame in frames:
        assert isinstance(frame.pixels, YuvPlanes)
        assert np.abs(frame.image_bgr.astype(int) - ramp()).mean() < 4


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("enclose", [part, bare])
def test_one_damaged_frame_in_three(enclose: type[part], kept: bool) -> None:  # type: ignore[valid-type]
    with raw_server(MULTIPART + b"".join(map(enclose, [JPEG, HALF, JPEG] * 4))) as server:
        source = open_source(f"http://{server.place}/video", SourceOptions(damaged="keep" if kept else "skip"))
        frames = read_all(source, "stopped after 12 frames")
    assert source.corrupt == 4
    assert [(frame.index, frame.damaged) for frame in frames] == [
        (index, index % 3 == 1) for index in range(12) if kept or index % 3 != 1
    ]


def test_a_hundred_damaged_frames_in_a_row_are_enough() -> None:
    with raw_server(MULTIPART + part(JPEG) + part(HALF) * 99 + part(JPEG) + part(HALF) * 150) as server:
        source = open_source(f"http://{server.place}/video")
        frames = read_all(source, r"100 frames in a row are damaged; .*--damaged keep")
    assert [frame.index for frame in frames] == [0, 100]
    assert source.corrupt == 199


def test_the_size_changes() -> None:
    sizes = [(48, 64), (96, 64), (49, 67)]
    body = b"".join(part(bytes(cv2.imencode(".jpg", ramp(size_hw))[1])) for size_hw in sizes)
    with raw_server(MULTIPART + body) as server:
        frames = read_all(open_source(f"http://{server.place}/video"), "stopped")
    assert [frame.size_hw for frame in frames] == sizes


def test_a_single_picture_is_no_live_source() -> None:
    answer = http_answer(JPEG, Content_Type="image/jpeg")
    with raw_server(answer) as server, open_source(f"http://{server.place}/snapshot.jpg") as source:
        assert not source.live
        assert [frame.size_hw for frame in source.frames()] == [(48, 64)]


def test_no_jpeg_at_all() -> None:
    with raw_server(MULTIPART + b"--f\r\nContent-Type: text/plain\r\n\r\nbusy\r\n--f--") as server:
        read_all(open_source(f"http://{server.place}/video"), "gives no JPEG, although it says so")


def test_a_picture_above_the_limit_ends_the_connection() -> None:
    def endless(_: str) -> Iterator[bytes]:
        return itertools.chain([MULTIPART + part(JPEG) + HALF], itertools.repeat(b"\1" * 2**20))

    with raw_server(endless) as server:
        frames = read_all(open_source(f"http://{server.place}/video"), "a picture of more than 32 MiB")
    assert len(frames) == 1


def test_a_picture_that_trickles_in_is_no_frame_in_time() -> None:
    def trickle(_: str) -> Iterator[bytes]:
        yield MULTIPART + part(JPEG)
        for number in range(200):
            time.sleep(0.05)
            yield JPEG[number : number + 1]

    with raw_server(trickle) as server:
        source = open_source(f"http://{server.place}/video", SourceOptions(timeout_s=0.5))
        assert len(read_all(source, r"no frame within 0.5 s")) == 1


def test_noise_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "MAX_JPEG_BYTES", 10_000)
    noise = np.random.default_rng(0)
    for _ in range(20):
        body = JPEG + noise.integers(0, 256, 30_000, np.uint8).tobytes()
        with raw_server(MULTIPART + body) as server:
            read_all(open_source(f"http://{server.place}/video"), "more than|stopped|damaged")


@pytest.mark.parametrize("kept", [False, True])
def test_damaged_jpegs_in_a_file(tmp_path: Path, kept: bool) -> None:
    encode(tmp_path / "a.avi", [ramp(shift=n) for n in range(6)], codec="mjpeg", pixel_format="yuvj420p")
    video = bytearray((tmp_path / "a.avi").read_bytes())
    third = [at for at in range(video.index(b"movi"), len(video)) if video.startswith(b"00dc", at)][2]
    length = int.from_bytes(video[third + 4 : third + 8], "little")
    video[third + 8 + length * 3 // 4 : third + 8 + length] = bytes(length - length * 3 // 4)
    (tmp_path / "a.avi").write_bytes(video)
    with open_source(tmp_path / "a.avi", SourceOptions(damaged="keep" if kept else "skip")) as source:
        frames = list(source.frames())
    assert source.corrupt == 1
    assert [(frame.index, frame.damaged) for frame in frames] == [(n, n == 2) for n in range(6) if kept or n != 2]
    assert [frame.media_time_s for frame in frames] == pytest.approx([frame.index / 10 for frame in frames])
