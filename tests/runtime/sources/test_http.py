"""What web servers answer, and what the user is told of it; who may be asked, and who gets the password."""

import hashlib
import random
import re
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.find import open_source
from tests.runtime.sources.sample_video import encode
from tests.runtime.sources.servers import http_answer, raw_server, silent_port

OTHER_HOST = "127.0.0.2"
USER, PASSWORD = "user.name", "s3cret@/:?#&ü"
LOGIN = "user.name:s3cret%40%2F%3A%3F%23%26%C3%BC"
NOT_FOUND = http_answer(b"nothing", "404 Not Found")
Answer = Callable[[str], bytes]


@pytest.fixture(scope="module")
def movies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A video of ten frames: mp4 with its index at the end and at the beginning, and a transport stream."""
    folder = tmp_path_factory.mktemp("movies")
    noise = np.random.default_rng(0).integers(0, 256, (10, 240, 320, 3), np.uint8)  # much data, so that seeking pays
    found = {}
    for name, options in [("end.mp4", {}), ("begin.mp4", {"movflags": "faststart"}), ("a.ts", {})]:
        encode(folder / name, list(noise), container={"options": options})
        found[name] = (folder / name).read_bytes()
    return found


def count(url: str, **options: object) -> int:
    with open_source(url, SourceOptions(**options)) as source:  # type: ignore[arg-type]
        return len(list(source.frames()))


def path_of(request: str) -> str:
    return request.split(" ", 2)[1]


def header_of(request: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*?)\r$", request, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else ""


def redirect(target: str, status: str = "302 Found") -> bytes:
    return http_answer(b"", status, Location=target)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("401 Unauthorized", r"asks for a user and password \(401\); .*http://USER:PASSWORD@"),
        ("403 Forbidden", r"does not allow this \(403\); check the user's rights"),
        ("404 Not Found", r"has nothing at this path \(404\)"),
        ("410 Gone", r"has nothing at this path \(410\)"),
        ("429 Too Many Requests", r"answers 429 Too Many Requests"),
        ("500 Internal Server Error", r"answers 500 .*the device has trouble"),
        ("503 Service Unavailable", r"answers 503 .*too many viewers"),
        ("302 Found", r"sends on to another address .*or to none \(302\)"),
    ],
)
def test_a_refusal_says_what_to_do(status: str, message: str) -> None:
    with raw_server(http_answer(b"no", status)) as server, pytest.raises(SourceError, match=message) as caught:
        open_source(f"http://{server.place}/live?token=s3cret")
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (http_answer(b"<html>", Content_Type="text/html; charset=utf-8"), r"is a web page \(text/html\), such as"),
        (http_answer(b"<html>", Content_Type="application/xhtml+xml"), "is a web page"),
        (http_answer(b"words, words", Content_Type="text/plain"), r"what it sends \(text/plain\) is no video"),
        (http_answer(b""), "is no video that FFmpeg knows"),
        (b"RTSP/1.0 400 Bad Request\r\n\r\n", r"the answer is not HTTP \(BadStatusLine\); check the port"),
        (b"", "the answer is not HTTP|check address and port"),
    ],
)
def test_what_is_no_video(answer: bytes, message: str) -> None:
    with raw_server(answer) as server, pytest.raises(SourceError, match=message):
        open_source(f"http://{server.place}/live")


def test_nobody_there() -> None:
    with silent_port() as port:
        pass
    with pytest.raises(SourceError, match="the connection is refused; check the port"):
        open_source(f"http://127.0.0.1:{port}/live")
    with pytest.raises(SourceError, match="the name of the host is not known"):
        open_source("http://no-such-camera.invalid/live")


@pytest.mark.parametrize("url", ["http://me:p#ss@host/x", "http://me:s3cret@[::1/x", "http://me:s3cret@host:port/x"])
def test_an_address_that_cannot_be_read(url: str) -> None:
    with pytest.raises(SourceError, match=r"cannot open http://\*\*\*@") as caught:
        open_source(url)
    assert not re.search("s3cret|p#ss", str(caught.value))


def asking(scheme: str, *, others: bytes = b"") -> Answer:
    """A server that wants the password: `basic`, or of a digest the algorithm's name."""

    def answer(request: str) -> bytes:
        sent = header_of(request, "Authorization")
        if scheme == "basic" and sent == "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode():
            return http_answer(b"x", "204 No Content")
        if scheme != "basic" and sent.startswith("Digest "):
            fields = dict(re.findall(r'(\w+)="?([^",]*)"?', sent))
            texts = f"{USER}:a realm:{PASSWORD}", f"GET:{path_of(request)}"
            kind = scheme.replace("-", "").lower()
            secret, what = (hashlib.new(kind, text.encode()).hexdigest() for text in texts)
            plain = ":".join((secret, "n0nce", fields["nc"], fields["cnonce"], "auth", what))
            if fields["response"] == hashlib.new(kind, plain.encode()).hexdigest():
                return http_answer(b"x", "204 No Content")
        challenge = 'Digest realm="a realm", nonce="n0nce", qop="auth", algorithm=' + scheme
        if scheme == "basic":
            challenge = 'Basic realm="a realm"'
        own = f"WWW-Authenticate: {challenge}\r\n".encode()
        return b"HTTP/1.1 401 Unauthorized\r\n" + others + own + b"Content-Length: 0\r\n\r\n"

    return answer


OTHER_CHALLENGES = {
    "alone": b"",
    "after another digest": b'WWW-Authenticate: Digest realm="r", nonce="m", qop="auth", algorithm=SHA-512-256\r\n',
    "after Negotiate": b"WWW-Authenticate: Negotiate\r\n",
}


@pytest.mark.parametrize("others", OTHER_CHALLENGES)
@pytest.mark.parametrize("scheme", ["basic", "MD5", "SHA-256"])
def test_a_password_is_sent_as_the_server_wants_it(scheme: str, others: str) -> None:
    with raw_server(asking(scheme, others=OTHER_CHALLENGES[others])) as server:
        for login, message in [
            (f"{LOGIN}@", "is no video that FFmpeg knows"),  # 204: it was let in
            ("user.name:wr0ng@", r"does not accept this user and password \(401\)"),
            ("", r"asks for a user and password \(401\)"),
        ]:
            with pytest.raises(SourceError, match=message) as caught:
                open_source(f"http://{login}{server.place}/live?channel=1")
            assert "s3cret" not in str(caught.value)
            assert "wr0ng" not in str(caught.value)
        assert not any(PASSWORD in request or "s3cret" in request for request in server.requests)


@pytest.mark.parametrize(
    "begin", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\nG"]
)
def test_a_server_that_falls_silent_while_it_is_opened(begin: bytes) -> None:
    def answer(_: str) -> Iterator[bytes]:
        yield begin
        time.sleep(3)

    with raw_server(answer) as server, pytest.raises(SourceError, match=r"(no answer|no usable data) within 0\.[345]"):
        open_source(f"http://me:s3cret@{server.place}/live", SourceOptions(timeout_s=0.3))


@pytest.mark.parametrize("pause_s", [0.02, 3.0])
def test_a_server_that_falls_silent_or_trickles_later(movies: dict[str, bytes], pause_s: float) -> None:
    def answer(_: str) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + movies["a.ts"] * 3
        for _number in range(round(3 / pause_s)):
            time.sleep(pause_s)
            yield b"\x47"

    with raw_server(answer) as server:
        source = open_source(f"http://{server.place}/live", SourceOptions(timeout_s=1))
        assert source.live
        with source, pytest.raises(SourceError, match=r"no frame within 1 s"):
            list(source.frames())


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_a_redirect_within_the_host_is_followed(movies: dict[str, bytes], status: str) -> None:
    answers = {"/a": redirect("/b/c", status), "/b/c": http_answer(movies["begin.mp4"])}
    with raw_server(lambda request: answers.get(path_of(request), NOT_FOUND)) as server:
        assert count(f"http://{server.place}/a") == 10


@pytest.mark.parametrize("login", ["", "thief:s3cret@"])
def test_a_redirect_elsewhere_is_followed_only_where_it_is_allowed_and_without_the_password(
    movies: dict[str, bytes], login: str
) -> None:
    def elsewhere(request: str) -> bytes:
        return http_answer(movies["begin.mp4"]) if "/movie" in request else asking("basic")(request)

    with raw_server(elsewhere, host=OTHER_HOST) as other:
        with raw_server(lambda request: redirect(f"http://{login}{other.place}{path_of(request)}")) as server:
            for path in ("/movie", "/locked"):
                with pytest.raises(SourceError, match=r"leads to another host: .*--allow-redirects") as caught:
                    open_source(f"http://{LOGIN}@{server.place}{path}")
                assert "s3cret" not in str(caught.value)
            assert other.requests == []
            assert count(f"http://{LOGIN}@{server.place}/movie", allow_redirects=True) == 10
            with pytest.raises(SourceError, match=r"\(401\)"):
                open_source(f"http://{LOGIN}@{server.place}/locked", SourceOptions(allow_redirects=True))
        assert len(other.requests) > 1
        assert not any("authorization" in request.lower() for request in other.requests)


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "rtsp://127.0.0.1/a", "data:,x"])
def test_a_redirect_to_what_is_not_http_is_never_followed(target: str, allowed: bool) -> None:
    with raw_server(redirect(target)) as server, pytest.raises(SourceError, match="not HTTP; that is never followed"):
        open_source(f"http://{server.place}/live", SourceOptions(allow_redirects=allowed))


def test_redirects_in_a_circle() -> None:
    with raw_server(redirect("/again")) as server:
        with pytest.raises(SourceError, match="sends on to another address more than 5 times") as caught:
            open_source(f"http://{server.place}/live")
        assert "\n" not in str(caught.value)
        assert len(server.requests) < 10


def ranges(movie: bytes, *, length: int | None = None) -> Answer:
    """A server of one file, with `Range`; it may lie about the length."""

    def answer(request: str) -> bytes:
        told = str(len(movie) if length is None else length)
        if asked := re.fullmatch(r"bytes=(\d+)-", header_of(request, "Range")):
            start = int(asked[1])
            rest = movie[start:]
            return http_answer(rest, "206 Partial Content", Content_Range=f"bytes {start}-{told}/{told}")
        return http_answer(movie, Content_Length=told)

    return answer


@pytest.mark.parametrize("name", ["end.mp4", "begin.mp4", "a.ts"])
@pytest.mark.parametrize("with_range", [False, True])
def test_videos_with_and_without_ranges(movies: dict[str, bytes], name: str, with_range: bool) -> None:
    answer = ranges(movies[name]) if with_range else http_answer(movies[name])
    with raw_server(answer) as server, open_source(f"http://{server.place}/a%20b/ü ä.mp4") as source:
        assert not source.live
        frames = list(source.frames())
        assert [frame.index for frame in frames] == list(range(10))
        assert server.requests[0].startswith("GET /a%20b/%C3%BC%20%C3%A4.mp4 HTTP/1.1")
        ranges_asked = [header_of(request, "Range") for request in server.requests]
    assert any(ranges_asked) == (name != "begin.mp4")
    assert len(ranges_asked) < 6


@pytest.mark.parametrize("name", ["begin.mp4", "a.ts"])
@pytest.mark.parametrize("lie", [0.5, 0.9, 1.1, 1000.0])
def test_a_server_that_lies_about_the_length(movies: dict[str, bytes], name: str, lie: float) -> None:
    told = round(len(movies[name]) * lie)
    with raw_server(ranges(movies[name], length=told)) as server, open_source(f"http://{server.place}/a") as source:
        found = len(list(source.frames()))
    assert found == 10 if lie > 1 else 0 < found <= 10


@pytest.mark.parametrize("told", ["-5", "x", "1e3", "٣", ""])
def test_a_length_that_is_none(movies: dict[str, bytes], told: str) -> None:
    with raw_server(http_answer(movies["a.ts"], Content_Length=told)) as server:
        source = open_source(f"http://{server.place}/a")
        with source, pytest.raises(SourceError, match="stopped after 10 frames"):
            list(source.frames())


def test_a_certificate_that_a_camera_signed_itself(movies: dict[str, bytes], tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=camera"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with raw_server(ranges(movies["end.mp4"]), tls=tls) as server:
        assert count(f"https://{server.place}/a.mp4") == 10
        with pytest.raises(SourceError, match="cannot open http"):
            open_source(f"http://{server.place}/a.mp4")


def test_any_answer_ends_in_an_error_or_in_frames(movies: dict[str, bytes]) -> None:
    noise, whole = random.Random(3), http_answer(movies["a.ts"], Content_Type="video/mp2t")
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(noise.randrange(1, 8)):
            at = noise.choice([noise.randrange(120), noise.randrange(len(broken))])
            broken[at : at + noise.randrange(3)] = noise.randbytes(noise.randrange(3))
        with raw_server(bytes(broken)) as server, suppress(SourceError):
            count(f"http://{server.place}/a", timeout_s=2)
