"""What TensorRT says: kept as it comes, and turned into errors that name the fix."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from ssd_edge.errors import SsdEdgeError
from ssd_edge.packages import is_installed
from ssd_edge.runtime.cuda.find import find_gpu
from ssd_edge.runtime.host.fixes import tensorrt_fix
from ssd_edge.runtime.host.kind import read_host
from ssd_edge.runtime.tensorrt.versions import MODULES, TensorRT

logger = logging.getLogger(__name__)

QUOTED_MESSAGES = 3


@dataclass(frozen=True)
class Message:
    """One line of TensorRT's log; `severity` is INTERNAL_ERROR, ERROR, WARNING or INFO."""

    severity: str
    text: str


class MessageLog:
    """Keeps what TensorRT says, so that an error can quote it.

    Attributes:
        messages: from INFO up; the thousands of VERBOSE lines are left out.
        logger: what TensorRT takes. It has to outlive what is made with it.
    """

    def __init__(self, trt: TensorRT) -> None:
        messages: list[Message] = []
        base = trt.api.ILogger

        def log(_: Any, severity: Any, text: str) -> None:
            if severity.name != "VERBOSE":
                messages.append(Message(severity.name, text))
                logger.debug("%s: %s: %s", trt, severity.name, text)

        self.messages = messages
        self.logger = type("Logger", (base,), {"__init__": lambda logger: base.__init__(logger), "log": log})()

    def clear(self) -> None:
        """Forget what was said: an error quotes only what belongs to it, and the log does not grow with each run."""
        self.messages.clear()

    def quote(self) -> str:
        """The first errors on one line, in TensorRT's own words."""
        errors = [tidy(message.text) for message in self.messages if "ERROR" in message.severity]
        quoted = list(dict.fromkeys(text for text in errors if text))[:QUOTED_MESSAGES]
        return "; ".join(quoted) or "it gives no reason"

    def matches(self, pattern: re.Pattern[str], *, warnings: bool = True) -> re.Match[str] | None:
        """The first match in errors, and in warnings unless they are left out."""
        left_out = ("INFO",) if warnings else ("INFO", "WARNING")
        texts = (message.text for message in self.messages if message.severity not in left_out)
        return next((match for text in texts if (match := pattern.search(text))), None)


def tidy(text: str) -> str:
    """On one line, without the place in TensorRT's sources and the parser's frame around a node."""
    if "ModelImporter.cpp" in text:
        return ""  # said again by the parser, in order
    return re.sub(r"\s*In \S+ at /[^\s()]+", "", " ".join(text.split())).replace("( (", "((")


OUT_OF_MEMORY = re.compile(r"out ?of ?memory|memory \(?\d* ?bytes\)? could not be allocated|bad_alloc", re.IGNORECASE)
# "The engine cannot run on this GPU, which has compute capability …" is TensorRT-RTX's; where "Rebuild the engine for"
# follows, the engine was built for chosen GPUs and this is another that is supported.
UNSUPPORTED_GPU = re.compile(
    r"(?:GPU SM|compute capability)[^\n]{0,40}not supported|Unsupported SM\b|does not support this compute capability|"
    r"cannot run on this GPU(?!.*Rebuild the engine for)|no kernel image is available for execution on the device",
    re.IGNORECASE | re.DOTALL,
)
NO_IMPLEMENTATION = re.compile(r"Could not find any implementation for node ([^\n]{1,300})", re.IGNORECASE)
NO_DRIVER = re.compile(r"driver version is insufficient|no CUDA-capable device|CUDA initialization failure", re.I)


class UnsupportedGpuError(SsdEdgeError):
    """The installed TensorRT does not support the GPU: no build of the engine runs on it."""


def unsupported_gpu(trt: TensorRT, log: MessageLog) -> UnsupportedGpuError | None:
    """The error for a log in which TensorRT refuses the GPU; None: it does not, or it lacks memory.

    Warnings do not count: TensorRT-RTX also warns of other GPUs than this one.
    """
    if log.matches(OUT_OF_MEMORY, warnings=False) or not log.matches(UNSUPPORTED_GPU, warnings=False):
        return None
    gpu = find_gpu()
    name = f"{gpu.name} (compute capability {gpu.compute_capability})" if gpu else "this GPU"
    return UnsupportedGpuError(
        f"{trt} does not support {name}{_listed_gpus(trt)}: {log.quote()}; {unsupported_remedy(trt.flavour)}"
    )


def unsupported_remedy(flavour: str) -> str:
    """What to do about a GPU that this flavour of TensorRT does not support."""
    if flavour == "tensorrt":
        return "install a version of TensorRT whose support matrix lists it"
    there = any(map(is_installed, MODULES["tensorrt"]))
    tensorrt = "with --tensorrt tensorrt" if there else f"({tensorrt_fix(read_host())})"
    return f"use TensorRT {tensorrt}, or run the .onnx file with ONNX Runtime or the checkpoint with PyTorch"


def _listed_gpus(trt: TensorRT) -> str:
    """The GPUs that TensorRT-RTX lists, as part of a sentence; empty where there is no list."""
    if not hasattr(trt.api, "ComputeCapability"):
        return ""
    numbers = [re.fullmatch(r"SM(\d+)(\d)", name) for name in trt.api.ComputeCapability.__members__]
    listed = [f"{number[1]}.{number[2]}" for number in numbers if number]
    return f", it lists compute capability {', '.join(listed)}"
