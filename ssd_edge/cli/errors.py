"""What the command line says of errors, and the exit statuses."""

from __future__ import annotations

import argparse
import logging
import sys

from ssd_edge.errors import MissingDependencyError, SsdEdgeError, first_line

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

# The extra that brings an optional package; `export` brings its own torch.
EXTRA_OF_PACKAGE = {
    "matplotlib": "report",
    "onnx": "export",
    "onnxscript": "export",
    "paho": "mqtt",
    "prometheus_client": "web",
    "pycocotools": "demo",
    "safetensors": "train",
    "starlette": "web",
    "supervision": "track",
    "tensorboard": "tensorboard",
    "torch": "train",
    "torchvision": "train",
    "trackers": "track",
    "uvicorn": "web",
    "yaml": "train",
    "zxingcpp": "demo",
}


def explain(error: Exception, args: argparse.Namespace) -> int:
    """Print one message, or log it where logs are for programs; returns the exit status."""
    tell = logging.getLogger("ssd_edge.cli").error if getattr(args, "log_format", None) == "json" else complain
    known = _missing_dependency(error, args.command) or error
    if isinstance(known, SsdEdgeError):
        tell(f"error: {known}")
        return known.exit_code
    tell(f"unexpected {type(error).__name__}: {first_line(error)} (run with --debug for the traceback)")
    return 1


def _missing_dependency(error: Exception, command: str) -> SsdEdgeError | None:
    if not isinstance(error, ModuleNotFoundError):
        return None
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF_PACKAGE:
        return None
    extra = command if command in ("train", "export") and package != "tensorboard" else EXTRA_OF_PACKAGE[package]
    return MissingDependencyError(f"{command} needs the package {package}, which is not installed", extra=extra)


def complain(message: str) -> None:
    print(f"ssd-edge: {message}", file=sys.stderr)
