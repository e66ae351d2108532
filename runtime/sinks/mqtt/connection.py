"""One connection to an MQTT broker."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

from paho.mqtt.client import Client, MQTTMessageInfo, error_string
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from ssd_edge.runtime.sinks.mqtt.broker import PASSWORD_VARIABLE, Broker

UNCONFIRMED = 20  # messages on their way at a time, as paho's and mosquitto's own default
KEEPALIVE_S = 20  # a connection that has died unnoticed is given up within twice this
CONNECT_S = 5.0  # for each of: TCP, TLS, the broker's answer


class Message(NamedTuple):
    """What is published under a topic; `retain`: the broker keeps it for those who subscribe later."""

    topic: str
    payload: str
    retain: bool = False


class Connection:
    """One connection, which `unconfirmed` messages do not outlive: paho's client is made anew for the next.

    Args:
        will: what the broker publishes when we are gone without a word.
        woken: becomes readable when there is something new to send.

    Raises:
        OSError: it cannot be made, or the broker refuses; so do the methods when it breaks.
    """

    def __init__(self, broker: Broker, client_id: str, will: Message, woken: socket.socket) -> None:
        self._sent: deque[tuple[Message, MQTTMessageInfo]] = deque()
        self._woken = woken
        self._refusal = ""
        self._client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=True, reconnect_on_failure=False)
        self._client.connect_timeout = CONNECT_S
        self._client.on_connect = self._answered
        self._client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        if broker.user:
            self._client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            self._client.tls_set_context(broker.tls)
        self._selector = selectors.DefaultSelector()
        try:
            self._client.connect(broker.host, broker.port, KEEPALIVE_S)
            self._selector.register(woken, selectors.EVENT_READ)
            self._selector.register(self._socket, selectors.EVENT_READ)
            self._await_answer()
        except BaseException as error:
            self.close()
            if isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError):  # nobody listens
                raise ConnectionError(self._why_refused()) from error
            raise

    @property
    def ready(self) -> bool:
        """It can take a message; then no more than one is not yet handed to the network."""
        return len(self._sent) < UNCONFIRMED and not self._client.want_write()

    @property
    def unconfirmed(self) -> list[Message]:
        """In order: with QoS 0 those that the network has not taken, otherwise those that the broker has not got."""
        return [message for message, info in self._sent if not _confirmed(info)]

    def publish(self, message: Message, qos: int) -> None:
        """Hand a message to the network; one to retain goes with QoS 1."""
        info = self._client.publish(message.topic, message.payload, 1 if message.retain else qos, message.retain)
        self._sent.append((message, info))
        _check(info.rc)
        self._forget_confirmed()

    def step(self, timeout_s: float) -> None:
        """Wait for the network or for something new to send, and do what there is to do."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._client.want_write() else 0)
        self._selector.modify(self._socket, events)
        has_more = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()
        self._selector.select(0 if has_more else max(0.0, timeout_s))
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        for work in (self._client.loop_read, self._client.loop_write, self._client.loop_misc):
            _check(work())
        self._forget_confirmed()

    def leave(self, farewell: Message, timeout_s: float) -> None:
        """Publish a last message and go, so that the broker forgets the last will."""
        self.publish(farewell, 1)
        ends_at = time.monotonic() + timeout_s
        while self._sent and time.monotonic() < ends_at:
            self.step(ends_at - time.monotonic())
        self._client.disconnect()

    def close(self) -> None:
        self._selector.close()
        if self._client.socket() is not None:
            self._socket.close()

    @property
    def _socket(self) -> Any:
        """paho's, which is gone once the connection is."""
        if (connected := self._client.socket()) is None:
            raise ConnectionError("the connection is lost")
        return connected

    def _forget_confirmed(self) -> None:
        while self._sent and _confirmed(self._sent[0][1]):
            self._sent.popleft()

    def _answered(self, _client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._refusal = str(reason) if reason.is_failure else ""

    def _await_answer(self) -> None:
        ends_at = time.monotonic() + CONNECT_S
        while not self._client.is_connected():
            if time.monotonic() > ends_at:
                raise TimeoutError(f"something is there, but it does not answer as a broker within {CONNECT_S:g} s")
            self.step(ends_at - time.monotonic())

    def _why_refused(self) -> str:
        if self._refusal in ("Bad user name or password", "Not authorized"):
            return (
                f"the broker refuses the user or the password ({self._refusal}); check the user in the address and "
                f"the password in --mqtt-password-file or {PASSWORD_VARIABLE}"
            )
        if self._refusal:
            return f"the broker refuses the connection: {self._refusal}"
        return "it hangs up; does it want the other of mqtt:// and mqtts://, or a certificate of ours (--mqtt-cert)?"


def _check(result: MQTTErrorCode) -> None:
    if result != MQTTErrorCode.MQTT_ERR_SUCCESS:
        raise ConnectionError(error_string(result).rstrip("."))


def _confirmed(info: MQTTMessageInfo) -> bool:
    return info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS and info.is_published()
