"""Kernels that TensorRT-RTX makes of a graph and the activations that they move, as its build log lists them; no GPU.

`engines.py` writes the figures. They show what the compiler decides ahead of time, not how fast the kernels are.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

BYTES = {"Float": 4, "Half": 2, "Int8": 1, "UInt8": 1, "Int32": 4, "Int64": 8, "Bool": 1}
LAYER = re.compile(r"Name: \S+, LayerType: (\w+), Inputs: \[(.*?)\], Constants: .*, Outputs: \[(.*)\]")
TENSOR = re.compile(r"Dimensions: \[([\d,]*)\].*?Datatype: (\w+)")
CONVOLUTION = "correlation"  # the name of a convolution kernel in that log
SYNCHRONISATION = ("signal", "wait")


@dataclass(frozen=True)
class Kernel:
    """A kernel, with (type, bytes for one image) of each activation tensor that it reads and writes."""

    kind: str
    reads: tuple[tuple[str, int], ...]
    writes: tuple[tuple[str, int], ...]


def kernels_of(lines: Iterable[str]) -> list[Kernel]:
    """The kernels that a verbose build log lists.

    Raises:
        ValueError: it lists none.
    """
    found = []
    for line in lines:
        match = LAYER.search(line)
        if match and match[1] not in SYNCHRONISATION:
            found.append(Kernel(match[1], _tensors(match[2]), _tensors(match[3])))
    if not found:
        raise ValueError("the build log lists no layer: this version of TensorRT-RTX writes another log")
    return found


def _tensors(text: str) -> tuple[tuple[str, int], ...]:
    tensors = TENSOR.findall(text)
    return tuple((kind, BYTES[kind] * math.prod(map(int, dims.split(",")))) for dims, kind in tensors if dims)


def figures(kernels: Iterable[Kernel]) -> dict[str, Any]:
    """Kernels, megabytes that they read and write of activations for one image, and what int8 convolutions write."""
    every = list(kernels)
    moved = sum(size for kernel in every for _, size in (*kernel.reads, *kernel.writes))
    integer = [k for k in every if k.kind == CONVOLUTION and any(kind == "Int8" for kind, _ in k.reads)]
    written = sorted({kind for kernel in integer for kind, _ in kernel.writes})
    return {
        "kernels": len(every),
        "activation_megabytes": round(moved / 1e6, 1),
        "int8_convolutions": len(integer),
        "int8_convolutions_write": written,
    }


def build_log(onnx_bytes: bytes) -> list[str]:
    """What TensorRT-RTX says while it builds a graph for one image.

    Raises:
        RuntimeError: it does not build it.
    """
    trt: Any = importlib.import_module("tensorrt_rtx_bindings")

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: object, message: str) -> None:
            self.lines += message.splitlines()

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx_bytes):
        raise RuntimeError(str(parser.get_error(0)))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    images = network.get_input(0)
    shape = (1, *tuple(images.shape)[1:])
    profile.set_shape(images.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        raise RuntimeError("\n".join(log.lines[-5:]))
    return log.lines
