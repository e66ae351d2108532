"""A first run of a new engine on this machine: how long it takes, and what its layers run in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssd_edge.card import ModelCard
from ssd_edge.errors import ModelFileError, SsdEdgeError
from ssd_edge.export.engine.layers import check_dla, check_precision, layer_shares
from ssd_edge.export.engine.timing import measure_run_ms
from ssd_edge.runtime.backends.tensorrt import TensorRTEngine
from ssd_edge.runtime.cuda.find import open_cuda
from ssd_edge.runtime.tensorrt.engine import LayerTimes
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes, LayerShare
from ssd_edge.runtime.tensorrt.log import UnsupportedGpuError
from ssd_edge.runtime.tensorrt.threads import in_thread
from ssd_edge.runtime.tensorrt.versions import TensorRT

PROFILED_RUNS = 10


@dataclass(frozen=True)
class Candidate:
    """An engine that is not written yet.

    Attributes:
        source: the name that it is to have, for messages.
    """

    trt: TensorRT
    plan: memoryview
    model: ModelCard
    batch: BatchSizes
    dla: int | None
    source: str


@dataclass(frozen=True)
class Trial:
    """What a run of an engine shows: the inspector's JSON, the time of each layer by name, and that of a run."""

    information: str
    layers_ms: dict[str, float]
    run_ms: float

    def checked_layers(self, engine: Candidate) -> dict[str, LayerShare]:
        """Shares of precision, empty where the inspector tells nothing of them.

        Raises:
            GateFailedError: the engine is not what it is called, or does not use the DLA that it was built for.
        """
        if engine.dla is not None:
            check_dla(self.information, source=engine.source)
        shares = layer_shares(self.information, self.layers_ms)
        if shares is None:
            return {}
        check_precision(shares, engine.model.precision, source=engine.source)
        return shares


def run_engine(engine: Candidate) -> Trial:
    """Run an engine on noise.

    Raises:
        SsdEdgeError: it does not run.
    """
    shape = (engine.batch.optimum, engine.model.height, engine.model.width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with (
        open_cuda() as cuda,
        TensorRTEngine(
            engine.trt, engine.plan, engine.model, cuda=cuda, source=engine.source, dla_core=engine.dla
        ) as runner,
    ):
        runner.infer(images)
        run_ms = measure_run_ms(runner, engine.batch.optimum)
        # No variable holds the context: it has to go when the engine is closed.
        information = runner.loaded.information(runner.context(engine.batch.optimum))
        times = LayerTimes(engine.trt)
        runner.context(engine.batch.optimum).profiler = times.profiler
        for _ in range(PROFILED_RUNS):
            runner.infer(images)
    return Trial(information, times.ms, run_ms)


def try_engine(engine: Candidate, gpu_name: str | None, *, must_run: bool) -> tuple[Trial | None, str | None]:
    """Run an engine here; or say why not.

    Args:
        gpu_name: None: there is none.
        must_run: of TensorRT-RTX, which builds for other GPUs too: an error where it does not run.

    Raises:
        SsdEdgeError: TensorRT cannot run what it has built for this very GPU; of TensorRT-RTX, with `must_run` alone.
    """
    if gpu_name is None:
        return None, "there is no NVIDIA GPU here (or no cuda-core); its card has null for them"
    try:
        return in_thread(lambda: run_engine(engine)), None
    except UnsupportedGpuError as error:
        if not engine.trt.builds_without_gpu:
            raise
        return None, f"{error}; the engine is for the GPUs that it supports"
    except ModelFileError as error:  # the file is the new engine; callers take this kind to mean the ONNX file
        failure = SsdEdgeError(str(error))
    except SsdEdgeError as error:
        failure = error
    if must_run or not engine.trt.builds_without_gpu:
        raise failure
    return None, f"{gpu_name} did not run it this time, but the engine is kept: {failure}"
