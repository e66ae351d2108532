"""`MeasuredModel`: one model on its way through `bench`, and what is known of it so far."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

from ssd_edge.bench.child import Child, ModelFailedError, Serve
from ssd_edge.bench.figures import speed_of
from ssd_edge.bench.prepare import prepared_model
from ssd_edge.bench.report import ModelFigures
from ssd_edge.bench.turns import Series, Turn, TurnTimes
from ssd_edge.bench.worker import Job
from ssd_edge.card import file_sha256
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import SsdEdgeError
from ssd_edge.nvml import NvmlDevice

logger = logging.getLogger(__name__)


class MeasuredModel:
    """A context manager that holds the model's process. What goes wrong with the model becomes `figures.error`.

    Args:
        job: `job.model` is the file that was given.

    Attributes:
        figures: what was measured so far.
        turns: that it took.
        on_cpu: why the GPU of this machine does not run it; empty: it does, or there is none.
        notes: of its evaluation.
    """

    def __init__(self, name: str, job: Job) -> None:
        self._job = job
        self._child: Child | None = None
        self.figures = ModelFigures(name, file_sha256(job.model), job.model.stat().st_size)
        self.turns: list[TurnTimes] = []
        self.on_cpu: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        """Whether it can be asked for more."""
        return self._child is not None

    def open(self, dataset: DetectionDataset, nvml: NvmlDevice | None, run: Serve) -> None:
        """Start the model's process and wait until it is warm.

        Args:
            dataset: what accuracy is measured on later.
            nvml: the GPU whose memory is looked at.
            run: what the process runs.
        """
        try:
            ready = prepared_model(self._job)
            before = _used_bytes(nvml)
            if ready.on_cpu is not None:
                self.on_cpu = (ready.on_cpu,)
            self._child = Child(replace(self._job, model=ready.path), run=run)
            opened = self._child.opened()
            if self._job.options.accuracy:
                from ssd_edge.evaluation.evaluate import scored_classes

                scored_classes(dataset, opened.card.class_names, None)  # fails now, not after the turns
        except SsdEdgeError as error:
            self._fail(str(error))
            return
        used = _used_bytes(nvml)
        self.figures = replace(
            self.figures,
            size_bytes=ready.path.stat().st_size,
            precision=opened.card.precision,
            parent_sha256=opened.card.parent_sha256,
            backend=opened.backend,
            score_threshold=opened.score_threshold,
            device_memory_bytes=max(0, used - before) if used is not None and before is not None else None,
        )

    def run(self, turn: Turn) -> TurnTimes:
        """Take a turn.

        Raises:
            ModelFailedError: the model failed, or its process died.
        """
        assert self._child is not None
        return self._child.run(turn)

    def end_turns(self, series: Series) -> None:
        """Take over the turns, and read the memory: before the accuracy, whose images are not the model's."""
        self.turns = series.turns
        if series.error is not None:
            self._fail(series.error)
            return
        assert self._child is not None
        try:
            peak = self._child.peak_memory_bytes()
        except ModelFailedError as error:
            self._fail(str(error))
        else:
            self.figures = replace(self.figures, peak_memory_bytes=peak)

    def compare_speed(self, first: Sequence[TurnTimes]) -> None:
        """The speed of its turns, in comparison with those of the first model."""
        if self.turns:
            self.figures = replace(self.figures, speed=speed_of(self.turns, self._job.options.batch, first))

    def measure_accuracy(self, dataset: DetectionDataset) -> None:
        """Score the model; its process ends afterwards."""
        assert self._child is not None
        try:
            accuracy = self._child.accuracy(dataset)
        except ModelFailedError as error:
            self._fail(str(error))
            return
        self.figures = replace(self.figures, ap=accuracy.ap, ap50=accuracy.ap50)
        self.notes = accuracy.notes
        self._child.close()

    def __enter__(self) -> MeasuredModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.__exit__(kind, error, trace)

    def _fail(self, error: str) -> None:
        logger.debug("%s failed: %s", self.figures.name, error)
        self.figures = replace(self.figures, error=error)
        if self._child is not None:
            self._child.kill()
            self._child = None


def _used_bytes(nvml: NvmlDevice | None) -> int | None:
    try:
        return None if nvml is None else nvml.used_bytes()
    except OSError:
        return None
