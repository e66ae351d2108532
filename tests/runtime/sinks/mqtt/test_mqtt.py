"""With a real broker (mosquitto) that goes and comes: what is published, what is kept, what is dropped and counted."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssd_edge.detections import Detections
from ssd_edge.errors import SinkError
from ssd_edge.runtime.results import Event, Result
from ssd_edge.runtime.sources.base import Frame

pytest.importorskip("paho.mqtt.enums", reason="needs paho-mqtt 2: pip install '.[mqtt]'")
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from ssd_edge.runtime.sinks.mqtt.broker import PASSWORD_VARIABLE, parse_broker
from ssd_edge.runtime.sinks.mqtt.connection import UNCONFIRMED
from ssd_edge.runtime.sinks.mqtt.sink import MqttSink, topic_level

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto: apt-get install mosquitto")
WAIT_S = 15.0  # what never comes on a busy machine either
BACKOFF_S = (0.05, 0.2)
IMAGE = np.zeros((48, 64, 3), np.uint8)


def until(condition: Callable[[], Any]) -> Any:
    """The first truth that the condition gives."""
    end = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return value


def result(index: int, source: str = "gate", events: tuple[Event, ...] = ()) -> Result:
    found = Detections(np.array([[1, 2.5, 30, 40]]), np.array([0.75]), np.array([1]))
    return Result(source, Frame(IMAGE, index, time.monotonic(), source), found, ("a", "b"), 12.3, events=events)


class Mosquitto:
    """A broker that tests start and stop; it keeps nothing over a restart but with `persistence`."""

    def __init__(self, folder: Path, *lines: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port: int = server.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        user = "user root" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""  # else it cannot read the folder
        login = () if any("password_file" in line for line in lines) else ("allow_anonymous true",)
        text = [f"listener {self.port} 127.0.0.1", user, *login, f"persistence_location {folder}/", *lines]
        text += ["max_queued_messages 0", "queue_qos0_messages true"]  # for a listener that is away, without limit
        self._config.write_text("\n".join(text))
        self._log = (folder / "mosquitto.log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> Mosquitto:
        assert MOSQUITTO
        self.process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stderr=self._log, stdout=self._log)
        until(self._listens)
        return self

    def _listens(self) -> bool:
        assert self.process
        assert self.process.poll() is None, Path(self._log.name).read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(WAIT_S)


class Listener:
    """Subscribes to everything and remembers it, as [topic, payload, retained]; outlives restarts of the broker."""

    def __init__(self, mosquitto: Mosquitto, configure: Callable[[Client], object] = lambda _: None) -> None:
        self.got: list[tuple[str, Any, bool]] = []
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, f"listener{id(self)}", clean_session=False)
        self._client.reconnect_delay_set(0.1, 0.1)
        self._client.on_connect = self._subscribe
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _, __, m: self.got.append((m.topic, json.loads(m.payload), m.retain))
        configure(self._client)
        self._client.connect("127.0.0.1", mosquitto.port)
        self._client.loop_start()
        assert self._subscribed.wait(WAIT_S)

    def _subscribe(self, client: Client, _: Any, flags: Any, *__: Any) -> None:
        if not flags.session_present:  # else what is retained would come once more
            client.subscribe("#", qos=2)

    def payloads(self, topic: str) -> list[Any]:
        return [payload for got, payload, _ in list(self.got) if got == topic]

    def frames(self, source: str = "gate") -> list[int]:
        return [payload["frame"] for payload in self.payloads(f"ssd-edge/{source}/detections")]

    def settle(self) -> None:
        """Until the broker knows of all that was got, so that it sends nothing of it again."""
        self._client.publish("settled", "0", qos=1).wait_for_publish(WAIT_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Cable:
    """Leads to a port, and can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near = self._server.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=pair, daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(500):  # so that messages are cut too
                target.sendall(data)

    def cut(self) -> None:
        while self._ends:
            end = self._ends.pop()
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def __enter__(self) -> Cable:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self.cut()


@pytest.fixture
def start_mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Start a broker with further lines of configuration."""
    brokers: list[Mosquitto] = []

    def start(*lines: str) -> Mosquitto:
        brokers.append(Mosquitto(tmp_path, *lines))
        return brokers[-1].start()

    yield start
    for broker in brokers:
        broker.stop()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    listeners: list[Listener] = []

    def start(*args: Any) -> Listener:
        listeners.append(Listener(*args))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.close()


@pytest.fixture
def open_sink() -> Iterator[Callable[..., MqttSink]]:
    sinks: list[MqttSink] = []

    def start(broker: str | Mosquitto, **options: Any) -> MqttSink:
        broker = broker if isinstance(broker, str) else broker.url
        sinks.append(MqttSink(parse_broker(broker), backoff_s=BACKOFF_S, **options))
        return sinks[-1]

    yield start
    for sink in sinks:
        sink.close()


@needs_mosquitto
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_topics_and_payloads(start_mosquitto: Any, listen: Any, open_sink: Any, qos: int) -> None:
    mosquitto = start_mosquitto()
    listener = listen(mosquitto)
    sink = open_sink(mosquitto, qos=qos, prefix="site/line 1")
    sink.status("rtsp://***@cam/1+#", "ok", "")
    events = (Event("enter", "door", 7, 1), Event("out", "line", 8, 0))
    first = result(3, "rtsp://***@cam/1+#", events)
    sink.write(first, IMAGE)
    for index in range(4, 100):
        sink.write(result(index, "rtsp://***@cam/1+#"), IMAGE)
    sink.close()
    topic = "site/line 1/rtsp:%2F%2F***@cam%2F1%2B%23"
    until(lambda: len(listener.got) == 97 + 2 + 1 + 2)  # those of QoS 1 can overtake those of QoS 2
    detections = listener.payloads(f"{topic}/detections")
    assert detections[0] == first.record()
    assert [payload["frame"] for payload in detections] == list(range(3, 100))
    frame = {"schema": 1, "source": "rtsp://***@cam/1+#", "name": "rtsp://***@cam/1+#", "frame": 3}
    frame["time"] = first.record()["time"]
    assert listener.payloads(f"{topic}/events") == [
        frame | {"kind": "enter", "place": "door", "track": 7, "class": "b"},
        frame | {"kind": "out", "place": "line", "track": 8, "class": "a"},
    ]
    (state,) = listener.payloads(f"{topic}/status")
    assert abs(state.pop("time") - time.time()) < 60
    assert state == {"schema": 1, "source": "rtsp://***@cam/1+#", "status": "ok", "detail": ""}
    online, offline = listener.payloads("site/line 1/status")
    assert (online["status"], online["dropped"], offline["status"], offline["dropped"]) == ("online", 0, "offline", 0)
    assert sink.dropped == 0


@needs_mosquitto
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_of_an_outage_come_in_order_up_to_the_bound_and_the_rest_is_counted(
    start_mosquitto: Any, listen: Any, open_sink: Any, qos: int, caplog: pytest.LogCaptureFixture
) -> None:
    mosquitto = start_mosquitto("persistence true")
    listener = listen(mosquitto)
    sink = open_sink(mosquitto, qos=qos, buffer=50)
    for index in range(10):
        sink.write(result(index), IMAGE)
    until(lambda: len(listener.frames()) == 10)
    listener.settle()
    mosquitto.stop()
    until(lambda: not sink.connected)
    sink.status("gate", "stalled", "no frame for 2 s")
    sink.status("gate", "ok", "")
    with caplog.at_level(logging.WARNING):
        for index in range(10, 130):
            sink.write(result(index), IMAGE)
        time.sleep(3 * BACKOFF_S[1])  # many attempts, of which one is told
    assert sink.dropped == 70
    assert [record.message for record in caplog.records if "refused" in record.message] == [
        f"{mosquitto.url}: Connection refused; trying again, messages wait (up to 50)"
    ]
    mosquitto.start()
    until(lambda: len(listener.frames()) == 60)
    assert listener.frames() == [*range(10), *range(80, 130)]
    assert [state["dropped"] for state in listener.payloads("ssd-edge/status") if state["status"] == "online"] == [
        0,
        70,
    ]
    assert [state["status"] for state in listener.payloads("ssd-edge/gate/status")] == ["ok"]
    sink.close()
    assert until(lambda: listener.payloads("ssd-edge/status")[-1]["status"] == "offline")
    assert listener.payloads("ssd-edge/status")[-1]["dropped"] == 70


@needs_mosquitto
@pytest.mark.parametrize("qos", [1, 2])
def test_connections_that_break_at_work_cost_nothing_that_is_not_counted(
    start_mosquitto: Any, listen: Any, open_sink: Any, qos: int
) -> None:
    mosquitto = start_mosquitto()
    listener = listen(mosquitto)
    total = 0
    with Cable(mosquitto.port) as cable:
        sink = open_sink(f"mqtt://127.0.0.1:{cable.port}", qos=qos, buffer=100)
        for cut in range(10):
            until(lambda: sink.connected)
            for _ in range(150):
                sink.write(result(total), IMAGE)
                total += 1
            time.sleep(0.002 * cut)  # here and there among the messages
            cable.cut()
        sink.write(result(total), IMAGE)
        until(lambda: total in listener.frames())
    frames = listener.frames()
    first_times = list(dict.fromkeys(frames))
    assert first_times == sorted(first_times)
    assert len(first_times) == total + 1 - sink.dropped
    assert 0 < sink.dropped < total
    assert len(frames) - len(first_times) <= 10 * UNCONFIRMED


@needs_mosquitto
def test_a_broker_that_no_longer_reads_is_given_up(
    start_mosquitto: Any, listen: Any, open_sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssd_edge.runtime.sinks.mqtt.connection.KEEPALIVE_S", 1)
    monkeypatch.setattr("ssd_edge.runtime.sinks.mqtt.connection.CONNECT_S", 0.5)
    mosquitto = start_mosquitto("persistence true")
    listener = listen(mosquitto)
    sink = open_sink(mosquitto, buffer=30)
    sink.write(result(0), IMAGE)
    until(lambda: listener.frames() == [0])
    mosquitto.process.send_signal(signal.SIGSTOP)
    for index in range(1, 101):
        sink.write(result(index), IMAGE)
    until(lambda: not sink.connected)
    dropped = sink.dropped
    assert 100 - 30 - UNCONFIRMED <= dropped <= 70
    mosquitto.process.send_signal(signal.SIGCONT)
    until(lambda: 100 in listener.frames())
    frames = sorted(set(listener.frames()))
    assert len(frames) == 101 - dropped
    assert frames[-30:] == list(range(71, 101))


@needs_mosquitto
def test_the_last_will_of_a_process_that_is_killed(start_mosquitto: Any, listen: Any) -> None:
    mosquitto = start_mosquitto()
    listener = listen(mosquitto)
    code = (
        "import sys, time; from ssd_edge.runtime.sinks.mqtt.sink import MqttSink; "
        "from ssd_edge.runtime.sinks.mqtt.broker import *\n"
        "MqttSink(parse_broker(sys.argv[1])).status('gate', 'ok', ''); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, mosquitto.url])
    until(lambda: listener.payloads("ssd-edge/gate/status"))
    process.kill()
    process.wait()
    until(lambda: len(listener.payloads("ssd-edge/status")) == 2)
    assert [state["status"] for state in listener.payloads("ssd-edge/status")] == ["online", "offline"]


@needs_mosquitto
def test_states_are_retained_and_told_again_to_a_broker_that_has_lost_them(
    start_mosquitto: Any, listen: Any, open_sink: Any
) -> None:
    mosquitto = start_mosquitto()
    sink = open_sink(mosquitto)
    sink.status("gate", "ok", "")
    sink.status("gate", "failed", "gone")
    sink.status("yard", "ok", "")
    expected = {"ssd-edge/status": "online", "ssd-edge/gate/status": "failed", "ssd-edge/yard/status": "ok"}

    def retained() -> bool:
        listener = Listener(mosquitto)
        time.sleep(0.1)
        listener.close()
        return {topic: state["status"] for topic, state, kept in listener.got if kept} == expected

    until(retained)
    mosquitto.stop()  # without persistence
    until(lambda: not sink.connected)
    mosquitto.start()
    until(retained)


@needs_mosquitto
def test_a_slow_start_of_the_broker_is_waited_for(
    tmp_path: Path, start_mosquitto: Any, listen: Any, open_sink: Any
) -> None:
    mosquitto = start_mosquitto("persistence true")
    listener = listen(mosquitto)
    mosquitto.stop()
    sink = open_sink(mosquitto)
    sink.write(result(5), IMAGE)
    mosquitto.start()
    until(lambda: listener.frames() == [5])


@needs_mosquitto
def test_the_name_towards_the_broker_stays(start_mosquitto: Any, open_sink: Any, tmp_path: Path) -> None:
    mosquitto = start_mosquitto()
    for options in ({}, {}, {"prefix": "other"}, {"client_id": "me"}):
        sink = open_sink(mosquitto, **options)
        until(lambda sink=sink: sink.connected)
        sink.close()
    names = re.findall(r" as (\S+) \(p2", (tmp_path / "mosquitto.log").read_text())
    assert re.fullmatch(r"[0-9a-z]{23}", names[0])
    assert names[0] == names[1] != names[2]
    assert names[3] == "me"


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
    subprocess.run([passwd, "-b", "-c", str(tmp_path / "users"), "me@home", "ri:ght"], check=True)
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
    subprocess.run(command.split(), check=True, capture_output=True)
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
            until(lambda problem=problem: problem in caplog.text.replace("self signed", "self-signed"))


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


@pytest.mark.parametrize("falls_silent", [False, True])
def test_it_ends_in_time_without_a_broker(open_sink: Any, falls_silent: bool, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        if not falls_silent:
            server.close()
        sink = open_sink(url)
        for index in range(3):
            sink.write(result(index), IMAGE)
        time.sleep(0.2)
        begin = time.monotonic()
        sink.close()
        assert time.monotonic() - begin < 2
    assert sink.dropped == 3
    assert "3 messages were dropped in all" in caplog.text


@needs_mosquitto
def test_nothing_is_left_behind(start_mosquitto: Any, open_sink: Any) -> None:
    files = Path("/proc/self/fd")
    if not files.exists():
        pytest.skip("no /proc")
    mosquitto = start_mosquitto()
    files_before, threads_before = len(list(files.iterdir())), threading.active_count()
    sink = open_sink(mosquitto)
    for _ in range(5):
        until(lambda: sink.connected)
        mosquitto.stop()
        until(lambda: not sink.connected)
        mosquitto.start()
    sink.close()
    sink.write(result(0), IMAGE)  # late, but harmless
    assert len(list(files.iterdir())) <= files_before  # what an earlier test left may have gone
    assert threading.active_count() <= threads_before


def test_the_wait_between_attempts_doubles_up_to_its_bound_with_jitter(
    open_sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[float] = []

    class Closing:
        def is_set(self) -> bool:
            return len(steps) > 8

        def wait(self, seconds: float) -> None:
            steps.append(seconds)

    sink = open_sink("mqtt://127.0.0.1:1")
    sink.close()
    sink._closing, sink._backoff_s = Closing(), (1.0, 10.0)
    monkeypatch.setattr(sink, "_serve", lambda: None)
    sink._run()
    for step, bound in zip(steps, (1, 2, 4, 8, 10, 10, 10, 10, 10), strict=True):
        assert bound / 2 <= step <= bound
    assert len(set(steps)) == len(steps)


@pytest.mark.parametrize(
    ("name", "level"),
    [("gate", "gate"), ("a/b+c#d%e", "a%2Fb%2Bc%23d%25e"), ("Tür 1", "Tür 1"), ("a\0\n\ud800", "a%00%0A%ED%A0%80")],
)
def test_names_as_levels_of_topics(name: str, level: str) -> None:
    assert topic_level(name) == level


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qos": 3}, "QoS 3"),
        ({"buffer": 0}, "buffer of 0"),
        *(({"prefix": prefix}, "topics cannot begin with") for prefix in ("", "a/+", "#", "$SYS", "/a", "a//b")),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SinkError, match=message):
        MqttSink(parse_broker("host"), **options)
