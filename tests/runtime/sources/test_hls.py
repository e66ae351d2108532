"""Playlists: complete ones, growing ones, and entries that lead elsewhere."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.find import open_source
from ssd_edge.runtime.sources.played import PlayedSource
from tests.runtime.sources.sample_video import encode, ramp
from tests.runtime.sources.servers import http_answer, raw_server, web_server

OTHER_HOST = "127.0.0.2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A playlist of three segments of one second each, of 20 frames."""
    folder = tmp_path_factory.mktemp("hls")
    options = {"hls_time": "1", "hls_list_size": "0"}
    pictures = [ramp(shift=n % 8) for n in range(60)]
    encode(folder / "a.m3u8", pictures, rate=20, options={"g": "20"}, container={"format": "hls", "options": options})
    assert len(list(folder.glob("*.ts"))) == 3
    return folder


def playlist(*entries: str, seconds: float = 1.0, complete: bool = True) -> bytes:
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1", "#EXT-X-MEDIA-SEQUENCE:0"]
    for entry in entries:
        lines += [f"#EXTINF:{seconds},", entry]
    return "\n".join([*lines, "#EXT-X-ENDLIST" if complete else "", ""]).encode()


def served(folder: Path, answers: dict[str, bytes], request: str) -> bytes:
    path = request.split(" ", 2)[1]
    if path in answers:
        return http_answer(answers[path], Content_Type="application/vnd.apple.mpegurl")
    return http_answer((folder / path.lstrip("/")).read_bytes(), Content_Type="video/mp2t")


def test_a_complete_playlist_is_a_file(folder: Path) -> None:
    with web_server(folder) as address, open_source(f"{address}/a.m3u8") as source:
        assert not source.live
        times = [frame.media_time_s for frame in source.frames()]
    assert times == pytest.approx([n / 20 for n in range(60)], abs=0.001)


def test_a_playlist_without_a_length_is_still_a_file(folder: Path) -> None:
    def answer(request: str) -> bytes:
        body = served(folder, {"/b.m3u8": (folder / "a.m3u8").read_bytes()}, request)
        return b"\r\n".join(line for line in body.split(b"\r\n") if not line.startswith(b"Content-Length"))

    with raw_server(answer) as server, open_source(f"http://{server.place}/b.m3u8") as source:
        assert not source.live
        assert len(list(source.frames())) == 60


def test_the_best_of_several_variants_is_read(folder: Path) -> None:
    master = b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000,RESOLUTION=64x48\na.m3u8\n"
    answers = {"/master.m3u8": master, "/a.m3u8": (folder / "a.m3u8").read_bytes()}
    with raw_server(lambda request: served(folder, answers, request)) as server:
        with open_source(f"http://me:s3cret@{server.place}/master.m3u8") as source:
            assert len(list(source.frames())) == 60
        assert {request.split(" ", 2)[1] for request in server.requests} >= {"/a.m3u8", "/a0.ts", "/a1.ts", "/a2.ts"}


def test_a_growing_playlist_is_live_and_keeps_the_pace_of_its_clock(folder: Path) -> None:
    begin = time.monotonic()

    def answer(request: str) -> bytes:
        known = min(3, 1 + int(time.monotonic() - begin))
        growing = playlist(*(f"a{n}.ts" for n in range(known)), complete=known == 3)
        return served(folder, {"/live.m3u8": growing}, request)

    with raw_server(answer) as server, open_source(f"http://{server.place}/live.m3u8") as source:
        assert isinstance(source, PlayedSource)
        assert source.live
        frames = list(source.frames())
    assert len(frames) == 60
    assert np.diff([frame.time_s for frame in frames]) == pytest.approx(0.05, abs=0.001)
    assert frames[-1].captured_at - frames[0].captured_at > 2.9


@pytest.mark.parametrize("in_master", [False, True])
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (f"http://{OTHER_HOST}:1/a0.ts", "leads to another host: .*--allow-redirects"),
        ("file:///etc/passwd", "is no video|not HTTP; that is never followed"),
        ("ftp://127.0.0.1/a.ts", "is no video|not HTTP; that is never followed"),
        ("rtsp://me:s3cret@127.0.0.1/a.ts", "is no video|not HTTP; that is never followed"),
        ("concat:a0.ts|file:///etc/passwd", "is no video|not HTTP|has nothing at this path"),
    ],
)
def test_entries_that_lead_elsewhere_are_refused(folder: Path, entry: str, message: str, in_master: bool) -> None:
    answers = {"/a.m3u8": playlist(entry)}
    if in_master:
        answers = {"/a.m3u8": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{entry}\n".encode()}
    for allowed in (False, True) if "HTTP" in message else (False,):
        with raw_server(lambda request: served(folder, answers, request)) as server:
            options = SourceOptions(allow_redirects=allowed, timeout_s=5)
            with (
                pytest.raises(SourceError, match=message) as caught,
                open_source(f"http://{server.place}/a.m3u8", options) as source,
            ):
                list(source.frames())
            assert "s3cret" not in str(caught.value)


def test_entries_elsewhere_where_they_are_allowed(folder: Path) -> None:
    with raw_server(lambda request: served(folder, {}, request), host=OTHER_HOST) as other:
        answers = {"/a.m3u8": playlist(*(f"http://{other.place}/a{n}.ts" for n in range(3)))}
        with raw_server(lambda request: served(folder, answers, request)) as server:
            options = SourceOptions(allow_redirects=True)
            with open_source(f"http://me:s3cret@{server.place}/a.m3u8", options) as source:
                assert len(list(source.frames())) == 60
        assert len(other.requests) == 3
        assert not any("authorization" in request.lower() for request in other.requests)


def test_an_entry_elsewhere_in_the_middle(folder: Path) -> None:
    answers = {"/a.m3u8": playlist("a0.ts", f"http://{OTHER_HOST}:1/a1.ts", "a2.ts")}
    refused = pytest.raises(SourceError, match="leads to another host")
    with raw_server(lambda request: served(folder, answers, request)) as server, refused:
        list(open_source(f"http://{server.place}/a.m3u8").frames())


@pytest.mark.parametrize(
    "body",
    [
        playlist(),
        playlist("missing.ts"),
        b"#EXTM3U\n",
        b"#EXTM3U\n" + bytes(range(256)) * 20,
        b"#EXTM3U\n#EXTINF:1e999,\na0.ts\n#EXT-X-KEY:METHOD=AES-128,URI=\"file:///etc/passwd\"\n#EXTINF:1,\na1.ts\n",
        b"#EXTM3U\n#EXT-X-MAP:URI=\"file:///etc/passwd\"\n#EXTINF:1,\na0.ts\n#EXT-X-ENDLIST\n",
    ],
    ids=["empty", "missing", "cut off", "garbage", "key", "map"],
)  # fmt: skip
def test_playlists_that_cannot_be_read(folder: Path, body: bytes) -> None:
    def answer(request: str) -> bytes | Iterator[bytes]:
        return http_answer(b"", "404 Not Found") if "missing" in request else served(folder, {"/a.m3u8": body}, request)

    options = SourceOptions(timeout_s=2)
    with raw_server(answer) as server, pytest.raises(SourceError) as caught:
        list(open_source(f"http://{server.place}/a.m3u8", options).frames())
    assert "\n" not in str(caught.value)
    assert server.place in str(caught.value)
