"""Checks of the libraries that this package runs on: OpenCV, ONNX Runtime, PyTorch.

Each library is imported by its check alone: the doctor has to run where it does not load.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from ssd_edge.packages import installed_version
from ssd_edge.runtime.doctor.finding import MISSING, NONE, OK, PROBLEM, Finding
from ssd_edge.runtime.host.fixes import extra_command
from ssd_edge.runtime.host.kind import read_host

TORCH_GIVES = "train, eval and parity of checkpoints; with '.[export]' export too"
# OpenCV's back-ends that sources need, and what for.
NEEDED_BACKENDS = {"V4L2": "cameras"}


def onnxruntime() -> Finding:
    """What runs .onnx files."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        fix = "pip install --force-reinstall onnxruntime"
        return Finding(PROBLEM, f"does not load: {error}", {}, "models on the processor", fix)
    providers = list(ort.get_available_providers())
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    return Finding(OK, f"{ort.__version__}, {names}", {"version": ort.__version__, "providers": providers})


def opencv() -> Finding:
    """What reads and shows video."""
    try:
        import cv2
    except ImportError as error:
        library = ".so" in str(error)  # of the system, as in containers without a desktop
        fix = "sudo apt install libgl1 libglib2.0-0" if library else "pip install --force-reinstall opencv-python"
        return Finding(PROBLEM, f"does not load: {error}", {}, "everything: frames are OpenCV's", fix)
    registry = cv2.videoio_registry
    backends = dict.fromkeys(registry.getBackendName(id_) for id_ in registry.getBackends() if registry.hasBackend(id_))
    build = dict(re.findall(r"^ +(GUI|GStreamer): +(\S+)", cv2.getBuildInformation(), re.MULTILINE))
    facts = {
        "version": cv2.__version__,
        "backends": list(backends),
        "gstreamer": build.get("GStreamer", "NO") == "YES",
        "windows": build.get("GUI", "NONE") != "NONE",
    }
    no = [name for name, there in (("GStreamer", facts["gstreamer"]), ("windows", facts["windows"])) if not there]
    summary = f"{cv2.__version__}, {', '.join(backends)}" + "".join(f"; no {name}" for name in no)
    lacking = {name: use for name, use in NEEDED_BACKENDS.items() if name not in backends}
    if lacking:
        gives, fix = " and ".join(lacking.values()), "pip install --force-reinstall opencv-python"
        return Finding(MISSING, f"{summary}; no {', no '.join(lacking)}", facts, gives, fix)
    if not facts["windows"]:
        fix = "pip uninstall -y opencv-python-headless; pip install --force-reinstall opencv-python"
        return Finding(MISSING, summary, facts, "stream --show", fix)
    return Finding(OK, summary, facts)


def torch(root: Path = Path("/")) -> Finding:
    """PyTorch, and whether it sees the GPU where there is one."""
    host = read_host(root)
    if installed_version("torch") is None:
        if host.jetson:
            return Finding(NONE, "not needed on a Jetson: train and export on another machine, copy the .onnx file")
        return Finding(MISSING, "not installed", {}, TORCH_GIVES, extra_command("train"))
    torch: Any = importlib.import_module("torch")  # asked like any package here: the runtime does without it
    cuda, available = torch.version.cuda, torch.cuda.is_available()
    facts = {"version": torch.__version__, "cuda": cuda, "gpu": available}
    summary = f"{torch.__version__}, " + ("on the GPU" if available else "on the processor")
    if available or not host.nvidia or host.jetson:
        return Finding(OK, summary, facts)
    if cuda is None:
        fix = "take both from the package index: pip install --force-reinstall torch torchvision"
        return Finding(PROBLEM, f"{summary}: a build without CUDA", facts, "training on the GPU", fix)
    fix = f"update NVIDIA's driver to one for CUDA {cuda}, see GPU and CUDA"
    return Finding(PROBLEM, f"{summary}: its CUDA {cuda} does not see the GPU", facts, "training on the GPU", fix)
