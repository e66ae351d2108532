"""With a broker that goes and comes: what is published, what is kept, what is dropped and counted."""

from __future__ import annotations

import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from ssd_edge.errors import SinkError
from ssd_edge.runtime.results import Event

pytest.importorskip("paho.mqtt.enums", reason="needs paho-mqtt 2: pip install '.[mqtt]'")
from ssd_edge.runtime.sinks.mqtt.broker import parse_broker
from ssd_edge.runtime.sinks.mqtt.connection import UNCONFIRMED
from ssd_edge.runtime.sinks.mqtt.sink import MqttSink, topic_level
from tests.runtime.sinks.mqtt.mosquitto import BACKOFF_S, IMAGE, WAIT_S, Cable, Listener, needs_mosquitto, result, until


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
    process.wait(WAIT_S)
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

    def connect(**options: str) -> None:
        sink = open_sink(mosquitto, **options)
        until(lambda: sink.connected)
        sink.close()

    for options in ({}, {}, {"prefix": "other"}, {"client_id": "me"}):
        connect(**options)
    names = re.findall(r" as (\S+) \(p2", (tmp_path / "mosquitto.log").read_text())
    assert re.fullmatch(r"[0-9a-z]{23}", names[0])
    assert names[0] == names[1] != names[2]
    assert names[3] == "me"


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


def test_the_wait_between_attempts_doubles_up_to_its_bound_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[float] = []

    class Closing:
        def is_set(self) -> bool:
            return len(steps) > 8

        def wait(self, seconds: float) -> None:
            steps.append(seconds)

    threads = SimpleNamespace(Event=Closing, Lock=threading.Lock, Thread=threading.Thread)
    monkeypatch.setattr("ssd_edge.runtime.sinks.mqtt.sink.threading", threads)
    monkeypatch.setattr("ssd_edge.runtime.sinks.mqtt.sink.Connection", Mock(side_effect=ConnectionRefusedError))
    MqttSink(parse_broker("mqtt://127.0.0.1:1"), backoff_s=(1.0, 10.0))
    until(lambda: len(steps) == 9)
    for step, bound in zip(steps, (1, 2, 4, 8, 10, 10, 10, 10, 10), strict=True):
        assert bound / 2 <= step <= bound
    assert len(set(steps)) == len(steps)


@pytest.mark.parametrize(
    ("name", "level"),
    [("gate", "gate"), ("a/b+c#d%e", "a%2Fb%2Bc%23d%25e"), ("Tür 1", "Tür 1"), ("a\0\n\ud800", "a%00%0A%ED%A0%80")],
)
def test_names_as_levels_of_topics(name: str, level: str) -> None:
    assert topic_level(name) == level


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
