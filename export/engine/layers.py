"""What an engine really runs in: the share of each precision in its layers, and in its time.

Read from the JSON of TensorRT's engine inspector, whose fields differ: 10.x gives a tensor one `Format/Datatype`, such
as "Thirty-two wide channel vectorized row major Int8 format"; 11.x gives `DataType` and `Format`
(https://docs.nvidia.com/deeplearning/tensorrt/latest/, engine inspector, and its migration from 10.x to 11.x).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ssd_edge.errors import GateFailedError
from ssd_edge.runtime.tensorrt.engine_card import LayerShare

# From the narrowest: a layer runs in the narrowest type that it reads. Integers that are no activations come last.
LAYER_PRECISIONS = (
    ("fp4", re.compile(r"\bfp4\b|e2m1", re.IGNORECASE)),
    ("int4", re.compile(r"\bint4\b", re.IGNORECASE)),
    ("fp8", re.compile(r"\bfp8\b|e4m3|e5m2|float8", re.IGNORECASE)),
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
    ("bf16", re.compile(r"\bbf(loat)?16\b", re.IGNORECASE)),
    ("fp16", re.compile(r"\bfp16\b|\bhalf\b|\bfloat16\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\bfp32\b|\bfloat(32)?\b", re.IGNORECASE)),
    ("other", re.compile(r"\bu?int\d*\b|\bbool\b", re.IGNORECASE)),
)
UNKNOWN = "unknown"
MOVES = "reformat"  # layers that convert or copy, whichever type they read: they are no work of the model's
MOVING_TYPES = {"reformat", "noop", "constant", "signal", "wait"}
# A layer on the DLA has this LayerType; where there are names alone, the copies to and from its memory show it. A name
# such as {ForeignNode[conv1...conv9]} does not: layers on the GPU have it too.
ON_DLA = re.compile(r"DLA\b", re.IGNORECASE)
DLA_COPY = re.compile(r" (?:to|from) nvm$")
CALLED = {"int8": ("int8",), "fp16": ("fp16", "bf16")}  # what a file's precision needs at least one layer of


def layer_shares(information: str, times_ms: Mapping[str, float]) -> dict[str, LayerShare] | None:
    """Share of each precision.

    Args:
        information: JSON of the engine inspector.
        times_ms: time of each layer by name, empty where it was not measured.

    Returns:
        Shares by precision (`int8`, `fp16`, `fp32`, …), `reformat` (conversions and copies), `other` (integers) and
        `unknown`; None where the inspector tells no details of any layer.
    """
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError):
        return None
    detailed = [layer for layer in layers if isinstance(layer, dict)]  # names alone where details were not kept
    if not detailed:
        return None
    counts: dict[str, int] = {}
    times: dict[str, float] = {}
    for layer in detailed:
        precision = layer_precision(layer)
        counts[precision] = counts.get(precision, 0) + 1
        times[precision] = times.get(precision, 0.0) + times_ms.get(str(layer.get("Name")), 0.0)
    total_ms = sum(times.values())
    return {
        precision: LayerShare(
            layers=count,
            layer_share=count / len(detailed),
            time_share=times[precision] / total_ms if total_ms > 0 else None,
        )
        for precision, count in sorted(counts.items(), key=lambda item: -item[1])
    }


def layer_precision(layer: Mapping[str, Any]) -> str:
    """The precision that one layer of the inspector's JSON runs in."""
    if str(layer.get("LayerType", "")).lower() in MOVING_TYPES:
        return MOVES
    read = [_type_of(tensor) for tensor in layer.get("Inputs") or ()]
    weights = layer.get("Weights")
    if isinstance(weights, dict) and weights.get("Count") != 0:
        read.append(str(weights.get("Type", "")))
    found = _narrowest(read)
    if found == UNKNOWN:  # without inputs, or of shapes that were not known
        found = _narrowest([_type_of(tensor) for tensor in layer.get("Outputs") or ()])
    return found


def _type_of(tensor: Any) -> str:
    if not isinstance(tensor, dict):
        return ""
    fields = ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format")
    return next((str(tensor[name]) for name in fields if tensor.get(name)), "")


def _narrowest(types: list[str]) -> str:
    return next((name for name, pattern in LAYER_PRECISIONS if any(map(pattern.search, types))), UNKNOWN)


def check_precision(shares: Mapping[str, LayerShare], precision: str, *, source: str) -> None:
    """Refuse an engine that is not what it is called.

    Raises:
        GateFailedError: it is called int8 or fp16, and has no such layer.
    """
    wanted = CALLED.get(precision, ())
    if not wanted or any(name in shares for name in wanted):
        return
    found = ", ".join(f"{share.layers} {name}" for name, share in shares.items())
    raise GateFailedError(
        f"{source} is not written: its model is called {precision}, but TensorRT runs no layer of it in {precision} "
        f"(layers: {found}); this GPU or TensorRT has no such kernels, or the file has no such tensors: "
        f"export it again with --precision {precision}, or take another precision"
    )


def dla_layers(information: str) -> int:
    """How many layers of an engine run on the deep learning accelerator, from the JSON of the engine inspector."""
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError):
        return 0
    types = [str(layer.get("LayerType", "")) for layer in layers if isinstance(layer, dict)]
    names = [str(layer.get("Name", "")) if isinstance(layer, dict) else str(layer) for layer in layers]
    return sum(map(bool, map(ON_DLA.match, types))) or sum(map(bool, map(DLA_COPY.search, names)))


def check_dla(information: str, *, source: str) -> None:
    """Refuse an engine that was built for the DLA and does not use it.

    Raises:
        GateFailedError: the inspector shows no layer on the DLA.
    """
    if not dla_layers(information):
        raise GateFailedError(
            f"{source} is not written: it was to run on the DLA, but TensorRT's inspector shows no layer there: all of "
            "them fell back to the GPU (--debug shows why); leave --dla out"
        )
