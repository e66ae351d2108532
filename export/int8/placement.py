"""A graph with Q/DQ for a target, and with the layers that are left in float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from functools import partial

import onnx

from ssd_edge.calib.placement.cpu import float_layers_for_cpu, place_for_cpu
from ssd_edge.calib.placement.graph import Graph
from ssd_edge.calib.placement.tensorrt import OF_THE_HEADS, float_layers_for_tensorrt, place_for_tensorrt
from ssd_edge.calib.table import CalibrationTable
from ssd_edge.errors import ModelFileError
from ssd_edge.export.fp16.convert import half_from_float
from ssd_edge.export.int8.options import Int8Options
from ssd_edge.images import load_image
from ssd_edge.runtime.preprocess import preprocess

OVERFLOW_IMAGES = 8  # that the float part is looked at for overflow of half
GIVEN_BACK = "given back to float"  # why a layer is in float, as in `ssd_edge.calib.placement`


class Placement:
    """A float graph, its ranges, and the placement of a target; layers are named as in the checkpoint.

    Attributes:
        layers: convolutions that the target runs in int8, in graph order.

    Raises:
        ModelFileError: a convolution's weights are no constants.
    """

    def __init__(self, graph: onnx.ModelProto, table: CalibrationTable, options: Int8Options) -> None:
        self.graph, self._table, self._options = graph, table, options
        index = Graph(graph)
        for node in index.of("Conv"):
            if node.input[1] not in index.constants:
                raise ModelFileError(f"convolution {node.name!r:.100} computes its weights, so there is no int8 for it")
        if options.target == "cpu":
            self._why_float = float_layers_for_cpu(index)
            self._place = place_for_cpu
        else:
            self._why_float = float_layers_for_tensorrt(index, int8_heads=options.int8_heads)
            self._place = partial(place_for_tensorrt, int8_heads=options.int8_heads)
        convolutions = index.of("Conv")
        self._multiplications = {node.name: index.multiplications(node) for node in convolutions}
        self._nodes: dict[str, list[onnx.NodeProto]] = {}  # several where they share their weights
        for node in convolutions:
            if node.name not in self._why_float:
                self._nodes.setdefault(_layer_name(node), []).append(node)
        self.layers = tuple(self._nodes)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """(low, high) of each activation, by tensor."""
        return {tensor: self._table.range_of(tensor, self._options.method) for tensor in self._table.ranges}

    def place(self, keep_float: Collection[str] = ()) -> onnx.ModelProto:
        """The model with these layers left float."""
        return self._place(
            self.graph,
            lambda tensor: self._table.range_of(tensor, self._options.method),
            keep_float=self._outputs(keep_float),
        )

    def final(self, keep_float: Collection[str] = ()) -> tuple[onnx.ModelProto, list[str]]:
        """The model as it is written, for `tensorrt` with its float part in half, and what there is to say of that."""
        model = self.place(keep_float)
        if self._options.target != "tensorrt":
            return model, []
        images = [load_image(path) for path in self._options.images.paths[:OVERFLOW_IMAGES]]
        half, report = half_from_float(model, [preprocess(image, _size_hw(model)) for image in images])
        return half, [line for line in str(report).splitlines() if line.startswith(("kept in float32", "note"))]

    def work(self, keep_float: Collection[str] = ()) -> int:
        """Multiplications for one image, one in half counted as two in int8, as on NVIDIA's tensor cores.

        All convolutions count: those that are never int8 make a layer given back cost a smaller share.
        """
        in_float = {*self._why_float, *self._outputs(keep_float)}
        return sum(count * (2 if name in in_float else 1) for name, count in self._multiplications.items())

    def describe(self, keep_float: Collection[str] = ()) -> str:
        """How many convolutions are int8, and why the others are not, each with its share of the multiplications."""
        reasons = self._why_float | dict.fromkeys(self._outputs(keep_float), GIVEN_BACK)
        numbers, multiplications = Counter(reasons.values()), Counter[str]()
        for name, reason in reasons.items():
            multiplications[reason] += self._multiplications[name]
        whole = sum(self._multiplications.values()) or 1
        share = 1 - sum(multiplications.values()) / whole
        total = len(self._multiplications)
        text = f"{total - len(reasons)} of {total} convolutions in int8, {share:.0%} of the multiplications"
        others = [f"{numbers[reason]} {reason} ({part / whole:.1%})" for reason, part in multiplications.most_common()]
        if OF_THE_HEADS in numbers:
            others.append("--int8-heads quantises the heads too")
        return "; ".join([text, *([f"not {', '.join(others)}"] if others else [])])

    def _outputs(self, layers: Collection[str]) -> list[str]:
        return [node.output[0] for name in layers for node in self._nodes[name]]


def _layer_name(node: onnx.NodeProto) -> str:
    """A convolution's name in the checkpoint; the exporter keeps it in the name of its weights."""
    return str(node.input[1]).removeprefix("model.").removesuffix(".weight")


def _size_hw(graph: onnx.ModelProto) -> tuple[int, int]:
    _, height, width, _ = (dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim)
    return height, width
