"""An `.onnx` file becomes an engine where there is a GPU and TensorRT; every other file runs as it is."""

from __future__ import annotations

from contextlib import suppress
from multiprocessing.connection import Connection

from ssd_edge.bench.child import Child
from ssd_edge.bench.worker import Job, Prepared, begin_process, failure_of
from ssd_edge.export.engine.cache import prepare_model
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes


def prepared_model(job: Job) -> Prepared:
    """The file that is measured: an engine from the cache, built where it is not there yet, or the model itself.

    It is built in a process of its own, whose memory and CUDA context are gone before the model is opened.

    Raises:
        ModelFailedError: the engine cannot be built.
    """
    if job.model.suffix != ".onnx" or job.options.backend == "onnxruntime":
        return Prepared(job.model)
    with Child(job, run=serve_prepared) as child:
        return child.prepared()


def serve_prepared(pipe: Connection, job: Job) -> None:
    """Answer with what is `Prepared`, or a `Failure`."""
    begin_process()
    reasons: list[str] = []
    try:
        batch = BatchSizes(*[job.options.batch] * 3)  # an engine of one batch size is fastest at it
        path = prepare_model(job.model, backend=job.options.backend, batch=batch, on_cpu=reasons.append)
        pipe.send(Prepared(path, reasons[0] if reasons else None))
    except Exception as error:
        with suppress(OSError):  # the parent is gone
            pipe.send(failure_of(error))
