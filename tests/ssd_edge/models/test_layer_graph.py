"""A described network: what it computes, and that no description gets past the checks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ssd_edge.box_coding import BoxCoding
from ssd_edge.errors import ModelFileError
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.layer_graph import OPS, Concat, L2Norm, LayerGraph, Sum, architecture_of, is_name
from ssd_edge.models.ssd import SSDConfig

CONV: dict[str, Any] = {
    "op": "conv",
    "kernel": [3, 3],
    "stride": [1, 1],
    "padding": [1, 1],
    "dilation": [1, 1],
    "groups": 1,
    "bias": True,
}
POOL: dict[str, Any] = {"op": "max_pool", "kernel": [3, 3], "stride": [2, 2], "padding": [0, 0]}
BOXES = DefaultBoxConfig(shapes=(((0.1, 0.1), (0.2, 0.1)), ((0.5, 0.5),)), clip=False)
CONFIG = SSDConfig("caffe", (32, 48), BOXES, (0, 0, 0), (1, 1, 1), 0.01, 0.45, 400, 200, BoxCoding(max_log_scale=None))


def network() -> dict[str, Any]:
    return {
        "layers": [
            {"name": "conv1", "inputs": ["images"], **CONV, "out": 8},
            {"name": "relu1", "inputs": ["conv1"], "op": "relu"},
            {"name": "conv2", "inputs": ["relu1"], **CONV, "out": 8, "groups": 8},
            {"name": "bn2", "inputs": ["conv2"], "op": "batch_norm", "eps": 1e-5},
            {"name": "total", "inputs": ["relu1", "bn2"], "op": "sum"},
            {"name": "both", "inputs": ["total", "relu1"], "op": "concat"},
            {"name": "pool", "inputs": ["both"], **POOL},
        ],
        "levels": [
            {"feature": "both", "class": [dict(CONV)], "box": [dict(CONV)]},
            {
                "feature": "pool",
                "class": [{**CONV, "out": 16, "groups": 16}, {"op": "relu6"}, dict(CONV)],
                "box": [dict(CONV)],
            },
        ],
    }


def test_it_computes_what_it_describes() -> None:
    model = architecture_of("caffe", network(), CONFIG).make(3).eval()
    graph = model.backbone
    assert isinstance(graph, LayerGraph)
    image = torch.randn(2, 3, 32, 48)
    first = F.relu(graph.layers["conv1"](image))
    both = torch.cat((first + graph.layers["bn2"](graph.layers["conv2"](first)), first), 1)
    features = graph(image)
    torch.testing.assert_close(features[0], both)
    torch.testing.assert_close(features[1], F.max_pool2d(both, 3, 2, ceil_mode=True))
    assert graph.channels == (16, 16)
    outputs = model(image)
    anchors = 32 * 48 * 2 + 16 * 24
    assert [tuple(value.shape) for value in outputs] == [(2, anchors, 4), (2, anchors, 4)]
    names = [name for name in model.state_dict() if name.startswith("head.classification_head.module_list.1")]
    assert [name.split(".")[4] for name in names] == ["0", "0", "2", "2"]


def test_the_norm_has_its_epsilon_inside_the_root() -> None:
    norm = L2Norm(2, eps=0.25)
    norm.weight.data = torch.tensor([1.0, 10.0])
    x = torch.tensor([0.0, 1.5]).view(1, 2, 1, 1)
    torch.testing.assert_close(norm(x).flatten(), torch.tensor([0.0, 15.0 / 2.5**0.5]))
    assert norm(torch.zeros(1, 2, 1, 1)).abs().sum() == 0


@pytest.mark.parametrize(
    ("rows", "kernel", "stride", "pad", "expected"), [(75, 2, 2, 0, 38), (5, 2, 2, 1, 3), (6, 3, 2, 0, 3)]
)
def test_pooling_rounds_as_caffe_does(rows: int, kernel: int, stride: int, pad: int, expected: int) -> None:
    """5 rows with padding: ceil((5 + 2 − 2) / 2) + 1 = 4 windows, of which the last would begin behind the rows."""
    for op in ("max_pool", "average_pool"):
        pool, _ = OPS[op].make({"kernel": [kernel] * 2, "stride": [stride] * 2, "padding": [pad] * 2}, [1])
        assert pool(torch.zeros(1, 1, rows, rows)).shape[2] == expected


def test_sums_and_concatenations_take_any_number() -> None:
    values = [torch.full((1, 1, 1, 1), float(k)) for k in (1, 2, 4)]
    assert Sum()(*values).item() == 7
    assert Concat()(*values).flatten().tolist() == [1, 2, 4]


Change = Callable[[dict[str, Any]], Any]
CHANGES: dict[str, tuple[Change, str]] = {
    "more": (lambda n: n.update(more=1), "its fields are"),
    "no levels": (lambda n: n.update(levels=[]), "lists of 1 to"),
    "a text for layers": (lambda n: n.update(layers="layers"), "lists of 1 to"),
    "too many layers": (lambda n: n.update(layers=n["layers"] * 1000), "lists of 1 to 2000"),
    "a layer that is no object": (lambda n: n["layers"].append(3), "TypeError"),
    "an unknown layer": (lambda n: n["layers"][1].update(op="exec"), "there is no layer 'exec'"),
    "a layer that is a list": (lambda n: n["layers"][1].update(op=[]), "TypeError"),
    "a field too many": (lambda n: n["layers"][1].update(inplace=True), "a relu has the fields"),
    "a field too few": (lambda n: n["layers"][0].pop("bias"), "a conv has the fields"),
    "a large kernel": (lambda n: n["layers"][0].update(kernel=[99999, 1]), "kernel of a conv is"),
    "no stride": (lambda n: n["layers"][0].update(stride=[0, 1]), "stride of a conv is"),
    "a text for a number": (lambda n: n["layers"][0].update(out="8"), "out of a conv is '8'"),
    "many channels": (lambda n: n["layers"][0].update(out=1 << 30), "out of a conv is"),
    "many parameters": (lambda n: n["layers"][0].update(out=1 << 14, kernel=[1000, 1000]), "more than"),
    "many channels behind one another": (
        lambda n: n["layers"][5].update(inputs=["relu1"] * 5000),
        "layer both has 40000 channels",
    ),
    "groups that do not divide": (lambda n: n["layers"][2].update(groups=3), "do not divide into 3 groups"),
    "a cycle": (lambda n: n["layers"][0].update(inputs=["pool"]), "which no earlier layer makes"),
    "no input": (lambda n: n["layers"][0].update(inputs=[]), "which no earlier layer makes"),
    "two inputs of a relu": (lambda n: n["layers"][1].update(inputs=["conv1"] * 2), "reads 2 values"),
    "a sum of other channels": (lambda n: n["layers"][4].update(inputs=["images", "bn2"]), "a sum of 3, 8 channels"),
    "a name twice": (lambda n: n["layers"][1].update(name="conv1"), "no name for a layer, or for two"),
    "a name of PyTorch": (lambda n: n["layers"][1].update(name="forward"), "no name for a layer"),
    "a name with a point": (lambda n: n["layers"][1].update(name="a.b"), "no name for a layer"),
    "an epsilon that is no number": (lambda n: n["layers"][3].update(eps=float("nan")), "eps of a batch_norm is nan"),
    "a level of the image": (lambda n: n["levels"][0].update(feature="images"), "expected the feature it reads"),
    "a level of nothing": (lambda n: n["levels"][0].update(feature="fc7"), "expected the feature it reads"),
    "a level without boxes": (lambda n: n["levels"][0].pop("box"), "expected the feature it reads"),
    "one level for two": (lambda n: n["levels"].pop(), "1 levels, but default boxes for 2"),
    "a head that sums": (lambda n: n["levels"][1]["class"].insert(0, {"op": "sum"}), "a sum in a chain"),
    "a head that ends in a relu": (lambda n: n["levels"][0]["box"].append({"op": "relu"}), "ends in something else"),
    "a head of its own width": (lambda n: n["levels"][0]["box"][0].update(out=3), "ends in something else"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_descriptions_that_are_not_valid(name: str) -> None:
    change, match = CHANGES[name]
    described = copy.deepcopy(network())
    change(described)
    with pytest.raises(ModelFileError, match=match):
        architecture_of("caffe", described, CONFIG)


def test_names_are_those_of_modules() -> None:
    assert all(map(is_name, ("conv4_3", "0")))
    assert not any(map(is_name, ("", "a/b", "ä", "keys", "x" * 101, "training")))
