"""Results, events and states to an MQTT broker; docs/mqtt.md lists the topics."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import random
import socket
import ssl
import threading
import time
from collections import deque
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import SinkError
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.sinks.mqtt.broker import Broker, reason_of
from ssd_edge.runtime.sinks.mqtt.connection import Connection, Message

logger = logging.getLogger(__name__)

TICK_S = 1.0  # how often keep-alive is looked after
TELL_DROPPED_S = 5.0  # while connected, a changed count of dropped messages is told at most this often
BACKOFF_S = (0.5, 30.0)  # first and last step
DRAIN_S = 1.0  # what `close` gives the messages that still wait,
FAREWELL_S = 0.3  # to its last one,
CLOSE_S = 1.6  # and to all that it does


def topic_level(name: str) -> str:
    """A source's name as one level of a topic, no two alike.

    What topics give a meaning to (`+`, `#`, `/`), what cannot be printed, and `%` are %-encoded.
    """
    return "".join(
        character
        if character.isprintable() and character not in "%+#/"
        else quote(character, "", errors="surrogatepass")
        for character in name
    )


class MqttSink(Sink):
    """Publishes results, events and the states of sources; a thread of its own keeps the connection.

    A broker that is away, refuses or is slow holds up nothing and nobody: messages wait in order, and when `buffer` of
    them do, the oldest is dropped and counted. Those that had been sent but not confirmed when a connection broke (at
    most `UNCONFIRMED`, beside the buffer) are sent again first, so that with QoS 1 and 2 a message is either dropped
    and counted or delivered; at such a break it can come twice. With QoS 0 what the network had taken then is lost.

    Args:
        prefix: first levels of all topics.
        qos: 0, 1 or 2, of results and events. States are sent with QoS 1.
        buffer: how many messages wait at most.
        client_id: who we are to the broker, which lets in one client of a name; None for a name made of this machine
            and the prefix, always the same.
        backoff_s: first and last step between two attempts to connect; each step is twice the one before, and the
            wait between half of it and all of it, so that many devices do not come back at once.

    Attributes:
        connected: the broker has let us in, and the connection stands.
        dropped: messages that were never sent, since the start.

    Raises:
        SinkError: an option that cannot be. That the broker cannot be reached is told as a warning: it may come.
    """

    needs_drawing = False
    needs_pixels = False

    def __init__(
        self,
        broker: Broker,
        *,
        prefix: str = "ssd-edge",
        qos: int = 1,
        buffer: int = 10_000,
        client_id: str | None = None,
        backoff_s: tuple[float, float] = BACKOFF_S,
    ) -> None:
        if not all(level and level == topic_level(level) for level in prefix.split("/")) or prefix.startswith("$"):
            raise SinkError(
                f"MQTT topics cannot begin with {prefix!r}; expected levels such as site/line1, without + # % $"
            )
        if qos not in (0, 1, 2):
            raise SinkError(f"there is no MQTT QoS {qos}; expected 0, 1 or 2")
        if buffer < 1:
            raise SinkError(f"an MQTT buffer of {buffer} messages holds nothing; expected 1 or more")
        self._broker = broker
        self._prefix = prefix
        self._qos = qos
        self._buffer = buffer
        self._client_id = client_id or _client_id(prefix)
        self._backoff_s = backoff_s
        self.connected = False
        self.dropped = 0
        self._told_dropped = 0
        self._told_at = 0.0
        self._problem = ""  # that was told last
        self._lock = threading.Lock()  # for the next four
        self._waiting: deque[Message] = deque()
        self._states: dict[str, Message] = {}  # the last of each topic
        self._untold: dict[str, Message] = {}  # those of them that the broker has not got
        self._again: deque[Message] = deque()  # sent over a connection that broke before they were confirmed
        self._ends_at = float("inf")
        self._closing = threading.Event()
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        """Take a frame's result; it is sent when the broker is there.

        Args:
            drawn_bgr: not used.
        """
        record = result.record()
        topic = f"{self._prefix}/{topic_level(result.source)}"
        frame = {key: record[key] for key in ("schema", "source", "name", "frame", "time")}
        messages = [Message(f"{topic}/detections", _json(record))]
        messages += [Message(f"{topic}/events", _json(frame | event)) for event in record["events"]]
        with self._lock:
            for message in messages:
                if len(self._waiting) == self._buffer:
                    self._waiting.popleft()
                    self.dropped += 1
                self._waiting.append(message)
        self._wake_up()

    def status(self, source: str, status: str, detail: str) -> None:
        """Publish how a source is, retained; while the broker is away only the last of each source is kept.

        Args:
            status: `ok`, `stalled`, `reconnecting`, `ended` or `failed`.
            detail: a sentence on it, or nothing.
        """
        state = {"schema": 1, "source": source, "status": status, "detail": detail, "time": round(time.time(), 3)}
        message = Message(f"{self._prefix}/{topic_level(source)}/status", _json(state), retain=True)
        with self._lock:
            self._states[message.topic] = self._untold[message.topic] = message
        self._wake_up()

    def close(self) -> None:
        """Send what waits, as far as a second allows, and say `offline`; within two seconds in any case."""
        if self._closing.is_set():
            return
        self._ends_at = time.monotonic() + DRAIN_S
        self._closing.set()
        self._wake_up()
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():  # it may hang in the network; then it is left to the end of the process
            self._wake.close()
            self._woken.close()
        self._give_up()
        if self.dropped or self._again:
            logger.warning(
                "%s: %d messages were dropped in all, and %d sent that were not confirmed",
                self._broker,
                self.dropped,
                len(self._again),
            )

    def _wake_up(self) -> None:
        with suppress(OSError):  # full of earlier calls, or closed
            self._wake.send(b".")

    # What follows runs in the thread.

    def _run(self) -> None:
        step_s = self._backoff_s[0]
        while not self._closing.is_set():
            began_at = time.monotonic()
            try:
                self._serve()
            except Exception as error:  # nothing that a broker sends may end the thread
                self._explain(error)
            self.connected = False
            if time.monotonic() - began_at > 2 * self._backoff_s[1]:  # it was no broker that lets in and throws out
                step_s = self._backoff_s[0]
            self._closing.wait(step_s * random.uniform(0.5, 1))
            step_s = min(2 * step_s, self._backoff_s[1])

    def _serve(self) -> None:
        """One connection: from the attempt until it breaks, which raises an error, or `close`."""
        will = Message(f"{self._prefix}/status", _json({"schema": 1, "status": "offline"}), retain=True)
        with closing(Connection(self._broker, self._client_id, will, self._woken)) as connection:
            self.connected = True
            self._problem = ""
            online = self._own_state("online")
            with self._lock:
                self._untold = {online.topic: online} | self._states
            logger.info("%s: connected; %d messages were dropped so far", self._broker, self._told_dropped)
            try:
                while time.monotonic() < self._ends_at:
                    while connection.ready and (message := self._next()):
                        connection.publish(message, self._qos)
                    if self._closing.is_set() and connection.ready and not connection.unconfirmed:
                        break
                    connection.step(min(TICK_S, self._ends_at - time.monotonic()))
                self._give_up()
                connection.leave(self._own_state("offline"), FAREWELL_S)
            finally:
                with self._lock:
                    self._again.extendleft(m for m in reversed(connection.unconfirmed) if not m.retain)

    def _next(self) -> Message | None:
        with self._lock:
            if self._untold:
                return self._untold.pop(next(iter(self._untold)))
            if self.dropped != self._told_dropped and time.monotonic() > self._told_at + TELL_DROPPED_S:
                return self._own_state("online")
            if self._again:
                return self._again.popleft()
            return self._waiting.popleft() if self._waiting else None

    def _own_state(self, status: str) -> Message:
        self._told_dropped = self.dropped
        self._told_at = time.monotonic()
        state = {"schema": 1, "status": status, "dropped": self._told_dropped, "time": round(time.time(), 3)}
        return Message(f"{self._prefix}/status", _json(state), retain=True)

    def _give_up(self) -> None:
        """Drop what still waits."""
        with self._lock:
            self.dropped += len(self._waiting)
            self._waiting.clear()

    def _explain(self, error: Exception) -> None:
        """A warning, once for each problem until the broker is there again."""
        problem = reason_of(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            problem += f"; check --mqtt-ca, and that the certificate is for {self._broker.host}"
        elif isinstance(error, ssl.SSLError):
            problem += "; does it speak TLS? Else its address is mqtt://…"
        level = logging.DEBUG if problem == self._problem else logging.WARNING
        self._problem = problem
        unexpected = not isinstance(error, OSError)
        logger.log(
            level,
            "%s: %s; trying again, messages wait (up to %d)",
            self._broker,
            problem,
            self._buffer,
            exc_info=unexpected,
        )


def _client_id(prefix: str) -> str:
    """Of 23 letters and digits, which every broker has to accept (MQTT 3.1.1, 3.1.3.1)."""
    machine = platform.node()
    with suppress(OSError):
        machine += Path("/etc/machine-id").read_text(encoding="ascii")  # man machine-id: show it only hashed
    return "ssdedge" + hashlib.sha256(f"{machine} {prefix}".encode()).hexdigest()[:16]


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
