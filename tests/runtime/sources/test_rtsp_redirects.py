"""Redirects of RTSP servers: followed within the host, refused elsewhere, and never with the password."""

import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.find import open_source
from tests.runtime.sources.servers import raw_server

OTHER_HOST = "127.0.0.2"
OPTIONS = SourceOptions(timeout_s=2, hwaccel="none")


def answer(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"RTSP/1.0 {status}", "CSeq: 1", *headers, "", ""]).encode()


def redirect(target: str) -> bytes:
    return answer("302 Moved Temporarily", f"Location: {target}")


LOCKED = answer("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"')


@pytest.mark.parametrize("login", ["", "me:s3cret@"])
def test_another_host_is_refused_or_asked_without_the_password(login: str) -> None:
    with (
        raw_server(LOCKED, host=OTHER_HOST) as other,
        raw_server(redirect(f"rtsp://{other.place}/x?token=s3cret")) as server,
    ):
        with pytest.raises(
            SourceError, match=r"leads to another host: rtsp://127\.0\.0\.2.*--allow-redirects"
        ) as caught:
            open_source(f"rtsp://{login}{server.place}/live", OPTIONS)
        assert "s3cret" not in str(caught.value)
        assert other.requests == []
        allowed = SourceOptions(timeout_s=2, hwaccel="none", allow_redirects=True)
        with pytest.raises(SourceError, match="cannot open rtsp"):
            open_source(f"rtsp://{login}{server.place}/live", allowed)
        assert other.requests
        assert not any("authorization" in request.lower() for request in other.requests)


def test_the_same_host_is_followed() -> None:
    def serve(request: str) -> bytes:
        return answer("404 Not Found") if "/there" in request else redirect(f"rtsp://{server.place}/there")

    with raw_server(serve) as server:
        with pytest.raises(SourceError, match="cannot open rtsp"):
            open_source(f"rtsp://me:s3cret@{server.place}/live", OPTIONS)
        asked = [request.split(" ", 2)[:2] for request in server.requests]
    assert asked[:2] == [["DESCRIBE", f"rtsp://{server.place}/{path}"] for path in ("live", "there")]
    assert all(address.endswith("/there") for _, address in asked[1:])


def test_only_what_may_lose_a_password_is_asked_for_a_description() -> None:
    with raw_server(LOCKED) as server:
        for login, method in [("", "OPTIONS"), ("me:s3cret@", "DESCRIBE")]:
            server.requests.clear()
            with pytest.raises(SourceError, match="cannot open"):
                open_source(f"rtsp://{login}{server.place}/live", OPTIONS)
            assert server.requests[0].startswith(method)


@pytest.mark.parametrize("target", ["http://127.0.0.1/x", "file:///etc/passwd", "udp://127.0.0.1:1"])
def test_something_else_than_rtsp_is_never_followed(target: str) -> None:
    allowed = SourceOptions(timeout_s=2, hwaccel="none", allow_redirects=True)
    with raw_server(redirect(target)) as server, pytest.raises(SourceError, match="not RTSP; that is never followed"):
        open_source(f"rtsp://{server.place}/live", allowed)


def test_a_circle() -> None:
    with raw_server(redirect("/again")) as server:
        with pytest.raises(SourceError, match="sends on to another address more than 5 times"):
            open_source(f"rtsp://{server.place}/live", OPTIONS)
        assert len(server.requests) == 6


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"RTSP/1.0 200 OK\r\n\r\nno description"])
def test_what_does_not_speak_rtsp(answer: bytes) -> None:
    with raw_server(answer) as server, pytest.raises(SourceError, match="cannot open rtsp://"):
        open_source(f"rtsp://{server.place}/live", OPTIONS)


@pytest.mark.parametrize("url", ["rtsp://me:p#ss@host/x", "rtsp://me:s3cret@[::1/x", "rtsp://me:s3cret@host:port/x"])
def test_an_address_that_cannot_be_read(url: str) -> None:
    with pytest.raises(SourceError, match=r"cannot open rtsp://\*\*\*@.*the address cannot be read") as caught:
        open_source(url, OPTIONS)
    assert "s3cret" not in str(caught.value)
