"""Brokers, listeners and sinks that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ssd_edge.runtime.sinks.mqtt.sink import MqttSink
    from tests.runtime.sinks.mqtt.mosquitto import Listener, Mosquitto


@pytest.fixture
def start_mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Start a broker with further lines of configuration."""
    from tests.runtime.sinks.mqtt.mosquitto import Mosquitto  # imports paho

    brokers: list[Mosquitto] = []

    def start(*lines: str) -> Mosquitto:
        brokers.append(Mosquitto(tmp_path, *lines))
        return brokers[-1].start()

    yield start
    for broker in brokers:
        broker.stop()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    """Start a `Listener` to a broker."""
    from tests.runtime.sinks.mqtt.mosquitto import Listener  # imports paho

    listeners: list[Listener] = []

    def start(*args: Any) -> Listener:
        listeners.append(Listener(*args))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.close()


@pytest.fixture
def open_sink() -> Iterator[Callable[..., MqttSink]]:
    """Start a sink to a broker or address, which tries again soon."""
    from ssd_edge.runtime.sinks.mqtt.broker import parse_broker
    from ssd_edge.runtime.sinks.mqtt.sink import MqttSink  # imports paho
    from tests.runtime.sinks.mqtt.mosquitto import BACKOFF_S

    sinks: list[MqttSink] = []

    def start(broker: str | Mosquitto, **options: Any) -> MqttSink:
        broker = broker if isinstance(broker, str) else broker.url
        sinks.append(MqttSink(parse_broker(broker), backoff_s=BACKOFF_S, **options))
        return sinks[-1]

    yield start
    for sink in sinks:
        sink.close()
