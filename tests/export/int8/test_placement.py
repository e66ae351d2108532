"""What an int8 export says of its layers, and what it counts of their work."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ssd_edge.calib.images import CalibrationImages
from ssd_edge.calib.table import CalibrationTable
from ssd_edge.export.int8.options import Int8Options
from ssd_edge.export.int8.placement import Placement
from tests.calib.placement.small_graphs import make_model, node


def layers() -> onnx.ModelProto:
    """A stem of 4 · 3 · 64 = 768 multiplications, a depthwise layer of 256, one of 1,024 and a head of 2,048."""
    nodes = [
        node("Conv", "x model.stem.weight", "a"),
        node("Conv", "a model.depthwise.weight", "b", group=4),
        node("Conv", "b model.point.weight", "c"),
        node("Conv", "c model.head.weight", "scores"),
        node("Relu", "c", "boxes"),
    ]
    shapes = {"stem": (4, 3, 1, 1), "depthwise": (4, 1, 1, 1), "point": (4, 4, 1, 1), "head": (8, 4, 1, 1)}
    constants = {f"model.{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
    return make_model(nodes, {"x": [1, 3, 8, 8]}, {"scores": [1, 8, 8, 8], "boxes": [1, 4, 8, 8]}, constants)


def placement(**options: Any) -> Placement:
    table = CalibrationTable("", "", 1, {})
    return Placement(layers(), table, Int8Options(CalibrationImages((Path("a.png"),)), **options))


def test_the_report_says_why_a_layer_is_not_int8() -> None:
    assert placement().describe() == (
        "2 of 4 convolutions in int8, 44% of the multiplications; not 1 of the heads (50.0%), 1 depthwise (6.2%), "
        "--int8-heads quantises the heads too"
    )
    assert placement(int8_heads=True).describe(["point"]) == (
        "2 of 4 convolutions in int8, 69% of the multiplications; not 1 given back to float (25.0%), 1 depthwise (6.2%)"
    )


def test_what_is_half_counts_in_the_cost_of_a_layer_given_back() -> None:
    """Twice the int8 work: 768 + 1,024, and 256 and 2,048 twice."""
    assert placement().work() == 768 + 2 * 256 + 1024 + 2 * 2048
    assert placement().work(["point"]) == 768 + 2 * (256 + 1024 + 2048)
    assert placement(int8_heads=True).work(["point"]) == 768 + 2 * (256 + 1024) + 2048
    assert placement(int8_heads=True).layers == ("stem", "point", "head")
