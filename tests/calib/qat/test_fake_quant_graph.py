"""Fake quantisation computes what the int8 graph for TensorRT does: every kind of residual sum, float layers, heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig
from torchvision.models.resnet import BasicBlock, Bottleneck

from ssd_edge.calib.placement.tensorrt import place_for_tensorrt
from ssd_edge.calib.qat.fake_quant import FakeQuantization
from ssd_edge.calib.qat.module_ranges import float_layers, module_ranges
from ssd_edge.calib.qat.schemes import SCHEMES
from ssd_edge.export.trace import onnx_from_predictor
from ssd_edge.models.architecture import Architecture, register_architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.create import create_model
from ssd_edge.models.default_boxes import DefaultBoxConfig, linear_scales
from ssd_edge.models.head import ssd_head
from ssd_edge.models.predict import Predictor
from ssd_edge.models.ssd import SSDConfig

ARCH, SIZE = "every_residual_block", 64


def mobile(expanded: int) -> InvertedResidual:
    return InvertedResidual(InvertedResidualConfig(16, 3, expanded, 16, True, "HS", 1, 1, 1.0), nn.BatchNorm2d)


class Blocks(Backbone):
    """One feature map, 16 cells wide, behind residual blocks of every kind; sums enter sums."""

    channels = (32,)

    def __init__(self) -> None:
        super().__init__()
        wider = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32))
        self.layers = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 16, 5, stride=4, padding=2, bias=False), nn.BatchNorm2d(16), nn.Hardswish()),
            mobile(16),  # no expansion: the depthwise convolution, which stays float, reads the block's input
            mobile(48),
            mobile(48),
            Bottleneck(16, 8, downsample=wider),
            BasicBlock(32, 32),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.layers(x)]


@pytest.fixture(scope="module", autouse=True)
def architecture() -> None:
    config = SSDConfig(
        arch=ARCH,
        size_hw=(SIZE, SIZE),
        default_boxes=DefaultBoxConfig(aspect_ratios=((2,),), scales=linear_scales(0.4, 0.6, levels=1)),
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
        score_threshold=0.01,
        nms_iou=0.5,
        candidates=50,
        detections=20,
    )
    register_architecture(Architecture(config, backbone=Blocks, head=ssd_head))


@dataclass
class Case:
    """A model with random weights, its float graph, images, and the range of every tensor on them."""

    predictor: Predictor
    graph: onnx.ModelProto
    images: NDArray[np.uint8]
    ranges: dict[str, tuple[float, float]]

    def of_graph(self, model: onnx.ModelProto) -> NDArray[np.float32]:
        """Scores, each node computed as it stands: ONNX Runtime would round biases to make integer kernels of pairs."""
        options = ort.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(["scores"], {"images": self.images})[0])

    def of_torch(self) -> NDArray[np.float32]:
        with torch.no_grad():
            _, scores = self.predictor(torch.from_numpy(self.images))
        return np.asarray(scores)


@pytest.fixture(scope="module")
def case(architecture: None) -> Case:
    torch.manual_seed(0)
    model = create_model(ARCH, 3)
    predictor = Predictor(model).eval()
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    graph = onnx_from_predictor(predictor, (SIZE, SIZE))
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    names = [n.output[0] for n in graph.graph.node if n.op_type not in ("Cast", "Reshape", "Shape")]
    known = {output.name for output in graph.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = ort.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    values = zip(names, session.run(names, {"images": images}), strict=True)
    return Case(predictor, graph, images, {name: (float(v.min()), float(v.max())) for name, v in values})


def distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((first - second) ** 2)))


@pytest.mark.parametrize("int8_heads", [False, True])
@pytest.mark.parametrize("kept", [(), ("layers.3.block.3.0",), ("layers.4.conv3", "layers.5.conv1")])
def test_fake_quantisation_is_what_the_graph_computes(case: Case, int8_heads: bool, kept: tuple[str, ...]) -> None:
    outputs = [n.output[0] for n in case.graph.graph.node if n.op_type == "Conv" and any(k in n.input[1] for k in kept)]
    assert len(outputs) == len(kept)
    int8 = place_for_tensorrt(case.graph, case.ranges.__getitem__, keep_float=outputs, int8_heads=int8_heads)
    in_float, expected = case.of_torch(), case.of_graph(int8)
    layers = float_layers(case.graph, int8)
    quantization = FakeQuantization(case.predictor.model, SCHEMES["tensorrt"], float_layers=layers)
    quantization.set_ranges(module_ranges(case.graph, case.ranges))
    assert quantization.ranges.keys() == quantization.quantisers.keys()
    found = case.of_torch()
    quantization.remove()
    assert distance(found, expected) < 0.1 * distance(in_float, expected)
