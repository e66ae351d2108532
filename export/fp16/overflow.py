"""How large the activations of a graph become, as half overflows above 65504."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from tqdm import tqdm

from ssd_edge.errors import GateFailedError, UsageError
from ssd_edge.export.fp16.plan import FLOAT, described, known_types
from ssd_edge.onnx_graph import GraphIndex
from ssd_edge.runtime.backends.ort_session import open_session


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
    types, index = known_types(model), GraphIndex(model.graph)
    tensors = [name for name in index.producer if types[name] == FLOAT]
    del watched.graph.output[:]
    for number, name in enumerate(tensors):
        # ReduceMax passes over NaN; a sum does not.
        for kind in ("Max", "Min", "Sum"):
            output = f"ssd_edge_{kind}_{number}"
            watched.graph.node.append(helper.make_node(f"Reduce{kind}", [name], [output], keepdims=0))
            watched.graph.output.append(helper.make_tensor_value_info(output, FLOAT, []))
    session = open_session(watched.SerializeToString())
    input_name = model.graph.input[0].name
    maxima = dict.fromkeys(tensors, 0.0)
    for image in tqdm(images_rgb, desc="overflow", unit="image", disable=None, leave=False):
        figures = np.array(session.run(None, {input_name: image[None]})).reshape(-1, 3)
        for name, (largest, smallest, total) in zip(tensors, figures.tolist(), strict=True):
            if not all(map(math.isfinite, (largest, smallest, total))):
                value = largest if math.isinf(largest) else total
                node = described(index.producer[name], index.constants)
                raise GateFailedError(
                    f"{node} gives {value} in float32 already; a checkpoint that diverged in training does this: "
                    "train it again with a lower learning rate"
                )
            maxima[name] = max(maxima[name], largest, -smallest)
    return maxima
