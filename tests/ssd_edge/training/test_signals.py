"""A training takes over signals only while it runs."""

from __future__ import annotations

import signal

from ssd_edge.training.config import TrainConfig
from ssd_edge.training.run import train
from tests.ssd_edge.training.configs import changed


def test_signal_handlers_are_put_back(config: TrainConfig) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    train(changed(config, epochs=1, workers=1))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)] == before
