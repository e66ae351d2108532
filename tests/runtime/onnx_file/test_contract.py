"""What a model of another tool is told."""

import pytest
from onnx import TensorProto, helper

from ssd_edge.errors import ModelFileError
from ssd_edge.runtime.detector import open_detector
from tests.runtime.onnx_file.models import FLOAT, Write


def test_a_model_of_another_tool_is_told_what_does_not_fit(write: Write) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["input"], ["boxes"]),
            helper.make_node("NonMaxSuppression", ["boxes", "boxes"], ["detections"]),
        ],
        "theirs",
        [helper.make_tensor_value_info("input", FLOAT, [1, 3, 300, 300])],
        [helper.make_tensor_value_info("detections", TensorProto.INT64, ["found", 3])],
    )
    with pytest.raises(ModelFileError) as caught:
        open_detector(write(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])))
    for part in (
        "no model card",
        "inputs ['input'] and outputs ['detections']; expected input images and outputs boxes and scores",
        "input input: float [1, 3, 300, 300]; expected uint8 RGB pixels, with the normalisation inside the graph",
        "colour planes first; expected [batch, height, width, 3]",
        "the batch of input input is fixed at 1; expected a dynamic first dimension",
        "NonMaxSuppression is inside the graph; expected all boxes and scores",
        "ssd-edge export",
    ):
        assert part in str(caught.value)
