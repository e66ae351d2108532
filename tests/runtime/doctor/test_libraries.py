"""Checks of OpenCV, ONNX Runtime and PyTorch: whole, lacking, or not loading."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssd_edge.runtime.doctor import libraries
from ssd_edge.runtime.doctor.finding import MISSING, NONE, OK, PROBLEM, Finding
from tests.runtime.host.machines import DESKTOP, ORIN


def fake_cv2(backends: dict[str, bool], *, gui: str = "QT5", gstreamer: str = "NO") -> dict[str, Any]:
    names = list(backends)
    registry = SimpleNamespace(
        getBackends=lambda: range(len(names)),
        getBackendName=names.__getitem__,
        hasBackend=lambda number: backends[names[number]],
    )
    build = f"  GUI:                {gui}\n\n  Video I/O:\n    GStreamer:        {gstreamer} (1.20.3)\n"
    return {"__version__": "4.10.0", "videoio_registry": registry, "getBuildInformation": lambda: build}


def test_opencv(module: Callable[..., None]) -> None:
    module("cv2", **fake_cv2({"FFMPEG": True, "GSTREAMER": True, "V4L2": True, "UEYE": False}, gstreamer="YES"))
    assert libraries.opencv() == Finding(
        OK,
        "4.10.0, FFMPEG, GSTREAMER, V4L2",
        {"version": "4.10.0", "backends": ["FFMPEG", "GSTREAMER", "V4L2"], "gstreamer": True, "windows": True},
    )


def test_opencv_without_windows_or_cameras(module: Callable[..., None]) -> None:
    module("cv2", **fake_cv2({"FFMPEG": True, "V4L2": True}, gui="NONE"))
    found = libraries.opencv()
    assert (found.status, found.gives) == (MISSING, "stream --show")
    module("cv2", **fake_cv2({"FFMPEG": True, "V4L2": False}))
    found = libraries.opencv()
    assert (found.status, found.gives) == (MISSING, "cameras")
    assert found.summary.endswith("no V4L2")


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ("libGL.so.1: cannot open shared object file", "sudo apt install libgl1 libglib2.0-0"),
        ("numpy.core.multiarray failed to import", "pip install --force-reinstall opencv-python"),
    ],
)
def test_opencv_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, message: str, fix: str) -> None:
    (tmp_path / "cv2.py").write_text(f"raise ImportError({message!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    found = libraries.opencv()
    assert (found.status, found.summary, found.fix) == (PROBLEM, f"does not load: {message}", fix)


def test_onnxruntime(module: Callable[..., None]) -> None:
    providers = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    module("onnxruntime", __version__="1.20.0", get_available_providers=lambda: providers)
    found = libraries.onnxruntime()
    assert found == Finding(OK, "1.20.0, Tensorrt, CPU", {"version": "1.20.0", "providers": providers})


def fake_torch(*, cuda: str | None, available: bool) -> dict[str, Any]:
    return {
        "__version__": "2.9.0",
        "version": SimpleNamespace(cuda=cuda),
        "cuda": SimpleNamespace(is_available=lambda: available),
    }


@pytest.mark.parametrize(
    ("tree", "cuda", "available", "status", "words"),
    [
        ({}, None, False, OK, "on the processor"),
        (DESKTOP, "13.0", True, OK, "on the GPU"),
        (DESKTOP, None, False, PROBLEM, "a build without CUDA"),
        (DESKTOP, "13.0", False, PROBLEM, "its CUDA 13.0 does not see the GPU"),
        (ORIN, None, False, OK, "on the processor"),
    ],
)
def test_torch(
    machine: Callable[..., Path],
    module: Callable[..., None],
    installed: Callable[..., None],
    tree: dict[str, str],
    cuda: str | None,
    available: bool,
    status: str,
    words: str,
) -> None:
    installed(torch="2.9.0")
    module("torch", **fake_torch(cuda=cuda, available=available))
    found = libraries.torch(machine(tree))
    assert (found.status, found.facts) == (status, {"version": "2.9.0", "cuda": cuda, "gpu": available})
    assert words in found.summary


def test_torch_is_missed_where_one_trains(machine: Callable[..., Path], installed: Callable[..., None]) -> None:
    installed()
    found = libraries.torch(machine())
    assert (found.status, found.fix) == (MISSING, "in the folder of ssd-edge: pip install '.[train]'")
    assert libraries.torch(machine(ORIN)).status == NONE
