"""`open_detector`: open a model file with the back-end for its kind."""

from __future__ import annotations

from pathlib import Path

from ssd_edge.choices import CHECKPOINT_SUFFIXES
from ssd_edge.errors import MissingDependencyError, ModelFileError, UsageError
from ssd_edge.runtime.backends.base import Detector


def runs_on_gpu(path: Path | str) -> bool:
    """Whether `open_detector` opens a model file on an NVIDIA GPU by itself."""
    return Path(path).suffix == ".engine"


def open_detector(
    path: Path | str,
    *,
    threads: int | None = None,
    score_threshold: float | None = None,
    spin: bool = False,
    device: str | None = None,
    overlap: bool = True,
    parallel: int | None = 1,
) -> Detector:
    """Open a model file: `.onnx` (ONNX Runtime), `.engine` (TensorRT), `.pt` or `.safetensors` (PyTorch).

    PyTorch needs the `train` extra; an engine needs TensorRT, cuda-core and an NVIDIA GPU.

    Args:
        threads: threads that inference uses; None: as many as the backend finds best.
        spin: ONNX Runtime's threads wait for each other at full speed. Lowest latency where nothing else needs the
            cores, and half the frames where something does. For PyTorch, OMP_WAIT_POLICY decides.
        score_threshold: overrides the card's. Raising it never changes the detections that stay.
        device: where PyTorch runs: `cpu`, `cuda`, `cuda:1`; None: the CPU. ONNX Runtime runs on the CPU, an engine on
            the first GPU. On a GPU, resizing and suppression run there too.
        overlap: on a GPU, `submit` uploads a batch while the one before computes; False saves the memory of it, for
            when each batch is collected before the next is there.
        parallel: ONNX Runtime's batches under way at once (`submit`), which share the threads; None: one a thread, each
            of several frames.
            They lose no time to waiting for each other as the threads of one batch do, so that more frames a second
            come out, where there are so many at once; each takes longer.

    Raises:
        ModelFileError: no such file, another kind of file, a file that breaks the contract, or a stale engine.
        MissingDependencyError: the backend's package is not installed.
        UsageError: `threads`, `parallel` or `score_threshold` out of range; the device is not there, or not for this
            file.
    """
    path = Path(path)
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads; expected at least 1")
    if parallel is not None and parallel < 1:
        raise UsageError(f"{parallel} batches under way; expected at least 1")
    if path.suffix not in (".onnx", ".engine", *CHECKPOINT_SUFFIXES):
        raise ModelFileError(f"{path} is no model file; expected .onnx, .engine, .pt, .pth or .safetensors")
    if not path.is_file():
        raise ModelFileError(f"no model file {path}; check the path")
    slots = 2 if overlap else 1
    if path.suffix == ".engine":
        return _open_engine(path, device, score_threshold, slots)
    if path.suffix == ".onnx":
        if device not in (None, "cpu"):
            raise UsageError(f"--device {device}: ONNX files run on the CPU in this version; leave it out")
        from ssd_edge.runtime.backends.onnxruntime import OnnxDetector

        return OnnxDetector(path, threads=threads, score_threshold=score_threshold, spin=spin, parallel=parallel)
    return _open_checkpoint(path, device, threads, score_threshold, slots)


def _open_engine(path: Path, device: str | None, score_threshold: float | None, slots: int) -> Detector:
    if device not in (None, "cuda", "cuda:0"):
        raise UsageError(
            f"--device {device}: engines run on the first GPU; leave it out, and set CUDA_VISIBLE_DEVICES to the "
            "number of another GPU"
        )
    from ssd_edge.runtime.backends.tensorrt import TensorRTDetector

    return TensorRTDetector.open(path, score_threshold=score_threshold, slots=slots)


def _open_checkpoint(
    path: Path, device: str | None, threads: int | None, score_threshold: float | None, slots: int
) -> Detector:
    try:
        from ssd_edge.runtime.backends.torch import TorchDetector
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ssd_edge"):
            raise
        raise MissingDependencyError(
            f"{path} needs PyTorch, but {error.name} is not installed (an .onnx file needs nothing more)",
            extra="train",
        ) from error
    if device is not None and device.startswith("cuda"):
        from ssd_edge.runtime.backends.torch_cuda import open_on_cuda

        return open_on_cuda(path, device, threads=threads, score_threshold=score_threshold, slots=slots)
    return TorchDetector.open(path, threads=threads, score_threshold=score_threshold, device=device)
