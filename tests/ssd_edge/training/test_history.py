"""TensorBoard gets losses and scores."""

from __future__ import annotations

import pytest

from ssd_edge.training.config import TrainConfig
from ssd_edge.training.run import train
from tests.ssd_edge.training.configs import changed


def test_tensorboard_gets_losses_and_scores(config: TrainConfig) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(changed(config, tensorboard=True))
    events = accumulator.EventAccumulator(str(config.run.output))
    events.Reload()
    assert {"loss/localisation", "loss/classification", "lr", "val/AP"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("lr")] == [0, 1, 2, 3]
    assert [event.step for event in events.Scalars("val/AP")] == [2, 4]
