"""JPEGs cut out of a run of bytes, and damage that is seen."""

import random
from collections.abc import Sequence
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.packet import Packet

from ssd_edge.runtime.sources.jpeg import JpegCutter, JpegDecoder
from tests.runtime.sources.sample_video import ramp

QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 90]


def jpeg_of(size_hw: tuple[int, int] = (48, 64), *options: int) -> bytes:
    return bytes(cv2.imencode(".jpg", ramp(size_hw), [*QUALITY, *options])[1])


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


WHOLE = jpeg_of()
RESTARTS = jpeg_of((48, 64), cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
PROGRESSIVE = jpeg_of((48, 64), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
WITH_THUMBNAIL = WHOLE[:2] + segment(0xE1, b"Exif\0\0" + jpeg_of((8, 8))) + WHOLE[2:]
WITH_COMMENT = WHOLE[:2] + segment(0xFE, b"\xff\xd9 \xff\xd8 no markers") + WHOLE[2:]
FILLED = WHOLE[:2] + b"\xff\xff\xff" + WHOLE[2:]  # markers may be preceded by any number of 0xff
KINDS = {
    "whole": WHOLE,
    "restarts": RESTARTS,
    "progressive": PROGRESSIVE,
    "thumbnail": WITH_THUMBNAIL,
    "comment": WITH_COMMENT,
    "filled": FILLED,
}


def cut(data: bytes, piece: int = 1 << 30, limit: int = 1 << 20) -> list[bytes]:
    cutter = JpegCutter(limit)
    found = [jpeg for start in range(0, len(data), piece) for jpeg in cutter.feed(data[start : start + piece])]
    return [*found, rest] if (rest := cutter.rest()) else found


def packet(data: bytes) -> "Packet[Any]":
    return av.Packet(data)


@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 30])
@pytest.mark.parametrize(
    "between", [b"", b"\r\n--f\r\nContent-Length: 9\r\n\r\n", b"\0" * 50, b"\xff" * 3, b"\xff\xd9"]
)
def test_whole_jpegs_are_found_whatever_is_between_them(between: bytes, piece: int) -> None:
    parts = list(KINDS.values())
    assert cut(between + between.join(parts) + between, piece) == parts


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_one_that_is_cut_off_ends_where_the_next_begins(piece: int) -> None:
    scan = WHOLE.index(b"\xff\xda")
    for end in (10, 200, scan - 1, scan + 20, len(WHOLE) - 40, len(WHOLE) - 1):
        found = cut(WHOLE[:end] + WHOLE + RESTARTS, piece)
        assert found[-1] == RESTARTS
        assert found == cut(WHOLE[:end] + WHOLE + RESTARTS)
        if end > scan:
            assert found == [WHOLE[:end], WHOLE, RESTARTS]


def test_no_end_ever() -> None:
    assert cut(WHOLE[:-2]) == [WHOLE[:-2]]
    assert cut(b"--f\r\nno picture at all\r\n" * 100) == []
    with pytest.raises(OverflowError):
        cut(WHOLE[:-2] + b"\1" * 5000, 100, limit=5000)


def test_noise_before_a_picture_is_not_kept() -> None:
    cutter = JpegCutter(limit=1000)
    assert [jpeg for _ in range(100) for jpeg in cutter.feed(b"\xfe" * 900)] == []


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_random_bytes_give_the_same_in_any_pieces(piece: int) -> None:
    noise = random.Random(piece)
    for _ in range(40):
        runs = [
            noise.randbytes(noise.randrange(60)),
            *(damage(noise, noise.choice(list(KINDS.values()))) for _ in "ab"),
        ]
        data = b"".join(runs)
        assert cut(data, piece) == cut(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_jpeg_is_not_damaged(kind: str) -> None:
    picture = JpegDecoder().decode(packet(KINDS[kind]))
    assert picture is not None
    wanted = cv2.imdecode(np.frombuffer(KINDS[kind], np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(picture.to_ndarray(format="bgr24").astype(int) - wanted).mean() < 2


@pytest.mark.parametrize("tail", [b"\0" * 40, b"\r\n", b"\xff\xff", b"--f"])
def test_padding_behind_the_end_is_no_damage(tail: bytes) -> None:
    assert JpegDecoder().decode(packet(WHOLE + tail)) is not None


@pytest.mark.parametrize("kind", ["whole", "restarts", "progressive", "thumbnail"])
def test_a_jpeg_that_is_cut_off_anywhere_is_damaged(kind: str) -> None:
    jpeg, decoder = KINDS[kind], JpegDecoder()
    for end in range(1, len(jpeg) - 1, 13):
        assert decoder.decode(packet(jpeg[:end])) is None, end
    assert decoder.decode(packet(jpeg)) is not None  # what was damaged leaves nothing behind


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_a_hole_in_the_data_is_damage(share: float) -> None:
    jpeg, begin = jpeg_of((96, 128)), 700
    hole = round(share * (len(jpeg) - begin))
    assert JpegDecoder().decode(packet(jpeg[:begin] + jpeg[begin + hole :])) is None
    assert JpegDecoder().decode(packet(jpeg[:begin] + jpeg[begin : len(jpeg) // 2] + b"\xff\xd9")) is None


def test_what_there_is_of_a_damaged_picture() -> None:
    jpeg, decoder = jpeg_of((96, 128)), JpegDecoder()
    half = jpeg[: len(jpeg) * 2 // 3]
    assert decoder.decode(packet(half)) is None
    picture = decoder.rescue(packet(half))
    assert picture is not None
    upper = picture.to_ndarray(format="bgr24")[:32].astype(int)
    assert np.abs(upper - ramp((96, 128))[:32]).mean() < 4
    assert decoder.rescue(packet(jpeg[:100])) is None
    assert decoder.decode(packet(jpeg)) is not None


def test_the_header_of_a_giant_is_refused() -> None:
    frame_header = WHOLE.index(b"\xff\xc0")
    giant = bytearray(WHOLE)
    giant[frame_header + 5 : frame_header + 9] = b"\xff\xdc\xff\xdc"  # 65500×65500
    decoder = JpegDecoder()
    assert decoder.decode(packet(bytes(giant))) is None
    assert decoder.rescue(packet(bytes(giant))) is None


def damage(noise: random.Random, jpeg: bytes) -> bytes:
    """Bytes changed, taken out, put in, or the end cut off."""
    data = bytearray(jpeg)
    for _ in range(noise.randrange(1, 6)):
        at = noise.randrange(len(data))
        change = noise.randrange(4)
        if change == 0:
            data[at] = noise.randrange(256)
        elif change == 1:
            del data[at : at + noise.randrange(40)]
        elif change == 2:
            data[at:at] = noise.randbytes(noise.randrange(40))
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_ends_more_than_one_picture(kind: str) -> None:
    noise, decoder = random.Random(7), JpegDecoder()
    seen: Sequence[bool] = []
    for _ in range(100):
        broken = damage(noise, KINDS[kind])
        picture = decoder.decode(packet(broken)) if broken else None
        rescued = decoder.rescue(packet(broken)) if broken else None
        for found in (picture, rescued):
            assert found is None or found.to_ndarray(format="bgr24").shape[2] == 3
        seen = [*seen, picture is None]
    assert any(seen)
    assert decoder.decode(packet(WHOLE)) is not None
