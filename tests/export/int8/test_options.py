"""Options of int8 that cannot be."""

from dataclasses import replace
from typing import Any

import pytest

from ssd_edge.calib.images import CalibrationImages
from ssd_edge.errors import UsageError
from ssd_edge.export.int8.options import Int8Options
from ssd_edge.parity.max_drop import MaxDrop


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "tpu"}, "unknown target 'tpu'; expected tensorrt or cpu"),
        ({"method": "guess"}, "unknown calibration method 'guess'"),
        ({"target": "cpu", "int8_heads": True}, "int8 heads are for the target tensorrt"),
        ({"max_drop": MaxDrop.parse("1%")}, "needs labelled images to measure it on; give --data"),
    ],
)
def test_options_that_cannot_be(images: CalibrationImages, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(Int8Options(images), **change)
