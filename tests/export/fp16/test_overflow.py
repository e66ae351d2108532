"""How large activations become, and layers that are not finite."""

import numpy as np
import pytest

from ssd_edge.errors import GateFailedError, UsageError
from ssd_edge.export.fp16.convert import half_from_float
from ssd_edge.export.fp16.overflow import activation_maxima
from tests.export.fp16.small_ssd import (
    images,
    small_ssd,
)


def test_maxima_are_over_all_images_and_of_both_signs() -> None:
    model = small_ssd(w_stem=np.full((4, 3, 1, 1), -1), b_stem=np.zeros(4))
    batch = [np.full((4, 4, 3), value, np.uint8) for value in (100, 255, 0)]
    maxima = activation_maxima(model, batch)
    assert maxima["floats"] == 255
    assert maxima["stem"] == pytest.approx(9.3)  # −3 · 155 / 50
    assert maxima["map"] == pytest.approx(6)  # 3 · 100 / 50
    assert next(iter(maxima)) == "floats"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_layer_that_is_not_finite_is_named(value: float) -> None:
    bias = np.zeros(4)
    bias[3] = value  # the last channel: a maximum that starts from the first would pass over NaN
    with pytest.raises(GateFailedError, match=rf"^stem \(w_stem\) gives {value} in float32 already"):
        activation_maxima(small_ssd(b_stem=bias), images())


def test_no_images() -> None:
    with pytest.raises(UsageError, match="no images"):
        half_from_float(small_ssd(), [])
