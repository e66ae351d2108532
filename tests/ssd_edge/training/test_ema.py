"""The moving average, by hand."""

import torch
from torch import nn

from ssd_edge.training.ema import MovingAverage


def test_average_by_hand() -> None:
    model = nn.BatchNorm1d(1)
    assert model.running_mean is not None
    assert model.num_batches_tracked is not None
    average = MovingAverage(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(11.0)  # from 1
        model.running_mean.fill_(22.0)  # from 0
    model.num_batches_tracked += 7
    average.update(model)
    # The first step's decay is limited to (1 + 1) / (10 + 1).
    torch.testing.assert_close(average.model.weight, torch.tensor([1 + 10 * 9 / 11]))
    torch.testing.assert_close(average.model.running_mean, torch.tensor([22 * 9 / 11]))
    assert average.model.num_batches_tracked == 7
    for _ in range(20):
        average.update(model)
    before = average.model.weight.item()
    with torch.no_grad():
        model.weight.fill_(0.0)
    average.update(model)
    torch.testing.assert_close(average.model.weight, torch.tensor([before / 2]))


def test_the_average_is_apart_from_the_model() -> None:
    model = nn.Linear(2, 2)
    average = MovingAverage(model, decay=0.9)
    assert not any(p.requires_grad for p in average.model.parameters())
    with torch.no_grad():
        model.weight.zero_()
    assert average.model.weight.any()
