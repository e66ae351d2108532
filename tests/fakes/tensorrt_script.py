"""What the stand-in for TensorRT is to do and was asked to do, and the GPU that it runs on."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from ssd_edge.card import ModelCard
from ssd_edge.runtime.cuda.base import Memory
from ssd_edge.runtime.cuda.errors import CudaMemoryError
from tests.fakes.host_cuda import HostCuda, HostStream

ANCHORS = 2
CARD = ModelCard(
    arch="fake",
    height=32,
    width=32,
    class_names=("a", "b", "c"),
    category_ids=(1, 2, 4),
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    score_threshold=0.5,
    nms_iou=0.5,
    candidates=10,
    detections=10,
)


@dataclass
class Script:
    """What the fakes shall do, and what was asked of them.

    Attributes:
        says: what TensorRT logs while it builds, loads or runs: (severity, text).
        plan: what a build gives; None: it fails.
        loads: whether an engine can be deserialised.
        batch: smallest, optimum and largest batch of the engine.
        classes: of its scores.
        threads: in which the GPU's context is current.
        mallocs: how many allocations succeed.
        capturable: whether RTX says that a CUDA graph can hold the engine.
        takes_kernels: whether RTX takes kernels that were kept.
        layers: what the inspector says of an engine.
        rtx: whether this is TensorRT-RTX.
        streams: of the GPU, by handle.
        gone: what was let go of, in order: context, config, cache (RTX's), engine, and the GPU.
    """

    says: Sequence[tuple[IntEnum, str]] = ()
    plan: bytes | None = b"plan"
    loads: bool = True
    has_context: bool = True
    runs: bool = True
    batch: tuple[int, int, int] = (1, 1, 1)
    classes: int = 3
    size: int = 32
    threads: set[int] = field(default_factory=set)
    mallocs: int = 100
    capturable: bool = True
    takes_kernels: bool = True
    dla_cores: int = 0
    takes_cache: bool = True
    layers: str = '{"Layers": []}'
    rtx: bool = False
    calls: list[Any] = field(default_factory=list)
    streams: dict[int, HostStream] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    logger: Any = None
    cuda: Any = None

    def note_end(self, thing: object, name: str) -> None:
        weakref.finalize(thing, self.gone.append, name)

    def speak(self) -> None:
        for severity, text in self.says:
            self.logger.log(severity, text)


class FakeCuda(HostCuda):
    """A GPU for `fake_tensorrt`: the script knows its streams, and says how many allocations it has."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script
        self.closed = 0

    def stream(self) -> HostStream:
        stream = super().stream()
        self.script.streams[stream.handle] = stream
        return stream

    def memory(self, size: int) -> Memory:
        self.script.mallocs -= 1
        if self.script.mallocs < 0:
            raise CudaMemoryError(f"out of GPU memory for {size} bytes")
        return super().memory(size)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        thread = threading.get_ident()
        self.script.threads.add(thread)
        try:
            return function(*arguments)
        finally:
            self.script.threads.remove(thread)

    def close(self) -> None:
        self.closed += 1
        self.script.gone.append("GPU")
