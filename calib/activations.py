"""Run an fp32 graph on images and look at its activations, one image at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ssd_edge.errors import ModelFileError, reason
from ssd_edge.onnx_graph import GraphIndex, element_types
from ssd_edge.runtime.backends.ort_session import open_session

REMEDY = "write an fp32 file with: ssd-edge export CHECKPOINT -o model.onnx"
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# What passes values on as they are: the outputs of the heads on their way to box decoding and softmax.
MOVING = frozenset({"Concat", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})

QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"})


@dataclass(frozen=True)
class NonFinite:
    """The first layer of the graph, in its order, that gives NaN or infinity.

    Attributes:
        value: `NaN` or `infinity`.
        node, op, tensor: the layer's name and operator, and its output.
        weight: the layer's first weight that is not finite itself, or None.
    """

    value: str
    node: str
    op: str
    tensor: str
    weight: str | None

    def __str__(self) -> str:
        cause = f"its weight {self.weight} is not finite" if self.weight else "its inputs and weights are finite"
        return f"{self.op} {self.node!r} (tensor {self.tensor!r}) gives {self.value}; {cause}"


def activation_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the float tensors of the network proper that depend on the image, in graph order.

    These are the tensors from which a convolution or matrix product can still be reached (the normalised image, all
    of backbone and neck, what the heads read), the outputs of the last of them, and those as reshaped and joined.
    What box decoding and softmax compute is left out; so are weights and constants.
    """
    floats = _float_tensors(model)
    leads = _leading_to_weighted(model)
    wanted: set[str] = set()
    for node in model.graph.node:
        ends_head = node.op_type in WEIGHTED
        moves_head = node.op_type in MOVING and any(name in wanted for name in node.input)
        wanted.update(name for name in node.output if name in leads or ends_head or moves_head)
    return [name for name in floats if name in wanted]


def check_tensors(model: onnx.ModelProto, tensors: Collection[str]) -> list[str]:
    """`tensors` in graph order, each once.

    Raises:
        ModelFileError: one that is no float activation of the graph.
    """
    asked = set(tensors)
    found = [name for name in _float_tensors(model) if name in asked]
    if missing := sorted(asked - set(found)):
        raise ModelFileError(
            f"{len(missing)} tensors to calibrate are no float activations of this graph, such as {missing[0]!r}; "
            "take the names from the fp32 graph that is calibrated"
        )
    return found


class ActivationRunner:
    """A graph with some of its float tensors as outputs, in ONNX Runtime on the CPU.

    Args:
        model: an fp32 graph that obeys the ONNX contract; it is not changed.
        tensors: names as `activation_tensors` or `check_tensors` give.
        threads: as in `open_session`.

    Raises:
        ModelFileError: the graph is not fp32, its input is another, or ONNX Runtime cannot load it.
    """

    def __init__(
        self, model: onnx.ModelProto, tensors: Collection[str], size_hw: tuple[int, int], *, threads: int | None = None
    ) -> None:
        check_graph(model, size_hw)
        self.tensors = tuple(tensors)
        self._input = model.graph.input[0].name
        self._session = _load(_with_outputs(model, self.tensors), threads)

    def run(self, image_rgb: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Name and values of each tensor for one uint8 [height, width, 3] image, in the order of `tensors`.

        Raises:
            ModelFileError: ONNX Runtime cannot run the graph.
        """
        try:
            image = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(image_rgb[None]))
            values = self._session.run_with_ort_values(list(self.tensors), {self._input: image})
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise ModelFileError(f"the graph does not run: {reason(error)}; {REMEDY}") from error
        values.reverse()
        for name in self.tensors:
            yield name, values.pop().numpy()  # so that each is freed once it has been looked at


def first_non_finite(
    model: onnx.ModelProto, image_rgb: NDArray[np.uint8], *, threads: int | None = None
) -> NonFinite | None:
    """The first layer that gives NaN or infinity for a uint8 [height, width, 3] image; None when none does."""
    runner = ActivationRunner(model, _float_tensors(model), image_rgb.shape[:2], threads=threads)
    for name, values in runner.run(image_rgb):
        if not np.isfinite(values).all():
            index = GraphIndex(model.graph)
            node = index.producer[name]
            value = "NaN" if np.isnan(values).any() else "infinity"
            return NonFinite(value, node.name, node.op_type, name, _non_finite_weight(index, node))
    return None


def check_graph(model: onnx.ModelProto, size_hw: tuple[int, int]) -> None:
    """Refuse what is not an fp32 graph with the contract's input.

    Raises:
        ModelFileError: says what was found and what was expected.
    """
    height, width = size_hw
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [tensor for tensor in model.graph.input if tensor.name not in weights]
    shapes = [[d.dim_value or d.dim_param or "?" for d in tensor.type.tensor_type.shape.dim] for tensor in inputs]
    kinds = [tensor.type.tensor_type.elem_type for tensor in inputs]
    if kinds != [TensorProto.UINT8] or shapes[0][1:] != [height, width, 3] or shapes[0][0] not in ("batch", "?", 1):
        found = [f"{TensorProto.DataType.Name(k)} {s}" for k, s in zip(kinds, shapes, strict=True)]
        raise ModelFileError(
            f"the graph to calibrate takes {', '.join(found) or 'no input'}; expected one UINT8 input "
            f"[batch, {height}, {width}, 3], batch dynamic or 1; {REMEDY}"
        )
    half = any(tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for tensor in model.graph.initializer)
    if half or any(node.op_type in QUANTISED for node in model.graph.node):
        raise ModelFileError(f"the graph to calibrate is {'half' if half else 'int8'} already, not fp32; {REMEDY}")


def _float_tensors(model: onnx.ModelProto) -> list[str]:
    """Float outputs of nodes that depend on the graph's input, in graph order."""
    types, index = element_types(model), GraphIndex(model.graph)
    depends = set(index.inputs)
    names = []
    for node in index.nodes:
        if depends.intersection(node.input):
            depends.update(filter(None, node.output))
            names += [name for name in node.output if name and types.get(name) == TensorProto.FLOAT]
    return names


def _leading_to_weighted(model: onnx.ModelProto) -> set[str]:
    """Tensors that a convolution or matrix product reads, at once or after other operators."""
    leads: set[str] = set()
    for node in reversed(model.graph.node):
        if node.op_type in WEIGHTED or leads.intersection(node.output):
            leads.update(node.input)
    return leads


def _with_outputs(model: onnx.ModelProto, tensors: Collection[str]) -> bytes:
    """The file of the same graph with `tensors` as its only outputs."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    del extended.graph.output[:]
    extended.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    return bytes(extended.SerializeToString())


def _load(file: bytes, threads: int | None) -> ort.InferenceSession:
    try:
        return open_session(file, threads=threads, arena=False)  # the arena would keep twice what the activations take
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        raise ModelFileError(
            f"the graph to calibrate: ONNX Runtime {ort.__version__} cannot load it: {reason(error)}; {REMEDY}"
        ) from error


def _non_finite_weight(index: GraphIndex, node: onnx.NodeProto) -> str | None:
    for name, tensor in index.constants.items():
        is_weight = name in node.input and tensor.data_type == TensorProto.FLOAT
        if is_weight and not np.isfinite(index.array(name)).all():
            return str(name)
    return None
