"""The emulation computes as a GPU does."""

import numpy as np
import onnx
from onnx import numpy_helper

from ssd_edge.export.fp16.emulate import emulated_half
from tests.export.fp16.small_ssd import (
    run,
)


def test_the_emulation_rounds_as_half_does() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]> g (uint8[n, 1] images) => (float[n, 1] boxes)
        { f = Cast <to = 1> (images) h = Cast <to = 10> (f) a = Add (h, most) b = Sub (a, most)
          boxes = Cast <to = 1> (b) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(2048, np.float16), "most"))
    ones = np.array([[1], [2], [3]], np.uint8)
    # Above 2048 half has every second number: 2049 and 2051 are rounded to the even mantissa.
    assert run(emulated_half(model), ones)[0].ravel().tolist() == [0, 2, 4]
