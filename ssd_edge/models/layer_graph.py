"""`LayerGraph`: a backbone that is described by data, layer by layer, and the head that goes with it.

A description comes out of a model card, which can come from anywhere: `architecture_of` checks all of it, and bounds
what it makes, before a tensor is allocated. It is JSON:

    {"layers": [{"name": "conv1", "op": "conv", "inputs": ["images"], "out": 64, "kernel": [3, 3], …}, …],
     "levels": [{"feature": "conv4_3", "class": [{"op": "conv", "kernel": [3, 3], …}], "box": [{…}]}, …]}

Each layer makes the value of its name. `class` and `box` are the chains of layers that predict at a level; their last
one is a convolution without `out`, which follows from the default boxes and the number of classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssd_edge.errors import ModelFileError
from ssd_edge.models.architecture import Architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.head import SSDHead
from ssd_edge.models.ssd import SSDConfig
from ssd_edge.option_checks import is_number, is_whole

IMAGES = "images"  # the value that the first layers read: normalised, RGB
MAX_LAYERS = 2000
MAX_LEVELS = 32
MAX_CHANNELS = 1 << 14
MAX_SIDE = 1 << 10  # of kernels, strides, dilations and padding
MAX_PARAMETERS = 1 << 28  # 1 GB; VGG SSD512 has 27 million

_EMPTY = nn.ModuleDict()  # whose attributes cannot be names of layers

Fits = Callable[[Any], bool]


class L2Norm(nn.Module):
    """Channels divided by their length at each position, times a learnt scale; ε is added inside the root.

    weiliu89/caffe, branch ssd, normalize_layer.cpp: `Forward_cpu`.
    """

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        # From the length, not from squares: the fp16 pass knows the operator and keeps what follows in float32
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return self.weight[:, None, None] * (x / (length * length + self.eps).sqrt())


class Sum(nn.Module):
    """The sum of values of one shape."""

    def forward(self, *values: Tensor) -> Tensor:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total


class Concat(nn.Module):
    """Values one after the other along their channels."""

    def forward(self, *values: Tensor) -> Tensor:
        return torch.cat(values, dim=1)


@dataclass(frozen=True)
class Op:
    """A kind of layer.

    Attributes:
        fields: what a layer of it has besides name, op and inputs, and what fits.
        make: (the layer, channels of each input) -> its module and its channels.
        parameters: (the layer, channels of its first input) -> how many it learns.
        several: whether it takes more than one input.
    """

    fields: Mapping[str, Fits]
    make: Callable[[Mapping[str, Any], Sequence[int]], tuple[nn.Module, int]]
    parameters: Callable[[Mapping[str, Any], int], int] = lambda layer, channels: 0
    several: bool = False


def _whole(low: int, high: int) -> Fits:
    return lambda value: is_whole(value) and low <= value <= high


def _pair(low: int) -> Fits:
    """(vertical, horizontal)."""
    return lambda value: isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_whole(low, MAX_SIDE), value))


def _is_eps(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1


def _conv(layer: Mapping[str, Any], channels: Sequence[int]) -> tuple[nn.Module, int]:
    kernel, stride, padding, dilation = (tuple(layer[name]) for name in ("kernel", "stride", "padding", "dilation"))
    return nn.Conv2d(
        channels[0], layer["out"], kernel, stride, padding, dilation, layer["groups"], layer["bias"]
    ), layer["out"]


def _conv_parameters(layer: Mapping[str, Any], channels: int) -> int:
    if channels % layer["groups"] or layer["out"] % layer["groups"]:
        raise ValueError(f"{channels} channels in and {layer['out']} out do not divide into {layer['groups']} groups")
    return layer["out"] * (channels // layer["groups"] * math.prod(layer["kernel"]) + 1)


def _same(make: Callable[[Mapping[str, Any], int], nn.Module]) -> Callable[..., tuple[nn.Module, int]]:
    """Of a layer with as many channels as its first input."""
    return lambda layer, channels: (make(layer, channels[0]), channels[0])


def _sum(layer: Mapping[str, Any], channels: Sequence[int]) -> tuple[nn.Module, int]:
    if len(set(channels)) > 1:
        raise ValueError(f"a sum of {', '.join(map(str, channels))} channels; expected one number of them")
    return Sum(), channels[0]


def _pool(kind: type[nn.MaxPool2d] | type[nn.AvgPool2d]) -> Op:
    """Caffe's pooling: the last window may reach over the edge, but begins inside (pooling_layer.cpp: `Reshape`)."""

    def make(layer: Mapping[str, Any], channels: int) -> nn.Module:
        kernel, stride, padding = (tuple(layer[name]) for name in ("kernel", "stride", "padding"))
        return kind(kernel, stride, padding, ceil_mode=True)

    return Op({"kernel": _pair(1), "stride": _pair(1), "padding": _pair(0)}, _same(make))


_CONV_FIELDS: Mapping[str, Fits] = {
    "kernel": _pair(1),
    "stride": _pair(1),
    "padding": _pair(0),
    "dilation": _pair(1),
    "groups": _whole(1, MAX_CHANNELS),
    "bias": lambda value: isinstance(value, bool),
}
OPS: Mapping[str, Op] = {
    "conv": Op({**_CONV_FIELDS, "out": _whole(1, MAX_CHANNELS)}, _conv, _conv_parameters),
    "batch_norm": Op(
        {"eps": _is_eps}, _same(lambda layer, channels: nn.BatchNorm2d(channels, layer["eps"])), lambda _, c: 4 * c
    ),
    "relu": Op({}, _same(lambda layer, channels: nn.ReLU())),
    "leaky_relu": Op(
        {"slope": lambda value: is_number(value) and math.isfinite(value)},
        _same(lambda layer, channels: nn.LeakyReLU(layer["slope"])),
    ),
    "relu6": Op({}, _same(lambda layer, channels: nn.ReLU6())),
    "max_pool": _pool(nn.MaxPool2d),
    "average_pool": _pool(nn.AvgPool2d),
    "global_average_pool": Op({}, _same(lambda layer, channels: nn.AdaptiveAvgPool2d(1))),
    "l2_norm": Op({"eps": _is_eps}, _same(lambda layer, channels: L2Norm(channels, layer["eps"])), lambda _, c: c),
    "sum": Op({}, _sum, several=True),
    "concat": Op({}, lambda layer, channels: (Concat(), sum(channels)), several=True),
}


class LayerGraph(Backbone):
    """The layers of a checked description.

    Args:
        layers: in an order in which each reads what earlier ones made.
        features: names of the values that are the feature maps.
    """

    def __init__(self, layers: Sequence[Mapping[str, Any]], features: Sequence[str]):
        super().__init__()
        self.layers = nn.ModuleDict()
        self._inputs: dict[str, tuple[str, ...]] = {}
        self._features = tuple(features)
        channels = {IMAGES: 3}
        for layer in layers:
            name, inputs = layer["name"], tuple(layer["inputs"])
            self.layers[name], channels[name] = OPS[layer["op"]].make(layer, [channels[value] for value in inputs])
            self._inputs[name] = inputs
        self.channels = tuple(channels[name] for name in features)
        last_use = {value: name for name, inputs in self._inputs.items() for value in inputs}
        self._done_after = {
            name: [value for value, last in last_use.items() if last == name and value not in self._features]
            for name in self._inputs
        }

    def forward(self, x: Tensor) -> list[Tensor]:
        values = {IMAGES: x}
        for name, layer in self.layers.items():
            values[name] = layer(*(values[value] for value in self._inputs[name]))
            for value in self._done_after[name]:  # so that memory is that of a network written by hand
                del values[value]
        return [values[name] for name in self._features]


DESCRIBED = "caffe"  # the architecture of detectors that their cards describe, and no module registers


def architecture_of(arch: str, network: Mapping[str, Any], config: SSDConfig) -> Architecture:
    """The architecture that a description makes.

    Args:
        arch: its name in messages.
        network: the description.
        config: the model's settings; its default boxes have one level for each of the description.

    Raises:
        ModelFileError: the description is not valid, or too large.
    """
    try:
        check_network(network)
        if len(network["levels"]) != config.default_boxes.levels:
            raise ValueError(f"{len(network['levels'])} levels, but default boxes for {config.default_boxes.levels}")
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelFileError(
            f"the network {arch} is not valid ({type(error).__name__}: {error}); import the model again"
        ) from error
    features = [level["feature"] for level in network["levels"]]
    backbone = partial(LayerGraph, network["layers"], features)
    return Architecture(config, backbone, partial(_head, network["levels"]))


def check_network(network: Mapping[str, Any]) -> None:
    """Check all of a description, and bound what it makes.

    Raises:
        ValueError: something in it is not as it must be, or too large.
        TypeError, AttributeError, KeyError: a part of it is missing, or of another type.
    """
    if set(network) != {"layers", "levels"}:
        raise ValueError(f"its fields are {sorted(network)!s:.100}, expected layers and levels")
    channels = _check_layers(_list(network["layers"], MAX_LAYERS))
    for level in _list(network["levels"], MAX_LEVELS):
        _check_level(level, channels)


def _list(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        raise ValueError(f"expected lists of 1 to {most} entries")
    return value


def _check_layers(layers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Channels of each value.

    Raises:
        ValueError: a layer that is not as its kind is, reads what no earlier one makes, or takes a name for the second
            time.
    """
    channels = {IMAGES: 3}
    parameters = 0
    for layer in layers:
        name, inputs = layer["name"], layer["inputs"]
        if not isinstance(name, str) or not is_name(name) or name in channels:
            raise ValueError(f"{name!r:.100} is no name for a layer, or for two")
        if not isinstance(inputs, list) or not inputs or not set(inputs) <= set(channels):
            raise ValueError(f"layer {name} reads {inputs!r:.100}, which no earlier layer makes")
        fed = [channels[value] for value in inputs]
        op = _check_fields(layer, {"name", "inputs"})
        if len(inputs) > 1 and not op.several:
            raise ValueError(f"layer {name}, a {layer['op']}, reads {len(inputs)} values; expected one")
        parameters += op.parameters(layer, fed[0])
        if parameters > MAX_PARAMETERS:
            raise ValueError(f"more than {MAX_PARAMETERS} parameters")
        with torch.device("meta"):
            _, channels[name] = op.make(layer, fed)
        if channels[name] > MAX_CHANNELS:
            raise ValueError(f"layer {name} has {channels[name]} channels; expected up to {MAX_CHANNELS}")
    return channels


def _check_fields(layer: Mapping[str, Any], common: set[str]) -> Op:
    op = OPS.get(layer["op"])
    if op is None:
        raise ValueError(f"there is no layer {layer['op']!r:.100}")
    if set(layer) != {"op", *common, *op.fields}:
        raise ValueError(f"a {layer['op']} has the fields {sorted(op.fields)}, not {sorted(layer)!s:.200}")
    for field, fits in op.fields.items():
        if not fits(layer[field]):
            raise ValueError(f"{field} of a {layer['op']} is {layer[field]!r:.100}")
    return op


def is_name(name: str) -> bool:
    """Whether a layer can have the name: as modules of PyTorch are named, and by no name that they have already."""
    return re.fullmatch(r"\w{1,100}", name, re.ASCII) is not None and not hasattr(_EMPTY, name)


def _check_level(level: Mapping[str, Any], channels: Mapping[str, int]) -> None:
    if set(level) != {"feature", "class", "box"} or level["feature"] not in channels or level["feature"] == IMAGES:
        raise ValueError(f"a level is {level!r:.100}; expected the feature it reads, class and box")
    for chain in (_list(level["class"], MAX_LAYERS), _list(level["box"], MAX_LAYERS)):
        now = channels[level["feature"]]
        parameters = 0
        for layer in _with_output(chain, 1):
            op = _check_fields(layer, set())
            if op.several:
                raise ValueError(f"a {layer['op']} in a chain of the head")
            parameters += op.parameters(layer, now)
            if parameters > MAX_PARAMETERS:
                raise ValueError(f"more than {MAX_PARAMETERS} parameters at a level")
            now = layer.get("out", now)


def _with_output(chain: Sequence[Mapping[str, Any]], out: int) -> list[Mapping[str, Any]]:
    """The chain with the channels that its last layer has, a convolution."""
    last = chain[-1]
    if last["op"] != "conv" or "out" in last or last["groups"] != 1:
        raise ValueError("a chain of the head ends in something else than a convolution without groups and `out`")
    return [*chain[:-1], {**last, "out": out}]


def _head(
    levels: Sequence[Mapping[str, Any]], channels: Sequence[int], boxes_per_cell: Sequence[int], logits: int
) -> nn.Module:
    chains = {kind: [partial(_predict, level[kind]) for level in levels] for kind in ("class", "box")}
    return SSDHead(channels, boxes_per_cell, logits, chains["class"], chains["box"])


def _predict(chain: Sequence[Mapping[str, Any]], channels: int, outputs: int) -> nn.Module:
    modules = []
    for layer in _with_output(chain, outputs):
        module, channels = OPS[layer["op"]].make(layer, [channels])
        modules.append(module)
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)
