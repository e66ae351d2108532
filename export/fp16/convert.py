"""Half precision in the graph: weights and activations float16, box decoding and softmax float32.

TensorRT 11 takes a network's types from the graph alone ("Strongly Typed Networks" in
https://docs.nvidia.com/deeplearning/tensorrt), so this is where the precision of each layer is decided. Inputs and
outputs keep names, types and shapes.

Half has 11 bits of mantissa and no number above 65504. What sums many values or exponentiates stays in float32, and so
does whatever a look at real images finds to overflow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from ssd_edge.export.fp16.overflow import activation_maxima
from ssd_edge.export.fp16.plan import HALF_MAX, label, plan_halves
from ssd_edge.export.fp16.rewrite import Rewriter

NEAR_OVERFLOW = 0.5  # of HALF_MAX: worth a note, as other images may reach further


@dataclass(frozen=True)
class HalfReport:
    """What `half_from_float` decided.

    Attributes:
        images: how many it looked at.
        kept_float: nodes that half cannot hold, by name, and why. Those that are float32 by rule are not among them.
        near_overflow: largest magnitude of each tensor above half of what half holds, by its node.
        half_nodes: nodes that compute in half.
    """

    images: int
    kept_float: Mapping[str, str] = field(default_factory=dict)
    near_overflow: Mapping[str, float] = field(default_factory=dict)
    half_nodes: int = 0

    def __str__(self) -> str:
        lines = [f"{self.half_nodes} nodes in half; overflow looked for on {self.images} images"]
        lines += [f"kept in float32: {name}: {reason}" for name, reason in self.kept_float.items()]
        lines += [
            f"note: {name} reaches {value:.0f}, half ends at {HALF_MAX:.0f}"
            for name, value in self.near_overflow.items()
        ]
        return "\n".join(lines)


def half_from_float(
    model: onnx.ModelProto, images_rgb: Iterable[NDArray[np.uint8]], *, keep_float: Collection[str] = ()
) -> tuple[onnx.ModelProto, HalfReport]:
    """`half_graph` of a float32 graph, with every node in float32 that overflows half on real images.

    Args:
        images_rgb: uint8 [height, width, 3] each, as `preprocess` gives.
        keep_float: as in `half_graph`.

    Raises:
        GateFailedError: an activation is NaN or infinite in float32 already; its node is named.
        ModelFileError, UsageError: as `half_graph`.
    """
    images = list(images_rgb)
    plan = plan_halves(model, keep_float)
    maxima = activation_maxima(model, images)
    kept = dict(plan.lossy)
    for tensor, nodes in plan.half_neighbours().items():
        if maxima.get(tensor, 0) > HALF_MAX:
            reason = f"{plan.maker(tensor)} reaches {maxima[tensor]:.3g}, half ends at {HALF_MAX:.0f}"
            kept |= {label(node): reason for node in nodes if label(node) not in kept}
    if kept.keys() - plan.lossy.keys():
        plan = plan_halves(model, [*keep_float, *kept])
    near = {
        plan.maker(tensor): maxima[tensor]
        for tensor in plan.half_neighbours()
        if NEAR_OVERFLOW * HALF_MAX < maxima.get(tensor, 0) <= HALF_MAX
    }
    half_nodes = sum(map(plan.is_half, plan.index.nodes))
    return Rewriter(plan).model(), HalfReport(len(images), kept, near, half_nodes)


def half_graph(model: onnx.ModelProto, *, keep_float: Collection[str] = ()) -> onnx.ModelProto:
    """The same network with half weights and activations, strongly typed: each Cast that is needed is written out.

    In float32 stay, by rule: the normalisation of the image, from the Cast of the uint8 `images` on; box decoding and
    softmax, with one Cast each at offsets and logits; the L2 norm of SSD300-VGG16's conv4_3, whose squares overflow
    half; means and sums, whose sums may; every operator not in `HALF_OPERATORS`. So do nodes with weights that half
    cannot hold, or of which too little is left (`LARGEST_WEIGHT_ERROR`).

    QuantizeLinear and DequantizeLinear take the float type of the data on their float side, as strong typing asks for;
    a DequantizeLinear that feeds both types is written twice. Half ones need opset 19, which the result then has; else
    opset and IR version stay.

    Args:
        model: float32 ONNX contract file, with Q/DQ or without; not changed.
        keep_float: names of nodes, or of tensors for the nodes that make them, to leave in float32.

    Raises:
        UsageError: `keep_float` has a name that the graph does not have.
        ModelFileError: the graph has control flow or functions of its own, or a tensor whose type cannot be told.
    """
    return Rewriter(plan_halves(model, keep_float)).model()
