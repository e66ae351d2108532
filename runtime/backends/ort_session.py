"""Sessions of ONNX Runtime on the CPU; all of ssd-edge opens them here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from ssd_edge.card import int8_target
from ssd_edge.cpus import compute_threads

PROVIDERS = ("CPUExecutionProvider",)


def open_session(
    model: Path | bytes,
    *,
    threads: int | None = None,
    spin: bool = False,
    metadata: Mapping[str, str] | None = None,
    arena: bool = True,
    folded: Path | None = None,
) -> ort.InferenceSession:
    """Open an ONNX file, or the bytes of one.

    Args:
        threads: that compute, the one that calls `run` included; None: `compute_threads`. ONNX Runtime's own count
            knows neither affinity nor quotas, and binds each thread to a CPU, whatever else runs there.
        spin: threads wait for work at full speed, also for a while after a run. Lowest latency on idle CPUs; on shared
            ones it takes the time of other processes.
        metadata: of the file, where its Q/DQ pairs may be placed for TensorRT (`leave_pairs_alone`).
        arena: keep freed memory for the next run; without it, the largest run takes half as much.
        folded: write the model to this file, optimised as far as ONNX's own operators allow: constants folded, batch
            norms merged into convolutions; the session runs that one.

    Raises:
        Exception: ONNX Runtime cannot load the model. Its errors share no other base.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or compute_threads()
    options.log_severity_level = 3  # errors only
    options.enable_cpu_mem_arena = arena
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "1" if spin else "0")
    leave_pairs_alone(options, metadata or {})
    if folded is not None:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
    source = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(source, options, providers=list(PROVIDERS))


def leave_pairs_alone(options: ort.SessionOptions, metadata: Mapping[str, str]) -> None:
    """Let ONNX Runtime compute Q/DQ pairs that were placed for TensorRT as they stand.

    It has no kernels for them, and what it makes of pairs in half instead is garbage (1.32 on x86-64: convolutions give
    values in the ten thousands).
    """
    if int8_target(metadata) == "tensorrt":
        options.add_session_config_entry("session.disable_quant_qdq", "1")
