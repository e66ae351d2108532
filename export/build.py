"""ONNX to a TensorRT engine. The step only compiles: every precision is already in the graph.

The engine is a raw plan, which trtexec, DeepStream and Triton load too; what it is stands beside it, in
`model.engine.json` (`ssd_edge.runtime.tensorrt.engine_card`). Needs TensorRT alone, neither torch nor onnx.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ssd_edge.card import CALIBRATION_METADATA_KEY, ONNX_METADATA_KEY, ModelCard, int8_target
from ssd_edge.errors import ModelFileError, SsdEdgeError, UsageError
from ssd_edge.export.engine_comparison import compare_precisions
from ssd_edge.export.engine_layers import check_dla, check_precision, layer_shares
from ssd_edge.export.engine_timing import measure_run_ms
from ssd_edge.files import atomic_path
from ssd_edge.runtime.backends.tensorrt import TensorRTEngine, check_contract
from ssd_edge.runtime.cuda.base import Gpu
from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.cuda.find import find_gpu, open_cuda, read_gpu
from ssd_edge.runtime.host.fixes import EXPORT_INT8_FOR_TENSORRT
from ssd_edge.runtime.tensorrt.builder import CompileOptions, compile_network, parse_onnx
from ssd_edge.runtime.tensorrt.engine import LayerTimes
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes, EngineCard, LayerShare, engine_card_path
from ssd_edge.runtime.tensorrt.log import UnsupportedGpuError
from ssd_edge.runtime.tensorrt.progress import Progress
from ssd_edge.runtime.tensorrt.threads import in_thread
from ssd_edge.runtime.tensorrt.versions import TensorRT, load_tensorrt

PROFILED_RUNS = 10
ONE = BatchSizes(1, 1, 1)


@dataclass(frozen=True)
class BuildReport:
    """What was built.

    Attributes:
        not_run: why the engine was not run here and its layers not looked at; None when they were.
        advice: whether int8 is faster than fp16 here, or how to find out; None where there is nothing to say.
    """

    path: Path
    card: EngineCard
    seconds: float
    not_run: str | None
    advice: str | None = None

    def __str__(self) -> str:
        card = self.card
        where = card.gpu_name or "no GPU"
        lines = [
            f"{self.path}: {card.engine_bytes / 1e6:.1f} MB, {card.model.precision}, batch {card.batch}, "
            f"{card.flavour} {card.tensorrt_version}, {where}, in {self.seconds:.1f} s"
        ]
        if self.not_run is not None:
            lines.append(f"not run, and its layers not inspected: {self.not_run}")
        else:
            shares = [_share_text(name, share) for name, share in (card.layers or {}).items()]
            lines.append("layers: " + (", ".join(shares) or "TensorRT's inspector tells nothing of them"))
        if card.run_ms is not None:
            lines.append(f"run: {card.run_ms:.3g} ms at batch {card.batch.optimum} on this GPU")
        if self.advice is not None:
            lines.append(self.advice)
        return "\n".join(lines)


def _share_text(name: str, share: LayerShare) -> str:
    text = f"{share.layer_share:.0%} {name}"
    return text if share.time_share is None else f"{text} ({share.time_share:.0%} of the time)"


def build_engine(
    onnx: Path,
    output: Path,
    *,
    batch: BatchSizes = ONE,
    workspace_bytes: int | None = None,
    timing_cache: Path | None = None,
    dla: int | None = None,
    flavour: str | None = None,
    must_run: bool = False,
    progress: bool = True,
) -> BuildReport:
    """Build the engine of an ONNX file for this machine, with its card beside it.

    On a GPU the engine is run, timed and inspected before it is written. TensorRT-RTX builds without one too. Nothing
    takes the final name when the build fails or is interrupted; an older engine of that name stays.

    Args:
        onnx: a file of `ssd-edge export`.
        output: ends in `.engine`.
        workspace_bytes: bound of the scratch memory; None: TensorRT's own.
        timing_cache: file that keeps measurements of kernels from build to build; made when it is not there.
        dla: core of a Jetson's deep learning accelerator, for an fp16 file; the GPU runs what it cannot.
        flavour: `tensorrt` or `rtx`; None: TensorRT where it is installed, else TensorRT-RTX.
        must_run: write a TensorRT-RTX engine only if it runs here, or if this GPU is one that it does not support: then
            the card has no layers, and no later build would change that.

    Raises:
        ModelFileError: the ONNX file is damaged, unsafe to open, without a card, or beyond TensorRT.
        GateFailedError: it is called int8 or fp16, and TensorRT runs no layer so; or no layer runs on the DLA.
        MissingDependencyError: no TensorRT; with TensorRT itself, no cuda-core.
        UsageError: output, batch sizes or DLA core that cannot be, or a precision that the DLA cannot run.
        SinkError: the output cannot be written.
        UnsupportedGpuError: TensorRT does not support this GPU; TensorRT-RTX builds for others nevertheless.
        SsdEdgeError: no GPU where one is needed, or not enough memory on it; with `must_run`, whatever kept the engine
            from running.
    """
    _check_output(onnx, output, timing_cache)
    model, calibration = _read_onnx_card(onnx)
    if dla is not None:
        _check_dla_precision(onnx, model.precision, dla)
    trt = load_tensorrt(flavour)
    gpu = read_gpu() if must_run else _gpu_to_build_on(trt)
    begin = time.perf_counter()
    content = _read(onnx)
    card_path = engine_card_path(output)
    with atomic_path(card_path) as card_part, atomic_path(output) as part:
        network = parse_onnx(trt, content, source=str(onnx))
        check_contract(network.tensors(), model, str(onnx))
        options = CompileOptions(batch, workspace_bytes, _read_timing_cache(timing_cache), dla)
        with _progress_bar(output, progress) as advance:
            compiled = compile_network(network, options, advance)
        if timing_cache is not None and compiled.timing_cache is not None:
            with atomic_path(timing_cache) as cache_part:
                cache_part.write_bytes(compiled.timing_cache)
        inspect = partial(_run_and_ask, trt, compiled.plan, model, batch, dla, str(output))
        seen, not_run = _inspect(trt, inspect, gpu, must_run)
        layers = None if seen is None else _checked_layers(seen, model, dla, source=str(output))
        card = EngineCard(
            model=model,
            onnx_name=onnx.name,
            onnx_sha256=hashlib.sha256(content).hexdigest(),
            engine_sha256=hashlib.sha256(compiled.plan).hexdigest(),
            engine_bytes=len(compiled.plan),
            flavour=trt.flavour,
            tensorrt_version=trt.version,
            cuda_version=gpu.cuda_version if gpu else None,
            gpu_name=gpu.name if gpu else None,
            compute_capability=gpu.compute_capability if gpu else None,
            batch=batch,
            dla=dla,
            workspace_bytes=workspace_bytes,
            calibration=calibration,
            layers=layers,
            run_ms=None if seen is None else seen.run_ms,
        )
        advice = compare_precisions(output, card)
        part.write_bytes(compiled.plan)
        card_part.write_text(card.to_json() + "\n", encoding="utf-8")
    return BuildReport(output, card, time.perf_counter() - begin, not_run, advice)


def _check_output(onnx: Path, output: Path, timing_cache: Path | None) -> None:
    if output.suffix != ".engine":
        raise UsageError(f"output {output} does not end in .engine, by which other commands know the format")
    if output.is_dir():
        raise UsageError(f"output {output} is a folder; give the name of a file")
    if timing_cache is not None and timing_cache.resolve() in (onnx.resolve(), output.resolve()):
        raise UsageError(f"--timing-cache {timing_cache} is the model itself; give it a file of its own")


def _read_onnx_card(onnx: Path) -> tuple[ModelCard, str | None]:
    """The model's card and the fingerprint of its calibration, before anything else opens the file."""
    from ssd_edge.runtime.onnx_file.check import check_onnx_file
    from ssd_edge.runtime.onnx_file.contract import contract_misfits

    if onnx.suffix != ".onnx":
        raise UsageError(f"{onnx} does not end in .onnx; engines are built from what ssd-edge export writes")
    file = check_onnx_file(onnx)
    if ONNX_METADATA_KEY not in file.metadata:
        misfits = "".join(f"; {misfit}" for misfit in contract_misfits(file))
        raise ModelFileError(
            f"{onnx} has no model card ({ONNX_METADATA_KEY} in its metadata){misfits}; "
            "write the file with: ssd-edge export CHECKPOINT -o model.onnx"
        )
    if int8_target(file.metadata) == "cpu":
        raise ModelFileError(
            f"{onnx} is an int8 file for ONNX Runtime on the CPU, whose uint8 activations TensorRT does not read; "
            f"write one for TensorRT with: {EXPORT_INT8_FOR_TENSORRT}"
        )
    card = ModelCard.from_json(file.metadata[ONNX_METADATA_KEY], source=str(onnx))
    return card, file.metadata.get(CALIBRATION_METADATA_KEY)


def _check_dla_precision(onnx: Path, precision: str, dla: int) -> None:
    if precision == "fp16":
        return
    reason = "a DLA takes no Q/DQ pairs" if precision == "int8" else "a DLA computes in half precision"
    raise UsageError(
        f"--dla {dla}: {onnx} is {precision}, and {reason}; write an fp16 file with: "
        "ssd-edge export CHECKPOINT -o fp16.onnx --precision fp16"
    )


def _gpu_to_build_on(trt: TensorRT) -> Gpu | None:
    """The GPU whose name goes into the card; TensorRT itself builds on it, and for it alone."""
    if trt.builds_without_gpu:
        return find_gpu()
    try:
        return read_gpu()
    except CudaError as error:
        raise SsdEdgeError(
            f"{trt} builds an engine on the GPU it is for: {error}; build on that machine, or with TensorRT-RTX "
            "(--tensorrt rtx), which needs none"
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}; check the path") from error


def _read_timing_cache(path: Path | None) -> bytes | None:
    if path is None:
        return None
    return _read(path) if path.exists() else b""


@contextmanager
def _progress_bar(output: Path, show: bool) -> Iterator[Progress]:
    """A bar on standard error; called with the fraction done, which only rises."""
    shape = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
    with tqdm(total=1.0, desc=f"build {output.name}", bar_format=shape, disable=None if show else True) as bar:

        def advance(fraction: float, phase: str) -> None:
            bar.set_postfix_str(phase, refresh=False)
            bar.update(fraction - bar.n)

        yield advance
        bar.update(bar.total - bar.n)


@dataclass(frozen=True)
class _Seen:
    """What a run of an engine shows: the inspector's JSON, the time of each layer by name, and that of a run."""

    information: str
    layers_ms: dict[str, float]
    run_ms: float


def _inspect(
    trt: TensorRT, run_and_ask: Callable[[], _Seen], gpu: Gpu | None, must_run: bool
) -> tuple[_Seen | None, str | None]:
    """Run the engine here, and see what its layers run in; or why not.

    Raises:
        SsdEdgeError: TensorRT cannot run what it has built for this very GPU; of TensorRT-RTX, with `must_run` alone.
    """
    if gpu is None:
        return None, "there is no NVIDIA GPU here (or no cuda-core); its card has null for them"
    try:
        return in_thread(run_and_ask), None
    except UnsupportedGpuError as error:
        if not trt.builds_without_gpu:
            raise
        return None, f"{error}; the engine is for the GPUs that it supports"
    except ModelFileError as error:  # the file is the new engine; callers take this kind to mean the ONNX file
        failure = SsdEdgeError(str(error))
    except SsdEdgeError as error:
        failure = error
    if must_run or not trt.builds_without_gpu:
        raise failure
    return None, f"{gpu.name} did not run it this time, but the engine is kept: {failure}"


def _run_and_ask(
    trt: TensorRT, plan: memoryview, model: ModelCard, batch: BatchSizes, dla: int | None, source: str
) -> _Seen:
    shape = (batch.optimum, model.height, model.width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with (
        open_cuda() as cuda,
        TensorRTEngine(trt, plan, model, cuda=cuda, source=source, dla_core=dla) as engine,
    ):
        engine.infer(images)
        run_ms = measure_run_ms(engine, batch.optimum)
        # No variable holds the context: it has to go when the engine is closed.
        information = engine.loaded.information(engine.context(batch.optimum))
        times = LayerTimes(trt)
        engine.context(batch.optimum).profiler = times.profiler
        for _ in range(PROFILED_RUNS):
            engine.infer(images)
    return _Seen(information, times.ms, run_ms)


def _checked_layers(seen: _Seen, model: ModelCard, dla: int | None, *, source: str) -> dict[str, LayerShare]:
    """Shares of precision, empty where the inspector tells nothing of them.

    Raises:
        GateFailedError: the engine is not what it is called, or does not use the DLA that it was built for.
    """
    if dla is not None:
        check_dla(seen.information, source=source)
    shares = layer_shares(seen.information, seen.layers_ms)
    if shares is None:
        return {}
    check_precision(shares, model.precision, source=source)
    return shares
