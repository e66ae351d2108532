"""`BenchOptions`: how long, on what and in which way models are timed."""

from __future__ import annotations

from dataclasses import dataclass

from ssd_edge.choices import BACKENDS, DEFAULT_BACKEND
from ssd_edge.errors import UsageError


@dataclass(frozen=True)
class BenchOptions:
    """How models are timed.

    Attributes:
        seconds: of measurement a model, rests between turns included.
        runs: calls a model that are counted, instead of `seconds`.
        batch: frames a call.
        warmup: calls before the first turn, which are not counted.
        threads: of one inference; None: as many as each backend finds best.
        spin: threads of ONNX Runtime and PyTorch wait at full speed; see `open_detector`.
        score_threshold: detections need a score above it; None: the one of each model's card.
        device: where checkpoints run, such as `cuda`; None: CUDA where there is one, else the CPU.
        backend: what runs `.onnx` files, one of `BACKENDS`; auto: TensorRT where there is a GPU and TensorRT.
        accuracy: score the models on the data too.
        seed: of the order of turns.

    Raises:
        UsageError: a value out of range.
    """

    seconds: float = 10.0
    runs: int | None = None
    batch: int = 1
    warmup: int = 10
    threads: int | None = None
    spin: bool = False
    score_threshold: float | None = None
    device: str | None = None
    backend: str = DEFAULT_BACKEND
    accuracy: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise UsageError(f"{self.seconds} seconds; expected a positive number")
        for name, least in (("runs", 1), ("batch", 1), ("warmup", 0), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} {value}; expected a whole number from {least}")
        if self.score_threshold is not None and not 0 <= self.score_threshold < 1:
            raise UsageError(f"score threshold {self.score_threshold}; expected a number from 0 to below 1")
        if self.backend not in BACKENDS:
            raise UsageError(f"backend {self.backend!r}; expected one of {', '.join(BACKENDS)}")
