"""Addresses of brokers, and what cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssd_edge.errors import SinkError
from ssd_edge.runtime.sinks.mqtt.broker import PASSWORD_VARIABLE, parse_broker


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    for url, expected in {
        "mqtt://host": ("host", 1883, None, False),
        "host:99": ("host", 99, None, False),
        "mqtts://me%40home@[::1]/": ("::1", 8883, "me@home", True),
    }.items():
        broker = parse_broker(url)
        assert (broker.host, broker.port, broker.user, broker.tls is not None) == expected
    assert str(parse_broker("mqtts://me@[::1]")) == "mqtts://[::1]:8883"


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("mqtt://me:s3cret@host", {}, r"\(mqtt://\*\*\*@host\) holds a password"),
        ("me:s3c/r@t@host", {}, r"\(\*\*\*@host\) holds a password"),
        ("http://host", {}, "http://host is no address of an MQTT broker"),
        ("mqtt://", {}, "no address"),
        ("mqtt://host:port", {}, "no address"),
        ("mqtt://host/topic", {}, "no address"),
        ("mqtt://" + "a" * 64, {}, "no address"),
        ("mqtt://host", {"ca": "missing"}, "expected mqtts://"),
        ("mqtts://host", {"ca": "missing"}, "missing: No such file"),
        ("mqtts://host", {"ca": "text"}, "expected a PEM file"),
        ("mqtts://host", {"cert": "text"}, "expected PEM files"),
        ("mqtts://host", {"key": "text"}, "without its certificate"),
        ("mqtt://me@host", {"password_file": "missing"}, "missing: No such file"),
        ("mqtt://me@host", {"password_file": "empty"}, "first line of .*empty is empty"),
        ("mqtt://host", {"password_file": "text"}, "but no user; expected mqtt://USER@HOST"),
    ],
)
def test_what_cannot_be_used_is_told_at_once(tmp_path: Path, url: str, options: dict[str, str], message: str) -> None:
    (tmp_path / "text").write_text("s3cret")
    (tmp_path / "empty").touch()
    with pytest.raises(SinkError, match=message) as caught:
        parse_broker(url, **{name: tmp_path / file for name, file in options.items()})
    assert "s3c" not in str(caught.value)
