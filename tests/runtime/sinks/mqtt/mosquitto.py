"""A real broker (mosquitto) that tests start and stop, what it passes on, and a cable to it that can be cut."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from ssd_edge.detections import Detections
from ssd_edge.runtime.results import Event, Result
from ssd_edge.runtime.sources.base import Frame

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
    found = Detections(np.array([[1, 2.5, 30, 40]], np.float32), np.array([0.75], np.float32), np.array([1]))
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
        self._client.reconnect_delay_set(0.1, 0.1)  # type: ignore[arg-type]  # any number will do
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
