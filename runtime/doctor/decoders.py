"""Check of what decodes video on this machine."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ssd_edge.errors import SourceError
from ssd_edge.runtime.doctor.finding import MISSING, NONE, OK, PROBLEM, Finding
from ssd_edge.runtime.host.fixes import GSTREAMER_FIX, container_fix
from ssd_edge.runtime.host.kind import read_host

GIVES = "video that is decoded in hardware"
NAMES = {"cuda": "NVDEC", "qsv": "Quick Sync"}  # of the devices that PyAV's FFmpeg is asked for


def decoders(root: Path = Path("/")) -> Finding:
    """FFmpeg, through PyAV; GStreamer; and the decoders in hardware that each can use."""
    try:
        av: Any = importlib.import_module("av")
    except ImportError as error:
        gives, fix = "video files and network cameras", "pip install --force-reinstall av"
        return Finding(PROBLEM, f"PyAV does not load: {error}", {}, gives, fix)
    devices = {kind: _problem_of(kind) for kind in NAMES}
    version, elements = _gstreamer()
    facts = {"pyav": av.__version__, "ffmpeg_devices": devices, "gstreamer": version, "gstreamer_decoders": elements}
    hardware = [f"{NAMES[kind]} (FFmpeg)" for kind, problem in devices.items() if problem is None]
    hardware += [f"{name} (GStreamer)" for name in elements]
    readers = f"PyAV {av.__version__}, " + (f"GStreamer {version}" if version else "no GStreamer")
    if hardware:
        return Finding(OK, f"{readers}; in hardware: {', '.join(hardware)}", facts)
    return _without_hardware(root, f"{readers}; the processor decodes", facts)


def _without_hardware(root: Path, summary: str, facts: dict[str, Any]) -> Finding:
    host = read_host(root)
    if host.jetson and facts["gstreamer"] is None:
        return Finding(MISSING, summary, facts, GIVES, GSTREAMER_FIX)
    if host.jetson:
        fix = container_fix(host) if host.container else "sudo apt install nvidia-l4t-gstreamer"
        return Finding(MISSING, f"{summary}, as nvv4l2decoder is not here", facts, GIVES, fix)
    if host.driver:
        fix = (
            "start the container with: docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
            if host.container
            else f"sudo apt install libnvidia-decode-{host.driver.partition('.')[0]} (Ubuntu; Debian: libnvcuvid1)"
        )
        return Finding(MISSING, f"{summary}, not the GPU: {facts['ffmpeg_devices']['cuda']}", facts, GIVES, fix)
    return Finding(NONE, summary, facts)


def _problem_of(kind: str) -> str | None:
    """Why FFmpeg cannot decode with this kind of device; None: it can."""
    from ssd_edge.runtime.sources.base import SourceOptions  # both load libraries that may be broken
    from ssd_edge.runtime.sources.hardware import accelerator_of

    try:
        accelerator_of(SourceOptions(hwaccel=kind))
    except SourceError as error:
        return str(error).removeprefix(f"--hwaccel {kind}: ").partition(";")[0]
    return None


def _gstreamer() -> tuple[str | None, list[str]]:
    """Its version, and the names of its decoders in hardware."""
    from ssd_edge.runtime.sources.gstreamer import hardware_decoders, load_gstreamer

    found = load_gstreamer()
    if found is None:
        return None, []
    return ".".join(map(str, found.gst.version()[:3])), hardware_decoders(found.gst)
