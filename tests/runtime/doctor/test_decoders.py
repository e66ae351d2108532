"""What decodes video: FFmpeg and GStreamer as they are here, and hardware that is not."""

import sys
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from ssd_edge.runtime.doctor import decoders as module
from ssd_edge.runtime.doctor.decoders import decoders
from ssd_edge.runtime.doctor.finding import MISSING, NONE, OK, PROBLEM
from ssd_edge.runtime.sources.gstreamer import GStreamer, hardware_decoders

REASON = "FFmpeg cannot use it here"
JETSON = {"etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1", "proc/device-tree/model": "Orin"}
NVIDIA = {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15"}
CONTAINER = {".dockerenv": ""}
Look = Callable[..., tuple[str, str | None, str | None]]


@pytest.fixture
def look(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Look:
    """Status, summary without the versions, and fix, on a machine of these files."""

    def find(
        *files: dict[str, str], devices: tuple[str, ...] = (), gstreamer: tuple[str | None, list[str]] = (None, [])
    ) -> tuple[str, str | None, str | None]:
        monkeypatch.setattr(module, "_problem_of", lambda kind: None if kind in devices else REASON)
        monkeypatch.setattr(module, "_gstreamer", lambda: gstreamer)
        found = decoders(machine(*files))
        assert found.facts["pyav"] == av.__version__
        return found.status, found.summary.partition("; ")[2], found.fix

    return find


def test_hardware_is_named(look: Look) -> None:
    assert look(devices=("cuda",)) == (OK, "in hardware: NVDEC (FFmpeg)", None)
    named = "in hardware: NVDEC (FFmpeg), nvv4l2decoder (GStreamer)"
    assert look(JETSON, devices=("cuda",), gstreamer=("1.20.3", ["nvv4l2decoder"])) == (OK, named, None)


def test_a_machine_without_any_lacks_nothing(look: Look) -> None:
    assert look() == (NONE, "the processor decodes", None)
    assert look(CONTAINER, gstreamer=("1.22.0", [])) == (NONE, "the processor decodes", None)


def test_a_jetson_without_its_decoder(look: Look) -> None:
    status, summary, fix = look(JETSON)
    assert (status, summary) == (MISSING, "the processor decodes")
    assert str(fix).startswith("sudo apt install python3-gi")
    status, summary, fix = look(JETSON, gstreamer=("1.20.3", []))
    assert (status, fix) == (MISSING, "sudo apt install nvidia-l4t-gstreamer")
    assert str(summary).endswith("nvv4l2decoder is not here")
    assert (
        look(JETSON, CONTAINER, gstreamer=("1.20.3", []))[2] == "start the container with: docker run --runtime nvidia"
    )


def test_a_gpu_without_its_decoder(look: Look) -> None:
    status, summary, fix = look(NVIDIA)
    assert (status, summary) == (MISSING, f"the processor decodes, not the GPU: {REASON}")
    assert str(fix).startswith("sudo apt install libnvidia-decode-570 ")
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in str(look(NVIDIA, CONTAINER)[2])


def test_without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    found = decoders()
    assert (found.status, found.fix) == (PROBLEM, "pip install --force-reinstall av")


def test_this_machine(gstreamer: GStreamer) -> None:
    found = decoders()
    assert found.facts["gstreamer"] == ".".join(map(str, gstreamer.gst.version()[:3]))
    assert found.facts["gstreamer_decoders"] == hardware_decoders(gstreamer.gst)
    assert set(found.facts["ffmpeg_devices"]) == {"cuda", "qsv"}
    assert "avdec_h264" not in found.facts["gstreamer_decoders"]
