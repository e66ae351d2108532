"""What every section of `measure.py` is given: models, a frame, the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.gpu.inputs import Inputs
from benchmarks.gpu.models import open_engine
from benchmarks.gpu.record import need
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.cuda.base import Cuda

LARGE_BATCH = 32


@dataclass(kw_only=True)
class Bench(Inputs):
    """The same on a GPU.

    Attributes:
        engines: TensorRT engines that have run here, by architecture, precision and batch.
    """

    cuda: Cuda
    engines: dict[tuple[str, str, int], Path] = field(default_factory=dict)

    def detectors(self, arch: str, batch: int) -> Iterator[tuple[str, Callable[[], GpuDetector]]]:
        """Every way to run an architecture in our pipeline here."""
        checkpoint = self.models[arch].checkpoint
        for name, half in (("PyTorch fp32", False), ("PyTorch fp16", True)):
            if checkpoint is not None:
                yield name, partial(open_on_pytorch, checkpoint, half=half, batch=batch)
        for (of, precision, size), path in self.engines.items():
            if (of, size) == (arch, batch):
                yield f"TensorRT {precision}", partial(open_engine, path)


def open_on_pytorch(checkpoint: Path, *, half: bool, batch: int) -> GpuDetector:
    """
    Raises:
        NotRunError: no PyTorch, or one without CUDA.
    """
    need("torch", "safetensors")
    from benchmarks.gpu.torch_peers import open_on_torch

    return open_on_torch(checkpoint, half=half, batch=batch)
