"""ssd-edge: take a PyTorch SSD detector to the edge: train, export, prove its mAP, stream.

The names below load their module when they are first used, so `import ssd_edge` itself costs next to nothing
and asks for no optional package.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ssd_edge.version import __version__

if TYPE_CHECKING:
    from ssd_edge.card import ModelCard
    from ssd_edge.data.readers import read_dataset
    from ssd_edge.detections import Detections
    from ssd_edge.models.create import create_model
    from ssd_edge.runtime.detector import open_detector

# ONNX Runtime from 1.29 on sends data of models and their use to its makers unless this is set before it is loaded, and
# keeps files in the home folder for it. Nobody who runs cameras expects that; `ORT_DISABLE_TELEMETRY=0` allows it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Detections", "ModelCard", "__version__", "create_model", "open_detector", "read_dataset"]

_HOME = {
    "Detections": "ssd_edge.detections",
    "ModelCard": "ssd_edge.card",
    "create_model": "ssd_edge.models.create",
    "open_detector": "ssd_edge.runtime.detector",
    "read_dataset": "ssd_edge.data.readers",
}


def __getattr__(name: str) -> Any:  # PEP 562
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
