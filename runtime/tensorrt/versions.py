"""Which TensorRT is installed, and how versions differ: TensorRT 10.3 to 11.x, and TensorRT-RTX.

What differs: the name of the package; strong typing, a flag in 10.x and always on in 11.x and RTX; timing caches,
which RTX does not use; DLA cores, which up to 10.7 and again from 11.4.1 (AGX Orin, JetPack 7.2.2) can be used; which
GPUs can run an engine; how an execution context is made, as RTX compiles for the GPU when it makes one. Builder flags
for FP16 and INT8 are never used: they are gone in 11.x, and here the precision is in the graph.

Sources: https://docs.nvidia.com/deeplearning/tensorrt/latest/ (Python API, migration from 10.x to 11.x, working with
DLA) and https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

from ssd_edge.choices import FLAVOURS
from ssd_edge.errors import MissingDependencyError, SsdEdgeError, UsageError
from ssd_edge.runtime.host.fixes import extra_command, jetpack_fix, tensorrt_fix, tensorrt_load_fix
from ssd_edge.runtime.host.kind import read_host

MODULES = {"tensorrt": ("tensorrt",), "rtx": ("tensorrt_rtx_bindings", "tensorrt_rtx")}
OLDEST = {"tensorrt": (10, 3), "rtx": (1, 7)}
NAMES = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}
# https://docs.nvidia.com/deeplearning/tensorrt/11.4.1/inference-library/work-with-dla.html
DLA_VERSIONS = (
    "Jetson AGX Orin and Orin NX 16GB have two, Orin NX 8GB has one; TensorRT 10.3 to 10.7 (JetPack 6) can use them, "
    "and TensorRT from 11.4.1 (JetPack 7.2.2 or later) those of AGX Orin; leave --dla out to build for the GPU"
)
# TensorRT's classes, by their names there. To mypy they are Any, as every version brings its own;
# tests/runtime/tensorrt/test_bindings.py follows them through the code and checks each use against the real bindings.
Builder: TypeAlias = Any
IBuilderConfig: TypeAlias = Any
ICudaEngine: TypeAlias = Any
IExecutionContext: TypeAlias = Any
ExecutionContextAllocationStrategy: TypeAlias = Any
INetworkDefinition: TypeAlias = Any
IProgressMonitor: TypeAlias = Any
IRuntimeCache: TypeAlias = Any
IRuntimeConfig: TypeAlias = Any
ITimingCache: TypeAlias = Any
OnnxParser: TypeAlias = Any
ParserError: TypeAlias = Any
Runtime: TypeAlias = Any


@dataclass(frozen=True)
class TensorRT:
    """An installed TensorRT.

    Attributes:
        flavour: `tensorrt` or `rtx`.
        version: such as `10.3.0`.
        api: its Python module.
    """

    flavour: str
    version: str
    api: ModuleType

    def __str__(self) -> str:
        return f"{NAMES[self.flavour]} {self.version}"

    @property
    def builds_without_gpu(self) -> bool:
        """RTX compiles for the GPU when it loads an engine, so that it builds anywhere."""
        return self.flavour == "rtx"


def load_tensorrt(flavour: str | None = None) -> TensorRT:
    """Import TensorRT.

    Args:
        flavour: `tensorrt` or `rtx`; None: TensorRT where it is installed, else TensorRT-RTX.

    Raises:
        MissingDependencyError: not installed.
        SsdEdgeError: it does not load, or is too old.
        UsageError: another flavour.
    """
    if flavour not in (None, *FLAVOURS):
        raise UsageError(f"--tensorrt {flavour}: expected tensorrt or rtx")
    for candidate in FLAVOURS if flavour is None else (flavour,):
        api = _import(candidate)
        if api is not None:
            version = str(api.__version__)
            _check_version(candidate, version)
            return TensorRT(candidate, version, api)
    wanted = "neither TensorRT nor TensorRT-RTX" if flavour is None else f"no {NAMES[flavour]}"
    host = read_host()
    if flavour == "rtx":
        raise MissingDependencyError(f"{wanted} is installed", extra="rtx")
    if flavour is None and not host.nvidia:
        raise MissingDependencyError(f"{wanted} is installed; without a GPU TensorRT-RTX builds engines", extra="rtx")
    raise MissingDependencyError(f"{wanted} is installed", extra="tensorrt", fix=tensorrt_fix(host))


def _import(flavour: str) -> ModuleType | None:
    for name in MODULES[flavour]:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                continue
            raise SsdEdgeError(f"{name} is installed but lacks {error.name}; install {NAMES[flavour]} again") from error
        except (ImportError, OSError) as error:
            if isinstance(error.__cause__, KeyboardInterrupt):  # pybind11 wraps it
                raise error.__cause__ from None
            fix = tensorrt_load_fix(str(error))
            raise SsdEdgeError(f"{name} is installed but does not load: {error}; {fix}") from error
        if hasattr(module, "Builder"):  # not so in a mere folder of that name
            return module
    return None


def _check_version(flavour: str, version: str) -> None:
    found = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    oldest = OLDEST[flavour]
    if found < oldest:
        raise SsdEdgeError(
            f"{NAMES[flavour]} {version} is too old; {oldest[0]}.{oldest[1]} or later is needed: {_update_fix(flavour)}"
        )


def _update_fix(flavour: str) -> str:
    if flavour == "rtx":
        return extra_command("rtx")
    host = read_host()
    return f"{jetpack_fix()} (6.0 has TensorRT 8.6)" if host.jetson else tensorrt_fix(host)
