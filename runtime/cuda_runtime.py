"""The CUDA runtime through cuda-python: which GPU there is, memory on it, one stream. Every call is checked.

`cuda.bindings.runtime` is imported by `load_cudart` alone, when something is to run on a GPU
(https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/runtime.html).
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ssd_edge.errors import MissingDependencyError, SsdEdgeError

DRIVER_REMEDY = (
    "a GPU needs NVIDIA's driver, and a driver for CUDA 12 (JetPack 6) needs cuda-bindings below 13: "
    "in the folder of ssd-edge: pip install '.[cuda12]'"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU as CUDA names it.

    Attributes:
        name: such as `Orin` or `NVIDIA GeForce RTX 4090`.
        compute_capability: such as `8.7`.
        cuda_version: the newest CUDA that its driver runs, such as `12.6`.
    """

    name: str
    compute_capability: str
    cuda_version: str

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability}, CUDA {self.cuda_version})"


@dataclass(frozen=True)
class CopyKinds:
    """Directions in which memory is copied, as the CUDA runtime has them."""

    to_device: Any
    to_host: Any


class CudaError(SsdEdgeError):
    """A CUDA call failed."""


class CudaMemoryError(CudaError):
    """There is not enough memory on the GPU."""


class Cuda:
    """The calls that this package makes, each of which raises instead of returning a status.

    Args:
        cudart: `cuda.bindings.runtime`, or what stands in for it.
    """

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime; returns its value, or None where it has none.

        Raises:
            CudaMemoryError: out of memory on the GPU.
            CudaError: any other status than success.
        """
        status, *values = getattr(self._cudart, name)(*arguments)
        if int(status) != 0:
            self._fail(name, status)
        return values[0] if values else None

    def _fail(self, name: str, status: Any) -> None:
        problem = getattr(status, "name", str(status))
        with suppress(Exception):  # of the message only
            problem = f"{problem}, {self._cudart.cudaGetErrorString(status)[1].decode()}"
        if problem.startswith("cudaErrorMemoryAllocation"):
            raise CudaMemoryError(
                f"out of GPU memory ({name}: {problem}); close what else uses the GPU, or build with a smaller --batch"
            )
        remedy = DRIVER_REMEDY if "Driver" in problem or "NoDevice" in problem else "nvidia-smi shows the GPU's state"
        raise CudaError(f"{name} failed: {problem}; {remedy}")

    def copy_kinds(self) -> CopyKinds:
        """Directions of `cudaMemcpyAsync`."""
        kinds = self._cudart.cudaMemcpyKind
        return CopyKinds(to_device=kinds.cudaMemcpyHostToDevice, to_host=kinds.cudaMemcpyDeviceToHost)

    def gpu(self) -> Gpu | None:
        """The current GPU; None without a driver or a GPU."""
        try:
            if not self.call("cudaGetDeviceCount"):
                return None
            properties = self.call("cudaGetDeviceProperties", self.call("cudaGetDevice"))
            version = self.call("cudaDriverGetVersion")
        except CudaError:
            return None
        name = properties.name
        return Gpu(
            name=name.decode() if isinstance(name, bytes) else str(name),
            compute_capability=f"{properties.major}.{properties.minor}",
            cuda_version=f"{version // 1000}.{version % 1000 // 10}",
        )


def load_cudart() -> Cuda:
    """The CUDA runtime.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
    """
    try:
        return Cuda(importlib.import_module("cuda.bindings.runtime"))
    except ImportError as error:
        raise MissingDependencyError(
            "running on a GPU needs the package cuda-bindings, which is not installed or does not load "
            f"({error}); extra cuda12 for CUDA 12 (JetPack 6), cuda13 for CUDA 13 (JetPack 7)",
            extra="cuda13",
        ) from error


def find_gpu() -> Gpu | None:
    """The GPU that work would run on; None without cuda-bindings, a driver or a GPU."""
    try:
        return load_cudart().gpu()
    except MissingDependencyError:
        return None
