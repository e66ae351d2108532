"""On a machine with an NVIDIA GPU and TensorRT, an `.onnx` file runs as an engine, which is built once and kept.

Engines lie in `~/.cache/ssd-edge/engines`, or in the folder that `SSD_EDGE_CACHE` names; each is good for one ONNX
file, TensorRT, GPU and batch, all of which are in its name. Delete the folder to be rid of them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from ssd_edge.card import file_sha256, int8_target
from ssd_edge.choices import BACKENDS, CHECKPOINT_SUFFIXES, DEFAULT_BACKEND
from ssd_edge.errors import ModelFileError, SsdEdgeError, UsageError
from ssd_edge.export.engine.build import build_engine
from ssd_edge.files import engine_cache_folder
from ssd_edge.runtime.cuda.base import Gpu
from ssd_edge.runtime.cuda.find import read_gpu
from ssd_edge.runtime.gpu_use import look_for_gpu
from ssd_edge.runtime.host.fixes import EXPORT_INT8_FOR_TENSORRT
from ssd_edge.runtime.onnx_file.check import check_onnx_file
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes, EngineCard, check_fresh, read_engine_card
from ssd_edge.runtime.tensorrt.log import UnsupportedGpuError, unsupported_remedy
from ssd_edge.runtime.tensorrt.versions import TensorRT, load_tensorrt

logger = logging.getLogger(__name__)

ONE = BatchSizes(1, 1, 1)


def prepare_model(
    path: Path,
    *,
    backend: str = DEFAULT_BACKEND,
    batch: BatchSizes = ONE,
    progress: bool = True,
    on_cpu: Callable[[str], None] | None = None,
) -> Path:
    """The file to open in place of `path`: an engine for it where the GPU is to run it, else `path` itself.

    Args:
        backend: `tensorrt`: an engine, or an error. `onnxruntime`: the file itself. `auto`: an engine where there are
            TensorRT and a GPU, else the file itself. A warning says why an NVIDIA GPU is not used.
        batch: batch sizes that the engine has to take.
        progress: show the build's progress.
        on_cpu: called with that reason instead of the warning.

    Raises:
        UsageError: another backend, or one that cannot run this kind of file.
        SsdEdgeError: with `tensorrt`: no GPU, or what it takes is missing; as `export.engine.build.build_engine`.
    """
    if backend not in BACKENDS:
        raise UsageError(f"--backend {backend}: expected {', '.join(BACKENDS)}")
    wrong = {"tensorrt": CHECKPOINT_SUFFIXES, "onnxruntime": (*CHECKPOINT_SUFFIXES, ".engine")}
    if path.suffix in wrong.get(backend, ()):
        raise UsageError(f"--backend {backend} does not run {path}; leave it out, or give the .onnx file")
    if path.suffix != ".onnx" or backend == "onnxruntime":
        return path
    gpu = look_for_gpu()
    if backend == "auto" and not gpu.present:
        return path
    try:
        if backend == "auto":
            check_target(path)  # else the build says it
        gpu.check()
        return cached_engine(path, batch, progress)
    except ModelFileError:
        raise  # the file's own fault, which ONNX Runtime would meet too
    except SsdEdgeError as error:
        if backend == "tensorrt":
            raise
        reason = f"runs on the CPU, not on the NVIDIA GPU: {error} (--backend onnxruntime chooses the CPU)"
        if on_cpu is None:
            logger.warning("%s %s", path, reason)
        else:
            on_cpu(reason)
        return path


def check_target(onnx: Path) -> None:
    """
    Raises:
        SsdEdgeError: an int8 file whose Q/DQ pairs TensorRT does not read.
    """
    try:
        target = int8_target(check_onnx_file(onnx).metadata)
    except ModelFileError:
        return  # who opens it says what is wrong with it
    if target == "cpu":
        raise SsdEdgeError(
            "it is an int8 file for the target cpu, which TensorRT does not read; for the GPU: "
            f"{EXPORT_INT8_FOR_TENSORRT}"
        )


def cached_engine(onnx: Path, batch: BatchSizes, progress: bool) -> Path:
    """The engine of an ONNX file, built where it is not there yet.

    Raises:
        ModelFileError: no such file.
        SsdEdgeError: as `export.engine.build.build_engine`.
    """
    gpu = read_gpu()
    if not onnx.is_file():
        raise ModelFileError(f"no model file {onnx}; check the path")
    trt = load_tensorrt()
    engine = engine_cache_folder() / _engine_name(onnx, trt, gpu, batch)
    card = _good_card(engine, trt, gpu) or _build(onnx, engine, trt, batch, progress)
    if card.layers is None:  # kept all the same, so that the next start does not build it again
        raise UnsupportedGpuError(
            f"{trt} builds an engine of {onnx}, but does not support {gpu}, as it said when it was to run it; "
            f"{unsupported_remedy(trt.flavour)}; delete {engine} to try again"
        )
    return engine


def _engine_name(onnx: Path, trt: TensorRT, gpu: Gpu, batch: BatchSizes) -> str:
    key = (file_sha256(onnx), trt.flavour, trt.version, gpu.name, gpu.compute_capability, str(batch))
    return f"{onnx.stem}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.engine"


def _good_card(engine: Path, trt: TensorRT, gpu: Gpu) -> EngineCard | None:
    if not engine.is_file():
        return None
    try:
        card = read_engine_card(engine)
        check_fresh(engine, card, engine.read_bytes(), flavour=trt.flavour, version=trt.version, gpu=gpu)
    except (ModelFileError, OSError) as error:
        logger.debug("%s is built again: %s", engine, error)
        return None
    return card


def _build(onnx: Path, engine: Path, trt: TensorRT, batch: BatchSizes, progress: bool) -> EngineCard:
    logger.info("building an engine of %s for this GPU, once; it is kept in %s", onnx, engine.parent)
    report = build_engine(onnx, engine, batch=batch, flavour=trt.flavour, must_run=True, progress=progress)
    logger.info("%s", report)
    return report.card
