"""Checks of what the base install brings, and whether the bundled model detects what it should; PyTorch.

Each library is imported by its check alone: the doctor has to run where it does not load.
"""

from __future__ import annotations

import re
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_edge.errors import PIP_INSTALL
from ssd_edge.runtime.doctor.finding import MISSING, NONE, OK, PROBLEM, Finding
from ssd_edge.runtime.host.fixes import extra_command
from ssd_edge.runtime.host.kind import read_host

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RUNS = 5
SCORE = 0.4  # the threshold of `stream`
# "ssd-edge" as a QR code, version 1: a row of 21 modules each, dark ones set.
QR_ROWS = (
    *(0x1FD17F, 0x105A41, 0x175F5D, 0x17555D, 0x174F5D, 0x105541, 0x1FD57F, 0x000000, 0x19C12F, 0x1E2D54, 0x06F996),
    *(0x0B3F03, 0x0FE2E3, 0x00171C, 0x1FC25A, 0x105CF8, 0x1759E2, 0x174DDB, 0x174190, 0x105F10, 0x1FDE61),
)
QR_PIXELS, QR_QUIET = 10, 4  # a module's side; the white margin in modules
TORCH_GIVES = "train, eval and parity of checkpoints; with '.[export]' export too"
# The back-ends that ssd_edge.runtime.sources.find asks for, and what for.
NEEDED_BACKENDS = {"FFMPEG": "video files and network cameras", "V4L2": "cameras"}


def installed_version(package: str) -> str | None:
    """Version of an installed package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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


def bundled() -> Finding:
    """The bundled model finds a QR code in a picture, on the processor; and how long a frame takes."""
    from ssd_edge.bundled import bundled_model
    from ssd_edge.runtime.detector import open_detector

    times_ms = []
    with open_detector(bundled_model(), score_threshold=SCORE) as detector:
        for _ in range(RUNS):
            (found,) = detector([qr_picture()])
            times_ms.append(detector.timings.total_ms)
        names = [detector.card.class_names[label] for label in found.labels]
    ms = statistics.median(times_ms)
    facts = {"ms": round(ms, 2), "found": names}
    if names != ["qr_code"]:
        return Finding(
            PROBLEM,
            f"runs, but finds {', '.join(names) or 'nothing'} in a picture of one QR code",
            facts,
            "detections that can be trusted",
            "install ONNX Runtime and ssd-edge again: pip install --force-reinstall onnxruntime, then "
            f"{PIP_INSTALL} --force-reinstall .",
        )
    return Finding(OK, f"finds a QR code in {ms:.1f} ms", facts)


def qr_picture() -> NDArray[np.uint8]:
    """uint8 [480, 640, 3]: a QR code in the middle of grey."""
    import numpy as np

    dark = np.array([[row >> shift & 1 for shift in reversed(range(len(QR_ROWS)))] for row in QR_ROWS], np.uint8)
    code = np.pad(255 * (1 - dark), QR_QUIET, constant_values=255).repeat(QR_PIXELS, 0).repeat(QR_PIXELS, 1)
    picture = np.full((480, 640, 3), 128, np.uint8)
    top, left = (480 - len(code)) // 2, (640 - len(code)) // 2
    picture[top : top + len(code), left : left + len(code)] = code[..., None]
    return picture


def torch(root: Path = Path("/")) -> Finding:
    """PyTorch, and whether it sees the GPU where there is one."""
    host = read_host(root)
    if installed_version("torch") is None:
        if host.jetson:
            return Finding(NONE, "not needed on a Jetson: train and export on another machine, copy the .onnx file")
        return Finding(MISSING, "not installed", {}, TORCH_GIVES, extra_command("train"))
    import torch

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
