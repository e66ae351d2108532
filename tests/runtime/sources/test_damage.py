"""Video with damaged or missing bytes: what is damaged is counted, and skipped or marked; nothing crashes or hangs."""

import random
from pathlib import Path

import av
import numpy as np
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.base import Frame, SourceOptions
from ssd_edge.runtime.sources.find import open_source
from tests.runtime.sources.sample_video import encode

TS_PACKET = 188
FRAMES = 40


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    noise = np.random.default_rng(0).integers(0, 256, (96, 400, 3), np.uint8)
    return [noise[:, 2 * n : 2 * n + 128].copy() for n in range(FRAMES)]  # moves


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory, pictures: list[np.ndarray]) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("streams")
    found = {}
    for name, codec, options in [
        ("a.ts", "libx264", {"g": "8"}),
        ("a.h264", "libx264", {"g": "8"}),
        ("a.hevc", "libx265", {"x265-params": "log-level=none:keyint=8"}),
        ("a.avi", "mpeg4", {"g": "8"}),
        ("a.mpg", "mpeg2video", {"g": "8"}),
        ("a.mkv", "libx264", {"g": "8"}),
        ("a.mp4", "libx264", {"g": "8"}),
        ("a.mjpeg", "mjpeg", {}),
    ]:
        pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        encode(folder / name, pictures, codec=codec, pixel_format=pixel_format, rate=25, options=options)
        found[name] = (folder / name).read_bytes()
    return found


def read(path: Path, data: bytes, damaged: str = "skip") -> tuple[list[Frame], int]:
    """The frames that there are, and how many were counted as damaged."""
    path.write_bytes(data)
    with open_source(path, SourceOptions(damaged=damaged)) as source:
        return list(source.frames()), source.corrupt


def with_errors(data: bytes, seed: int, share: float = 0.002) -> bytes:
    """Bytes changed all over, but not in what comes first or last, such as an index."""
    noise, broken = random.Random(seed), bytearray(data)
    for _ in range(round(share * len(data))):
        broken[noise.randrange(len(data) // 4, len(data) * 7 // 8)] = noise.randrange(256)
    return bytes(broken)


@pytest.mark.parametrize("name", ["a.ts", "a.h264", "a.avi", "a.mpg", "a.mkv", "a.mp4", "a.mjpeg"])
def test_damaged_frames_are_skipped_or_marked(tmp_path: Path, streams: dict[str, bytes], name: str) -> None:
    broken = with_errors(streams[name], seed=1)
    skipped, counted = read(tmp_path / name, broken)
    kept, counted_again = read(tmp_path / name, broken, "keep")
    assert counted == counted_again > 0
    assert not any(frame.damaged for frame in skipped)
    assert [frame.index for frame in kept if not frame.damaged] == [frame.index for frame in skipped]
    assert 0 < len(skipped) < len(kept) <= FRAMES
    assert sum(frame.damaged for frame in kept) <= counted


def test_lost_packets_of_a_transport_stream(tmp_path: Path, streams: dict[str, bytes]) -> None:
    whole = streams["a.ts"]
    packets = [whole[at : at + TS_PACKET] for at in range(0, len(whole), TS_PACKET)]
    lossy = b"".join(packet for number, packet in enumerate(packets) if number < 50 or number % 97)
    frames, counted = read(tmp_path / "a.ts", lossy)
    assert counted > 0
    assert FRAMES // 4 < len(frames) < FRAMES
    assert [frame.media_time_s for frame in frames] == sorted(frame.media_time_s or 0 for frame in frames)


def test_sound_that_comes_later_does_no_harm(tmp_path: Path, streams: dict[str, bytes]) -> None:
    with av.open(str(tmp_path / "b.ts"), "w") as out:
        video, sound = out.add_stream("libx264", rate=25), out.add_stream("mp2", rate=48000)
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        for number in range(FRAMES):
            samples = np.zeros((1, 2 * 1152), np.int16)
            tone = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            tone.sample_rate, tone.pts = 48000, number * 1152
            out.mux(sound.encode(tone))
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((96, 128, 3), np.uint8), format="bgr24")))
        out.mux(video.encode())
        out.mux(sound.encode())
    nothing = (b"\x47\x1f\xff\x10" + b"\xff" * (TS_PACKET - 4)) * 30_000  # more than what FFmpeg looks at in advance
    frames, _ = read(tmp_path / "a.ts", streams["a.ts"] + nothing + (tmp_path / "b.ts").read_bytes(), "keep")
    assert len(frames) == 2 * FRAMES


def test_nothing_is_damaged_where_nothing_is(tmp_path: Path, streams: dict[str, bytes]) -> None:
    for name, data in streams.items():
        frames, counted = read(tmp_path / name, data)
        assert (len(frames), counted) == (FRAMES, 0), name


def test_a_hundred_damaged_frames_in_a_row_are_enough(tmp_path: Path, streams: dict[str, bytes]) -> None:
    jpegs = streams["a.mjpeg"].split(b"\xff\xd8")[1:]
    broken = b"".join(b"\xff\xd8" + jpeg[: len(jpeg) // 2] for jpeg in jpegs) * 5
    with pytest.raises(SourceError, match=r"100 frames in a row are damaged; .*--damaged keep"):
        read(tmp_path / "a.mjpeg", streams["a.mjpeg"] + broken)
    frames, counted = read(tmp_path / "a.mjpeg", streams["a.mjpeg"] + broken, "keep")
    assert counted == 5 * FRAMES == sum(frame.damaged for frame in frames)
    assert [frame.index for frame in frames] == list(range(6 * FRAMES))


@pytest.mark.parametrize("name", ["a.ts", "a.h264", "a.hevc", "a.avi", "a.mpg", "a.mkv", "a.mp4", "a.mjpeg"])
def test_any_damage_ends_in_frames_or_an_error(tmp_path: Path, streams: dict[str, bytes], name: str) -> None:
    noise, whole = random.Random(2), streams[name]
    read_some = 0
    for number in range(25):
        broken = bytearray(with_errors(whole, number, noise.choice([0.0, 0.0005, 0.01, 0.1])))
        at, length = noise.randrange(len(broken)), noise.randrange(len(broken) // 2)
        change = noise.randrange(4)
        if change == 0:
            del broken[at:]
        elif change == 1:
            del broken[at : at + length]
        elif change == 2:
            broken[at : at + length] = noise.randbytes(length)
        else:
            broken[at:at] = noise.randbytes(length)
        try:
            frames, _ = read(tmp_path / name, bytes(broken), noise.choice(["skip", "keep"]))
        except SourceError:
            continue
        read_some += bool(frames)
        assert all(frame.image_bgr.shape[2] == 3 for frame in frames)
    assert read_some > 1  # an mp4 has its index in one place
