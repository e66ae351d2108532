"""Who is shown what: tokens, cookies, names of this machine."""

import itertools
import json
from pathlib import Path

import pytest

from ssd_edge.errors import UsageError
from ssd_edge.runtime.sinks.web.access import choose_token
from ssd_edge.runtime.sinks.web.server import WebPreview
from tests.runtime.sinks.web.previews import TOKEN, get, port_of, result, write

SECRET_PATHS = ("/", "/live", "/metrics", "/page.css", "/page.js", "/page.svg", "/nothing", "//", "/healthz/")


def test_without_the_token_nothing_is_shown(closed_preview: WebPreview) -> None:
    write(closed_preview, result())
    offers = (
        ("Host", "x/healthz?"),
        ("X", ""),
        ("Authorization", "Bearer 0123456789abcdeX"),
        ("Authorization", "Bearer "),
        ("Authorization", "Basic 0123456789abcdef"),
        ("Authorization", "Bearer 0123456789abcdef\xe9"),
        ("Cookie", "ssd_edge_1=0123456789abcdef"),
    )
    for name, value in offers:
        for path in (*SECRET_PATHS, "/?token=0123456789abcdeX", "/?token=", "/live?token=0123456789abcdef"):
            status, headers, body = get(closed_preview, path, **{name: value})
            assert (status, body[:4]) == (401, b"401:")
            assert not any(secret in body for secret in (b"gate", b"img", b"ssd_edge", TOKEN.value.encode()))
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert headers["Set-Cookie"] is None
        status, _, body = get(closed_preview, "/healthz", **{name: value})
        assert (status, json.loads(body)) == (200, {"status": "ok"})


def test_programs_send_the_token_in_a_header(closed_preview: WebPreview) -> None:
    write(closed_preview, result())
    bearer = {"Authorization": f"Bearer {TOKEN.value}"}
    assert b'ssd_edge_frames_total{source="gate"} 1.0' in get(closed_preview, "/metrics", **bearer)[2]
    assert json.loads(get(closed_preview, "/healthz", **bearer)[2])["sources"][0]["source"] == "gate"


def test_the_cookie_is_of_this_port(closed_preview: WebPreview) -> None:
    status, headers, _ = get(closed_preview, f"/?token={TOKEN.value}")
    assert (status, headers["Location"]) == (303, "./")
    assert headers["Set-Cookie"].startswith(f"ssd_edge_{port_of(closed_preview)}={TOKEN.value};")
    assert get(closed_preview, "/", Cookie=headers["Set-Cookie"].partition(";")[0])[0] == 200


def test_another_name_for_this_machine_shows_nothing(preview: WebPreview) -> None:
    write(preview, result())
    hosts = ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[", "192.168.0.2", "evil/healthz?")
    for host, path in itertools.product(hosts, SECRET_PATHS):
        assert get(preview, path, Host=host)[0] == 403, (host, path)
    assert json.loads(get(preview, "/healthz", Host="evil.example")[2]) == {"status": "ok"}
    for host in ("localhost:1", "127.0.0.1", "[::1]:8080"):
        assert get(preview, "/", Host=host)[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.0.2", "camera.local"])
def test_another_address_needs_a_token(host: str) -> None:
    with pytest.raises(UsageError, match="needs a token"):
        WebPreview(host, 0)


def test_all_addresses_with_a_token_that_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    token = choose_token("auto")
    assert token is not None
    with WebPreview("0.0.0.0", 0, token=token) as preview:
        assert capsys.readouterr().err == f"web preview at {preview.url}?token={token.value}\n"
        assert get(preview, "/")[0] == 401
        assert get(preview, "/", Authorization=f"Bearer {token.value}", Host="camera.local")[0] == 200
    assert capsys.readouterr() == ("", "")
    assert token.value not in repr(token)


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN.value}\n")
    assert choose_token(str(path)) == TOKEN
    assert choose_token("auto") != choose_token("auto")
    monkeypatch.delenv("SSD_EDGE_WEB_TOKEN", raising=False)
    assert choose_token(None) is None
    monkeypatch.setenv("SSD_EDGE_WEB_TOKEN", TOKEN.value)
    assert choose_token(None) == TOKEN
    with pytest.raises(UsageError, match=r"cannot read a token from .*missing"):
        choose_token(str(tmp_path / "missing"))


@pytest.mark.parametrize("value", ["", "short", "fifteen-letters", "0123456789abcde;", "0123456789abcdeé", "a b" * 9])
def test_tokens_that_cannot_be_used(value: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(value, encoding="utf-8")
    with pytest.raises(UsageError, match="16 to 256 letters") as raised:
        choose_token(str(tmp_path / "token"))
    assert len(value) < 5 or value not in str(raised.value)
