"""ONNX to a TensorRT engine. The step only compiles: every precision is already in the graph.

The engine is a raw plan, which trtexec, DeepStream and Triton load too; what it is stands beside it, in
`model.engine.json` (`ssd_edge.runtime.tensorrt.engine_card`). Needs TensorRT alone, neither torch nor onnx.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ssd_edge.card import CALIBRATION_METADATA_KEY, ONNX_METADATA_KEY, ModelCard, int8_target
from ssd_edge.errors import ModelFileError, SsdEdgeError, UsageError
from ssd_edge.export.engine.precision_advice import compare_precisions
from ssd_edge.export.engine.trial import Candidate, Trial, try_engine
from ssd_edge.files import atomic_path
from ssd_edge.runtime.backends.tensorrt import check_contract
from ssd_edge.runtime.cuda.base import Gpu
from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.cuda.find import find_gpu, read_gpu
from ssd_edge.runtime.host.fixes import EXPORT_INT8_FOR_TENSORRT
from ssd_edge.runtime.onnx_file.check import check_onnx_file
from ssd_edge.runtime.onnx_file.contract import contract_misfits
from ssd_edge.runtime.tensorrt.builder import Compiled, CompileOptions, compile_network, parse_onnx
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes, EngineCard, LayerShare, engine_card_path
from ssd_edge.runtime.tensorrt.progress import Progress
from ssd_edge.runtime.tensorrt.versions import TensorRT, load_tensorrt

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
    source = _read_source(onnx, dla)
    trt = load_tensorrt(flavour)
    gpu = read_gpu() if must_run else _gpu_to_build_on(trt)
    begin = time.perf_counter()
    with atomic_path(engine_card_path(output)) as card_part, atomic_path(output) as part:
        options = CompileOptions(batch, workspace_bytes, _read_timing_cache(timing_cache), dla)
        compiled = _compile(trt, source, output, options, timing_cache, progress)
        candidate = Candidate(trt, compiled.plan, source.model, batch, dla, str(output))
        trial, not_run = try_engine(candidate, gpu.name if gpu else None, must_run=must_run)
        card = _card(source, candidate, options, gpu, trial)
        advice = compare_precisions(output, card)
        part.write_bytes(compiled.plan)
        card_part.write_text(card.to_json() + "\n", encoding="utf-8")
    return BuildReport(output, card, time.perf_counter() - begin, not_run, advice)


@dataclass(frozen=True)
class _Source:
    """An ONNX file, and what its metadata says."""

    path: Path
    content: bytes
    model: ModelCard
    calibration: str | None


def _check_output(onnx: Path, output: Path, timing_cache: Path | None) -> None:
    if output.suffix != ".engine":
        raise UsageError(f"output {output} does not end in .engine, by which other commands know the format")
    if output.is_dir():
        raise UsageError(f"output {output} is a folder; give the name of a file")
    if timing_cache is not None and timing_cache.resolve() in (onnx.resolve(), output.resolve()):
        raise UsageError(f"--timing-cache {timing_cache} is the model itself; give it a file of its own")


def _read_source(onnx: Path, dla: int | None) -> _Source:
    """Read the file, which is checked before anything else opens it.

    Raises:
        ModelFileError: it is damaged, unsafe to open, without a card, or not for TensorRT.
        UsageError: its name does not end in .onnx, or the DLA does not run its precision.
    """
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
    if dla is not None:
        _check_dla_precision(onnx, card.precision, dla)
    return _Source(onnx, _read(onnx), card, file.metadata.get(CALIBRATION_METADATA_KEY))


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


def _compile(
    trt: TensorRT, source: _Source, output: Path, options: CompileOptions, timing_cache: Path | None, progress: bool
) -> Compiled:
    network = parse_onnx(trt, source.content, source=str(source.path))
    check_contract(network.tensors(), source.model, str(source.path))
    with progress_bar(output, progress) as advance:
        compiled = compile_network(network, options, advance)
    if timing_cache is not None and compiled.timing_cache is not None:
        with atomic_path(timing_cache) as cache_part:
            cache_part.write_bytes(compiled.timing_cache)
    return compiled


@contextmanager
def progress_bar(output: Path, show: bool) -> Iterator[Progress]:
    """A bar on standard error; called with the fraction done, which only rises."""
    shape = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
    with tqdm(total=1.0, desc=f"build {output.name}", bar_format=shape, disable=None if show else True) as bar:

        def advance(fraction: float, phase: str) -> None:
            bar.set_postfix_str(phase, refresh=False)
            bar.update(fraction - bar.n)

        yield advance
        bar.update(bar.total - bar.n)


def _card(
    source: _Source, engine: Candidate, options: CompileOptions, gpu: Gpu | None, trial: Trial | None
) -> EngineCard:
    """
    Raises:
        GateFailedError: as `Trial.checked_layers`.
    """
    return EngineCard(
        model=source.model,
        onnx_name=source.path.name,
        onnx_sha256=hashlib.sha256(source.content).hexdigest(),
        engine_sha256=hashlib.sha256(engine.plan).hexdigest(),
        engine_bytes=len(engine.plan),
        flavour=engine.trt.flavour,
        tensorrt_version=engine.trt.version,
        cuda_version=gpu.cuda_version if gpu else None,
        gpu_name=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        batch=engine.batch,
        dla=engine.dla,
        workspace_bytes=options.workspace_bytes,
        calibration=source.calibration,
        layers=None if trial is None else trial.checked_layers(engine),
        run_ms=None if trial is None else trial.run_ms,
    )
