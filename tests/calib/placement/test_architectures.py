"""Which convolutions of every architecture are int8 for TensorRT, by kind, and that no pair blocks a documented fusion.

The numbers follow from the networks' tables. MobileNetV3-Large has 15 blocks, the first without an expansion (so
1 + 14 · 2 pointwise and 15 depthwise convolutions), 8 of them with squeeze-and-excitation, and one pointwise layer
behind them; each of its 4 extra blocks is pointwise, depthwise, pointwise. ResNet-50 up to its third stage has 13
blocks of two pointwise and one regular convolution, 3 more in shortcuts and one at the beginning. VGG16 has 10 up to
conv4_3; its "extra" layers begin with conv5_1 to conv5_3, fc6 (regular) and fc7 (pointwise), then 4 or 5 pairs of a
pointwise and a regular one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from ssd_edge.calib.placement.graph import Graph
from ssd_edge.calib.placement.residual import residual_sums
from ssd_edge.calib.placement.tensorrt import (
    DEPTHWISE,
    ONE_VALUE,
    float_layers_for_tensorrt,
    place_for_tensorrt,
)
from ssd_edge.calib.qat.fake_quant import FakeQuantization
from ssd_edge.calib.qat.module_ranges import float_layers, module_ranges
from ssd_edge.calib.qat.schemes import SCHEMES
from ssd_edge.checkpoint import model_from_checkpoint
from ssd_edge.models.architecture import ARCHITECTURES
from ssd_edge.models.create import COCO_CLASSES
from ssd_edge.onnx_graph import node_attribute
from tests.calib.placement.fusion_rules import DQ, PairedGraph, Q, broken_rules
from tests.detectors.exported_architectures import CLASSES, Exported

SSDLITE, FULL_TAIL = "ssdlite320_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large_full_tail"
SSD300, SSD512, RESNET = "ssd300_vgg16", "ssd512_vgg16", "ssd300_resnet50"
OURS = (SSDLITE, FULL_TAIL, SSD300, SSD512, RESNET)
# Of other projects, with those whose layers are the same but for channels, an epsilon or a size
IMPORTED = {
    "ssd300_mobilenet_v1": (),
    "ssdlite300_mobilenet_v1": (),
    "ssdlite300_mobilenet_v2": tuple(f"ssdlite300_mobilenet_v2_{width}" for width in ("075", "050", "025")),
    "ssdlite300_squeezenet": (),
    "ssd300_vgg16_batchnorm": (),
    "ssd300_vgg16_bn": ("ssd512_vgg16_bn",),
    "ssd300_vgg16_amdegroot": ("ssd512_vgg16_amdegroot",),
}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Placed:
    """An architecture with 3 classes.

    Attributes:
        reasons: why convolutions are float, by their names, with the heads half, and with the heads in int8 too.
        placed: the graphs with pairs, likewise.
    """

    arch: str
    checkpoint: Path
    graph: onnx.ModelProto
    index: Graph
    reasons: tuple[dict[str, str], ...]
    placed: tuple[onnx.ModelProto, ...]

    @property
    def layers(self) -> tuple[list[onnx.NodeProto], ...]:
        """The convolutions in int8, likewise."""
        return tuple([node for node in self.index.of("Conv") if node.name not in in_float] for in_float in self.reasons)


@pytest.fixture(scope="module", params=OURS)
def model(request: pytest.FixtureRequest, export_once: Callable[[str], Exported]) -> Placed:
    return placed_of(export_once(request.param))


@pytest.fixture(scope="module", params=IMPORTED)
def imported(request: pytest.FixtureRequest, export_once: Callable[[str], Exported]) -> Placed:
    return placed_of(export_once(request.param))


def placed_of(exported: Exported) -> Placed:
    graph = onnx.load(exported.path)
    placed = tuple(place_for_tensorrt(graph, lambda _: (-6.0, 6.0), int8_heads=heads) for heads in (False, True))
    index = Graph(graph)
    reasons = tuple(float_layers_for_tensorrt(index, int8_heads=heads) for heads in (False, True))
    return Placed(exported.arch, exported.checkpoint, graph, index, reasons, placed)


def kinds(placed: onnx.ModelProto) -> dict[str, Counter[str]]:
    """How many convolutions of each kind are int8, and how many float: "backbone pointwise" and so on."""
    graph = PairedGraph(placed)
    found: dict[str, Counter[str]] = {"int8": Counter(), "float": Counter()}
    for node in graph.of("Conv"):
        name = graph.weights(node)
        dims = graph.constants[name].dims
        part = next(part for part in ("head", "extra", "backbone") if part in name)
        if ".fc1." in name or ".fc2." in name:
            kind = "squeeze"
        elif node_attribute(node, "group", 1) != 1:
            kind = "depthwise"
        else:
            kind = "pointwise" if list(dims[2:]) == [1, 1] else "regular"
        found["int8" if graph.is_int8(node) else "float"][f"{part} {kind}"] += 1
    return found


# The last extra layer and the last level of the heads work on a map of one cell.
MOBILENET_INT8 = {"backbone regular": 1, "backbone pointwise": 30, "extra pointwise": 7}
MOBILENET_FLOAT = {"backbone depthwise": 15, "backbone squeeze": 16, "extra pointwise": 1, "extra depthwise": 4}
LITE = (
    (MOBILENET_INT8, MOBILENET_FLOAT | {"head depthwise": 12, "head pointwise": 12}),
    (MOBILENET_INT8 | {"head pointwise": 10}, MOBILENET_FLOAT | {"head depthwise": 12, "head pointwise": 2}),
)
VGG300_INT8 = {"backbone regular": 10, "extra regular": 4 + 3, "extra pointwise": 1 + 4}
VGG300 = (
    (VGG300_INT8, {"extra regular": 1, "head regular": 12}),
    (VGG300_INT8 | {"head regular": 10}, {"extra regular": 1, "head regular": 2}),
)
VGG512_INT8 = {"backbone regular": 10, "extra regular": 4 + 4, "extra pointwise": 1 + 5}
VGG512 = (
    (VGG512_INT8, {"extra regular": 1, "head regular": 14}),
    (VGG512_INT8 | {"head regular": 12}, {"extra regular": 1, "head regular": 2}),
)
RESNET_INT8 = {"backbone regular": 1 + 13, "backbone pointwise": 26 + 3, "extra pointwise": 5, "extra regular": 4}
RESNET50 = (
    (RESNET_INT8, {"extra regular": 1, "head regular": 12}),
    (RESNET_INT8 | {"head regular": 10}, {"extra regular": 1, "head regular": 2}),
)
EXPECTED = {
    SSDLITE: LITE,
    FULL_TAIL: LITE,
    SSD300: VGG300,
    SSD512: VGG512,
    RESNET: RESNET50,
}


def test_every_architecture_is_among_them() -> None:
    backbones = {name: architecture.backbone for name, architecture in ARCHITECTURES.items()}
    modules = {name: getattr(made, "func", made).__module__ for name, made in backbones.items()}
    assert {name for name, module in modules.items() if module.startswith("ssd_edge.")} == {
        *OURS,
        *IMPORTED,
        *(name for names in IMPORTED.values() for name in names),
    }


@pytest.mark.parametrize("heads", [False, True])
def test_convolutions_with_pairs(model: Placed, heads: bool) -> None:
    integer, in_float = EXPECTED[model.arch][heads]
    assert kinds(model.placed[heads]) == {"int8": integer, "float": in_float}
    assert len(model.layers[heads]) == sum(integer.values())
    reasons = Counter(model.reasons[heads].values())
    assert sum(reasons.values()) == sum(in_float.values())
    if heads:
        depthwise = sum(number for kind, number in in_float.items() if "depthwise" in kind)
        assert reasons == +Counter({DEPTHWISE: depthwise, ONE_VALUE: sum(in_float.values()) - depthwise})


@pytest.mark.parametrize("heads", [False, True])
def test_no_pair_blocks_a_fusion(model: Placed, heads: bool) -> None:
    assert broken_rules(model.placed[heads]) == {}


@pytest.mark.parametrize("heads", [False, True])
def test_no_pair_blocks_a_fusion_of_other_projects(imported: Placed, heads: bool) -> None:
    assert broken_rules(imported.placed[heads]) == {}
    integer, in_float = kinds(imported.placed[heads]).values()
    in_heads = sum(number for kind, number in integer.items() if kind.startswith("head"))
    assert bool(in_heads) == heads
    assert sum(integer.values()) > 20
    assert not any(kind.endswith("regular") for kind in in_float if kind.startswith("backbone"))


SUMS = {SSDLITE: 10, FULL_TAIL: 10, SSD300: 0, SSD512: 0, RESNET: 13}


def test_residual_sums_read_the_shortcut_through_a_pair(model: Placed) -> None:
    """All 10 and 13 of them; VGG16 has none and no depthwise convolution, so its graphs have pairs in front alone."""
    found = residual_sums(model.index)
    assert len(found) == SUMS[model.arch]
    graph = PairedGraph(model.placed[False])
    sums = [node for node in graph.of("Add") if graph.is_int8_sum(node)]
    assert [node.name for node in sums] == [entry.node.name for entry in found]
    last_of_block = (".conv3.weight", ".block.1.0.weight", ".block.2.0.weight", ".block.3.0.weight")
    assert all(entry.branch.input[1].endswith(last_of_block) for entry in found)  # no ResNet block's `downsample`
    if not found:
        assert not any(map(model.index.is_depthwise, model.index.of("Conv")))
        assert {node.input[0] for node in graph.of(Q)} == {node.input[0] for node in model.layers[False]}


# Of all multiplications for one image, in percent, with 90 classes
SHARES = {
    SSDLITE: {"heads": 33.6, "depthwise": 7.1, "int8": 60.2, "int8 with heads": 92.8},
    FULL_TAIL: {"heads": 32.5, "depthwise": 6.4, "int8": 61.8, "int8 with heads": 93.3},
    SSD300: {"heads": 13.6, "depthwise": 0.0, "int8": 86.4, "int8 with heads": 100.0},
    SSD512: {"heads": 13.3, "depthwise": 0.0, "int8": 86.7, "int8 with heads": 100.0},
    RESNET: {"heads": 30.3, "depthwise": 0.0, "int8": 69.7, "int8 with heads": 100.0},
}


def test_shares_of_the_arithmetic(model: Placed) -> None:
    """Those that the page shows."""
    graph = model.index

    def of_90_classes(node: onnx.NodeProto) -> int:
        """Multiplications; a convolution that gives logits has 91 outputs per box for the 4 of 3 classes."""
        logits = "classification_head" in node.input[1] and not graph.is_depthwise(node)
        return graph.multiplications(node) * (COCO_CLASSES + 1 if logits else 1) // (len(CLASSES) + 1 if logits else 1)

    parts = {
        "heads": [node for node in model.index.of("Conv") if node.input[1].startswith("model.head.")],
        "depthwise": [node for node in model.index.of("Conv") if graph.is_depthwise(node)],
        "int8": model.layers[False],
        "int8 with heads": model.layers[True],
    }
    whole = sum(map(of_90_classes, model.index.of("Conv")))
    shares = {name: round(100 * sum(map(of_90_classes, part)) / whole, 1) for name, part in parts.items()}
    assert shares == SHARES[model.arch]
    row = f"| `{model.arch}` | {' | '.join(map(str, shares.values()))} |"
    assert row in (Path(__file__).parents[3] / "docs" / "deploy.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("heads", [False, True])
def test_fake_quantisation_rounds_the_same_tensors(model: Placed, heads: bool) -> None:
    assert_rounds_the_same_tensors(model, heads)


def test_fake_quantisation_of_other_projects(imported: Placed) -> None:
    assert_rounds_the_same_tensors(imported, heads=False)


def assert_rounds_the_same_tensors(model: Placed, heads: bool) -> None:
    int8 = model.placed[heads]
    stored = {node.input[0] for node in int8.graph.node if node.op_type == Q}
    dequantised = sum(node.op_type == DQ for node in int8.graph.node)
    assert dequantised == len(stored) + len(model.layers[heads])  # one for each weight
    names = list(dict.fromkeys(name for node in model.graph.graph.node for name in (*node.input, *node.output)))
    numbered = module_ranges(model.graph, {name: (index, index) for index, name in enumerate(names)})
    tensor_of = {layer: names[int(number)] for layer, (number, _) in numbered.items()}
    network, _ = model_from_checkpoint(model.checkpoint)
    layers = float_layers(model.graph, int8)
    quantization = FakeQuantization(network, SCHEMES["tensorrt"], float_layers=layers)
    assert {tensor_of[layer] for layer in quantization.quantisers} == stored
