"""How large the activations of a graph become, as half overflows above 65504."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper
from tqdm import tqdm

from ssd_edge.errors import GateFailedError, UsageError
from ssd_edge.export.fp16.plan import FLOAT, described, element_types


def activation_maxima(model: onnx.ModelProto, images_rgb: Collection[NDArray[np.uint8]]) -> dict[str, float]:
    """Largest magnitude of every float tensor that a node makes, over all images; by tensor name, in graph order.

    The maxima are taken inside the graph, image by image, so memory is that of one inference.

    Args:
        images_rgb: uint8 [height, width, 3] each.

    Raises:
        GateFailedError: a value is NaN or infinite; the first node that gives one is named.
        UsageError: no images.
    """
    if not len(images_rgb):
        raise UsageError("no images to look for overflow on; give at least one")
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    types = element_types(model)
    makers = {name: node for node in model.graph.node for name in node.output if types.get(name) == FLOAT}
    del watched.graph.output[:]
    for index, name in enumerate(makers):
        # ReduceMax passes over NaN; a sum does not.
        for kind in ("Max", "Min", "Sum"):
            output = f"ssd_edge_{kind}_{index}"
            watched.graph.node.append(helper.make_node(f"Reduce{kind}", [name], [output], keepdims=0))
            watched.graph.output.append(helper.make_tensor_value_info(output, FLOAT, []))
    session = ort.InferenceSession(watched.SerializeToString(), _quiet_options(), providers=["CPUExecutionProvider"])
    input_name = model.graph.input[0].name
    maxima = dict.fromkeys(makers, 0.0)
    for image in tqdm(images_rgb, desc="overflow", unit="image", disable=None, leave=False):
        figures = np.array(session.run(None, {input_name: image[None]})).reshape(-1, 3)
        for name, (largest, smallest, total) in zip(makers, figures.tolist(), strict=True):
            if not all(map(math.isfinite, (largest, smallest, total))):
                value = largest if math.isinf(largest) else total
                raise GateFailedError(
                    f"{described(makers[name], model.graph)} gives {value} in float32 already; a checkpoint that "
                    "diverged in training does this: train it again with a lower learning rate"
                )
            maxima[name] = max(maxima[name], largest, -smallest)
    return maxima


def _quiet_options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    return options
