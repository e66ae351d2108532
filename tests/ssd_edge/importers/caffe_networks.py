"""SSDs as Caffe has them, made up to measure: prototxt texts, and caffemodels filled with deterministic weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_edge.importers.caffe_schema import NetParameter, read_network
from tests.ssd_edge.importers.filling import fill

COLUMNS = 4  # classes with the background
FACTOR = 2.5  # third blob of a BatchNorm: its statistics are multiples of it
# Gains of the head, by what lets values grow before it: filled statistics, or pixels that are not scaled
HEAD_GAINS = {"BatchNorm": 0.35, "Normalize": 0.5}
VGG_INPUT = 1 / 70  # gain of a first convolution that reads pixels


class Level(NamedTuple):
    """A feature map and its PriorBox."""

    feature: str
    min_size: float
    max_size: float | None
    ratios: tuple[float, ...]
    step: float | None = None


class Writer:
    """A prototxt, layer by layer."""

    def __init__(self, name: str, height: int, width: int) -> None:
        self.lines = [f'name: "{name}" input: "data"', f"input_shape {{ dim: 1 dim: 3 dim: {height} dim: {width} }}"]

    def layer(self, name: str, type_: str, bottoms: str | Sequence[str], top: str = "", params: str = "") -> str:
        """Add a layer; its top has its name where none is given. Returns the top."""
        bottoms = [bottoms] if isinstance(bottoms, str) else bottoms
        top = top or name
        read = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
        self.lines.append(f'layer {{ name: "{name}" type: "{type_}" {read} top: "{top}" {params} }}')
        return top

    def conv(self, name: str, bottom: str, out: int, kernel: int, params: str = "") -> str:
        return self.layer(
            name,
            "Convolution",
            bottom,
            params=f"convolution_param {{ num_output: {out} kernel_size: {kernel} {params} }}",
        )

    def relu(self, name: str, blob: str) -> str:
        return self.layer(name, "ReLU", blob, blob)

    def norm(self, name: str, blob: str) -> str:
        """BatchNorm and Scale in place."""
        self.layer(f"{name}/bn", "BatchNorm", blob, blob)
        return self.layer(f"{name}/scale", "Scale", blob, blob, "scale_param { bias_term: true }")

    def pool(self, name: str, bottom: str, kernel: int, stride: int, pad: int = 0) -> str:
        params = f"pooling_param {{ pool: MAX kernel_size: {kernel} stride: {stride} pad: {pad} }}"
        return self.layer(name, "Pooling", bottom, params=params)

    def head(
        self, levels: Sequence[Level], kernel: int, output: str, *, columns: int = COLUMNS, prior: str = ""
    ) -> str:
        """What predicts at each level, up to DetectionOutput; returns the whole text."""
        pad = kernel // 2
        for level in levels:
            boxes = 1 + (level.max_size is not None) + 2 * len(level.ratios)
            for kind, out in (("loc", 4 * boxes), ("conf", columns * boxes)):
                blob = self.conv(f"{level.feature}_mbox_{kind}", level.feature, out, kernel, f"pad: {pad}")
                order = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
                self.layer(f"{blob}_flat", "Flatten", self.layer(f"{blob}_perm", "Permute", blob, params=order))
            sizes = f"min_size: {level.min_size}" + (f" max_size: {level.max_size}" if level.max_size else "")
            sizes += "".join(f" aspect_ratio: {ratio}" for ratio in level.ratios)
            sizes += f" step: {level.step}" if level.step else ""
            params = f"prior_box_param {{ {sizes} {prior or 'variance: [0.1, 0.1, 0.2, 0.2] clip: false'} }}"
            self.layer(f"{level.feature}_mbox_priorbox", "PriorBox", (level.feature, "data"), params=params)
        for kind, end, axis in (("loc", "_flat", 1), ("conf", "_flat", 1), ("priorbox", "", 2)):
            parts = [f"{level.feature}_mbox_{kind}{end}" for level in levels]
            self.layer(f"mbox_{kind}", "Concat", parts, params=f"concat_param {{ axis: {axis} }}")
        shape = f"reshape_param {{ shape {{ dim: 0 dim: -1 dim: {columns} }} }}"
        self.layer("mbox_conf_reshape", "Reshape", "mbox_conf", params=shape)
        self.layer("mbox_conf_softmax", "Softmax", "mbox_conf_reshape", params="softmax_param { axis: 2 }")
        self.layer("mbox_conf_flatten", "Flatten", "mbox_conf_softmax")
        params = f"detection_output_param {{ num_classes: {columns} code_type: CENTER_SIZE {output} }}"
        self.layer("detection_out", "DetectionOutput", ("mbox_loc", "mbox_conf_flatten", "mbox_priorbox"), "", params)
        return "\n".join(self.lines)


VGG_OUTPUT = (
    "background_label_id: 0 share_location: true nms_param { nms_threshold: 0.45 top_k: 400 } keep_top_k: 200 "
    "confidence_threshold: 0.01"
)
MOBILENET_OUTPUT = (
    "background_label_id: 0 share_location: true nms_param { nms_threshold: 0.45 top_k: 100 } keep_top_k: 100 "
    "confidence_threshold: 0.25"
)


def vgg(side: int, width: int = 64) -> str:
    """weiliu89's VGG SSD300 or SSD512; the original's layers have `width` 64 times 1, 2, 4 and 8 channels."""
    net = Writer(f"VGG_VOC0712_SSD_{side}x{side}_deploy", side, side)
    blob = "data"
    for stage, (times, convs) in enumerate(((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)), 1):
        for number in range(1, convs + 1):
            name = f"{stage}_{number}"
            blob = net.relu(f"relu{name}", net.conv(f"conv{name}", blob, times * width, 3, "pad: 1"))
        blob = net.pool(f"pool{stage}", blob, *((2, 2) if stage < 5 else (3, 1, 1)))
    blob = net.relu("relu6", net.conv("fc6", blob, 16 * width, 3, "pad: 6 dilation: 6"))
    blob = net.relu("relu7", net.conv("fc7", blob, 16 * width, 1))
    down, last = "pad: 1 stride: 2", ("pad: 0 stride: 1", "pad: 0 stride: 1")
    extras = [(6, 4, 8, 3, down), (7, 2, 4, 3, down), *((k, 2, 4, 3, end) for k, end in zip((8, 9), last, strict=True))]
    if side == 512:
        extras[2:] = [(8, 2, 4, 3, down), (9, 2, 4, 3, down), (10, 2, 4, 4, "pad: 1")]
    for number, middle, out, kernel, params in extras:
        name = f"conv{number}_"
        blob = net.relu(f"{name}1_relu", net.conv(f"{name}1", blob, middle * width, 1))
        blob = net.relu(f"{name}2_relu", net.conv(f"{name}2", blob, out * width, kernel, params))
    net.layer("conv4_3_norm", "Normalize", "conv4_3", "", "norm_param { across_spatial: false channel_shared: false }")
    sizes: list[float] = [30, 60, 111, 162, 213, 264, 315]
    steps = [8, 16, 32, 64, 100, 300]
    if side == 512:
        sizes = [35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6]
        steps = [8, 16, 32, 64, 128, 256, 512]
    features = ["conv4_3_norm", "fc7", *(f"conv{extra[0]}_2" for extra in extras)]
    few = (0, len(features) - 2, len(features) - 1)
    levels = [
        Level(feature, sizes[k], sizes[k + 1], (2,) if k in few else (2, 3), steps[k])
        for k, feature in enumerate(features)
    ]
    return net.head(levels, 3, VGG_OUTPUT)


def mobilenet(*, merged: bool, width: int = 32) -> str:
    """chuanqi305's MobileNet-SSD, with batch norms or with these merged into the convolutions; the original has 32."""
    net = Writer("MobileNet-SSD", 300, 300)

    def block(name: str, bottom: str, out: int, kernel: int, params: str = "") -> str:
        blob = net.conv(name, bottom, out, kernel, params + ("" if merged else " bias_term: false"))
        return net.relu(f"{name}/relu", blob if merged else net.norm(name, blob))

    blob = block("conv0", "data", width, 3, "pad: 1 stride: 2")
    channels = width
    plan = [(2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1)]
    for number, (times, stride) in enumerate(plan, 1):
        blob = block(f"conv{number}/dw", blob, channels, 3, f"pad: 1 stride: {stride} group: {channels}")
        channels = times * width
        blob = block(f"conv{number}", blob, channels, 1)
    for number, middle, out in ((14, 8, 16), (15, 4, 8), (16, 4, 8), (17, 2, 4)):
        blob = block(f"conv{number}_1", blob, middle * width, 1)
        blob = block(f"conv{number}_2", blob, out * width, 3, "pad: 1 stride: 2")
    features = ("conv11", "conv13", "conv14_2", "conv15_2", "conv16_2", "conv17_2")
    sizes = (60, 105, 150, 195, 240, 285, 300)
    levels = [
        Level(feature, sizes[k], sizes[k + 1] if k else None, (2, 3) if k else (2,))
        for k, feature in enumerate(features)
    ]
    return net.head(levels, 1, MOBILENET_OUTPUT)


def small(output: str = VGG_OUTPUT, prior: str = "", *, columns: int = COLUMNS, scaled: bool = False) -> str:
    """A net of 96×160 pixels with what the public ones have not: a residual sum, average pooling, concatenation, a lone
    Scale, ReLU6, a leaky ReLU, a kernel of 1×3, a norm with one scale, and normalisation within the network.
    """
    net = Writer("small", 96, 160)
    blob = net.layer("data_scale", "Scale", "data", "", "scale_param { bias_term: true }") if scaled else "data"
    blob = net.relu("relu1", net.norm("conv1", net.conv("conv1", blob, 16, 5, "pad: 2 stride: 2 bias_term: false")))
    blob = net.pool("pool1", blob, 3, 2)
    left = net.layer("relu2a", "ReLU6", net.conv("conv2a", blob, 16, 3, "pad: 1"), "")
    total = net.layer("sum", "Eltwise", (left, blob))
    total = net.layer("keys", "Dropout", net.norm("sum", total), total)
    wide = "convolution_param { num_output: 8 kernel_h: 1 kernel_w: 3 pad_h: 0 pad_w: 1 stride: 1 group: 2 }"
    blob = net.layer("conv3", "Convolution", total, params=wide)
    blob = net.layer("relu3", "ReLU", blob, blob, "relu_param { negative_slope: 0.1 }")
    blob = net.layer("cat", "Concat", (total, blob))
    params = "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"
    pooled = net.layer("pool2", "Pooling", net.layer("scale", "Scale", blob), "", params)
    net.layer("norm", "Normalize", blob, "", "norm_param { across_spatial: false channel_shared: true }")
    net.relu("relu4", net.conv("conv4", pooled, 32, 3, "pad: 1 stride: 2"))
    levels = [Level("norm", 20, 40, (2,)), Level("conv4", 40, 70, (2, 3))]
    return net.head(levels, 3, output, columns=columns, prior=prior)


NETWORKS: dict[str, Callable[[], str]] = {
    "vgg300": lambda: vgg(300),
    "vgg512": lambda: vgg(512, width=16),
    "mobilenet": lambda: mobilenet(merged=False),
    "mobilenet_merged": lambda: mobilenet(merged=True, width=16),
    "small": lambda: small(),
    "small_scaled": lambda: small(prior="variance: 0.15 clip: true offset: 0.4 step: 9", scaled=True),
}


def fill_weights(prototxt: Path, caffemodel: Path) -> dict[str, list[int]]:
    """Write a caffemodel of filled weights for a prototxt; returns names and shapes of its tensors."""
    net = read_network(prototxt)
    weights = NetParameter(name=net.name)
    shapes: dict[str, list[int]] = {}
    channels = {"data": 3}
    types = {layer.type for layer in net.layer}
    head = next((gain for type_, gain in HEAD_GAINS.items() if type_ in types), 1.0)
    for layer in net.layer:
        out = channels[layer.bottom[0]]
        tensors: dict[str, NDArray[np.float32]] = {}
        if layer.type == "Convolution":
            out = layer.convolution_param.num_output
            tensors = _convolution(layer, channels[layer.bottom[0]], head)
        elif layer.type == "BatchNorm":
            names = ("running_mean", "running_var")
            tensors = {name: fill(f"{layer.name}.{name}", [out]) * np.float32(FACTOR) for name in names}
            tensors["factor"] = np.array([FACTOR], np.float32)
        elif layer.type == "Scale":
            tensors["scale"] = fill(f"{layer.name}.scale", [out])
            if layer.name == "data_scale":
                tensors["scale"] *= np.array([1, -1, 1], np.float32) * np.float32(VGG_INPUT)
            if layer.scale_param.bias_term:
                tensors["bias"] = fill(f"{layer.name}.bias", [out])
        elif layer.type == "Normalize":
            tensors["scale"] = 20 * fill(f"{layer.name}.scale", [1 if layer.norm_param.channel_shared else out])
        elif layer.type == "Concat":
            out = sum(channels.get(bottom, 0) for bottom in layer.bottom)
        channels[layer.top[0]] = out
        if tensors:
            _add_layer(weights, layer, tensors)
            shapes |= {f"{layer.name}.{name}": list(value.shape) for name, value in tensors.items()}
    caffemodel.write_bytes(weights.SerializeToString())
    return shapes


def _convolution(layer: Any, channels: int, head: float) -> dict[str, NDArray[np.float32]]:
    param = layer.convolution_param
    kernel = [param.kernel_h or param.kernel_size[0], param.kernel_w or param.kernel_size[0]]
    shape = [param.num_output, channels // param.group, *kernel]
    gain = VGG_INPUT if layer.bottom[0] == "data" and layer.name != "conv0" else 1.0
    gain = {"loc": head / 2, "conf": head}.get(layer.name.rpartition("_")[2], gain)
    tensors = {"weight": fill(f"{layer.name}.weight", shape, gain)}
    if param.bias_term:
        tensors["bias"] = fill(f"{layer.name}.bias", [param.num_output])
    return tensors


def _add_layer(weights: Any, layer: Any, tensors: dict[str, NDArray[np.float32]]) -> None:
    added = weights.layer.add(name=layer.name, type=layer.type)
    for value in tensors.values():
        blob = added.blobs.add()
        blob.shape.dim.extend(value.shape)
        blob.data.extend(value.ravel())
