"""Connections to what wants passwords or certificates, or is no broker: what is wrong is told, and no secret."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho.mqtt.enums", reason="needs paho-mqtt 2: pip install '.[mqtt]'")
from ssd_edge.runtime.sinks.mqtt.broker import PASSWORD_VARIABLE, parse_broker
from ssd_edge.runtime.sinks.mqtt.sink import MqttSink
from tests.runtime.sinks.mqtt.mosquitto import BACKOFF_S, IMAGE, WAIT_S, needs_mosquitto, result, until


@needs_mosquitto
def test_a_wrong_password_is_told_and_never_shown(
    start_mosquitto: Any,
    listen: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    passwd = shutil.which("mosquitto_passwd")
    if passwd is None:
        pytest.skip("no mosquitto_passwd: apt-get install mosquitto")
    subprocess.run([passwd, "-b", "-c", str(tmp_path / "users"), "me@home", "ri:ght"], check=True, timeout=60)
    mosquitto = start_mosquitto(f"password_file {tmp_path / 'users'}")
    url = f"mqtt://me%40home@127.0.0.1:{mosquitto.port}"
    monkeypatch.setenv(PASSWORD_VARIABLE, "wr0ng")
    with caplog.at_level(logging.DEBUG):
        sink = MqttSink(parse_broker(url), backoff_s=BACKOFF_S)
        until(lambda: len(caplog.records) > 3)
        sink.close()
    ours = (record for record in caplog.records if record.name.startswith("ssd_edge.runtime.sinks.mqtt.sink"))
    warnings = [record.message for record in ours if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "refuses the user or the password (Not authorized); check the user" in warnings[0]
    assert "wr0ng" not in caplog.text

    (tmp_path / "password").write_text("ri:ght\n")
    broker = parse_broker(url, password_file=tmp_path / "password")
    assert "ri:ght" not in repr(broker)
    listener = listen(mosquitto, lambda client: client.username_pw_set("me@home", "ri:ght"))
    sink = MqttSink(broker, backoff_s=BACKOFF_S)
    sink.write(result(1), IMAGE)
    until(lambda: listener.frames() == [1])
    sink.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, which is its own authority, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl: apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}"
    subprocess.run(command.split(), check=True, capture_output=True, timeout=60)
    return cert, key


@needs_mosquitto
def test_tls(
    start_mosquitto: Any,
    listen: Any,
    certificate: tuple[Path, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    cert, key = certificate
    files = f"cafile {cert}\ncertfile {cert}\nkeyfile {key}"
    mosquitto = start_mosquitto(files, "require_certificate true")
    url = f"mqtts://127.0.0.1:{mosquitto.port}"
    listener = listen(mosquitto, lambda client: client.tls_set(str(cert), str(cert), str(key)))
    with closing(MqttSink(parse_broker(url, ca=cert, cert=cert, key=key))) as sink:
        for index in range(200):
            sink.write(result(index), IMAGE)
    until(lambda: listener.frames() == list(range(200)))

    def is_logged(problem: str) -> bool:
        return problem in caplog.text.replace("self signed", "self-signed")

    wrong = f"mqtts://localhost:{mosquitto.port}"
    plain = start_mosquitto()
    for broker, problem in [
        (parse_broker(url), "its certificate is not trusted: self-signed certificate; check --mqtt-ca"),
        (parse_broker(wrong, ca=cert), "certificate is not valid for 'localhost'"),
        (parse_broker(url, ca=cert), "a certificate of ours"),
        (parse_broker(mosquitto.url), "the other of mqtt:// and mqtts://"),
        (parse_broker(f"mqtts://127.0.0.1:{plain.port}"), "the other of mqtt:// and mqtts://"),
    ]:
        caplog.clear()
        with closing(MqttSink(broker)):
            until(partial(is_logged, problem))


def test_tls_to_something_else(open_sink: Any, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        open_sink(f"mqtts://127.0.0.1:{server.getsockname()[1]}")
        with server.accept()[0] as connection:
            connection.recv(1024)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            until(lambda: "does it speak TLS?" in caplog.text)


def test_something_else_than_a_broker(open_sink: Any, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        sink = open_sink(f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x00", b"\x20\x02\x00", b"\xff" * 99, b""):
            with server.accept()[0] as connection:
                connection.recv(1024)
                connection.sendall(answer)
        server.accept()[0].close()  # it still tries
    assert not sink.connected
    assert "Traceback" not in caplog.text
