"""Differences of tensors that are given as lists, for tests."""

import numpy as np

from ssd_edge.parity.difference import RunningDifference


def running(*pairs: tuple[list[float], list[float]], unit: float = 1.0) -> RunningDifference:
    difference = RunningDifference(unit)
    for reference, model in pairs:
        difference.update(np.array(reference, np.float32), np.array(model, np.float32))
    return difference
