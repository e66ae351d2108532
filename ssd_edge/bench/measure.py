"""`bench`: accuracy, speed, size, memory and power of models, measured side by side."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from ssd_edge.bench.advice import int8_advice
from ssd_edge.bench.child import Child, ModelFailedError, Serve
from ssd_edge.bench.figures import speed_of
from ssd_edge.bench.options import BenchOptions
from ssd_edge.bench.power import PowerMeter, find_power_readers
from ssd_edge.bench.prepare import prepared_model
from ssd_edge.bench.report import BenchReport, ModelFigures
from ssd_edge.bench.turns import Plan, Series, take_turns
from ssd_edge.bench.worker import Job, serve
from ssd_edge.card import file_sha256
from ssd_edge.data.dataset import DetectionDataset, ImageRecord
from ssd_edge.errors import ModelFileError, SsdEdgeError, UsageError
from ssd_edge.machine import describe_machine
from ssd_edge.nvml import NvmlDevice, open_nvml
from ssd_edge.picks import spread_evenly

log = logging.getLogger(__name__)

MOST_FRAMES = 32
MOST_FRAME_BYTES = 128 << 20  # every model's process holds all frames


@dataclass
class _Entry:
    """A model on its way through the measurement."""

    figures: ModelFigures
    child: Child | None = None
    on_cpu: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def fail(self, error: str) -> None:
        log.debug("%s failed: %s", self.figures.name, error)
        self.figures = replace(self.figures, error=error)
        if self.child is not None:
            self.child.kill()
            self.child = None


def bench(
    models: Sequence[Path],
    dataset: DetectionDataset,
    options: BenchOptions | None = None,
    *,
    progress: bool = True,
    run: Serve = serve,
) -> BenchReport:
    """Measure models side by side: speed in turns, then accuracy one after the other.

    Each model has a process of its own (in a script, call this below `if __name__ == "__main__":`, as
    `multiprocessing` asks). All of them are in memory until the last turn. A model that fails is in the report with
    its reason and the others go on.

    Args:
        models: checkpoints, ONNX files and engines; the first one is what the others are compared with.
        dataset: accuracy is measured on all images, speed on up to `MOST_FRAMES` spread over them.
        progress: show progress bars where standard error is a terminal.
        run: what the processes run, for tests.

    Raises:
        ModelFileError: there is no such file.
        UsageError: no model, or one that is given twice.
        DatasetError: no images; one of the frames cannot be read.
        ModelFailedError: no model could be measured.
        KeyboardInterrupt: the processes have ended, nothing is reported.
    """
    options = options or BenchOptions()
    check_models(models)
    frames = _frames(dataset, options.batch)
    names = unique_names(models)
    nvml = open_nvml(_device_index(options.device))
    meter = PowerMeter(find_power_readers(nvml=nvml))
    entries = [_entry(name, path) for name, path in zip(names, models, strict=True)]
    with ExitStack() as stack:
        for number, (entry, path) in enumerate(zip(entries, models, strict=True), start=1):
            log.info("opening %s (%d of %d)", entry.figures.name, number, len(entries))
            job = Job(path, tuple(record.path for record in frames), options)
            _open(entry, job, dataset, nvml, run, stack)
            if entry.on_cpu not in ((), *(earlier.on_cpu for earlier in entries[: number - 1])):
                log.warning("%s %s", entry.figures.name, *entry.on_cpu)
        living = [entry for entry in entries if entry.child is not None]
        children = [entry.child for entry in living if entry.child is not None]
        series = take_turns(children, options, meter=meter, progress=progress)
        for entry, one in zip(living, series, strict=True):
            _close_timing(entry, one)
        first = series[0].turns if living and living[0] is entries[0] else []
        for entry, one in zip(living, series, strict=True):
            if one.turns:
                entry.figures = replace(entry.figures, speed=speed_of(one.turns, options.batch, first))
        if options.accuracy:
            _measure_accuracy(living, dataset)
    figures = tuple(entry.figures for entry in entries)
    turns = {entry.figures.name: one.turns for entry, one in zip(living, series, strict=True)}
    report = BenchReport(
        machine=describe_machine(),
        dataset=dataset.name,
        images=len(dataset),
        frames=len(frames),
        frame_sizes=_sizes_text(frames),
        options=options,
        turn=Plan(options, 1).turn_text,
        rounds=max((len(one.turns) for one in series), default=0),
        power_from=tuple(reader.name for reader in meter.readers),
        models=figures,
        notes=(*_notes(entries), *int8_advice(figures, turns)),
    )
    if all(model.speed is None for model in report.models):
        report.check()
    return report


def unique_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """The shortest ends of the paths that tell them apart: file names where these differ, else folders too."""
    parts = [path.parts for path in paths]
    length = 1
    while len({part[-length:] for part in parts}) < len(parts) and length < max(map(len, parts)):
        length += 1
    return tuple(str(Path(*part[-length:])) for part in parts)


def check_models(models: Sequence[Path]) -> None:
    """Before the first is opened, which takes seconds each.

    Raises:
        ModelFileError: there is no such file.
        UsageError: no model, or one that is given twice.
    """
    if not models:
        raise UsageError("no model to measure; give at least one checkpoint, ONNX file or engine")
    seen: set[Path] = set()
    for path in models:
        if not path.is_file():
            raise ModelFileError(f"no model file {path}; check the path")
        if path.resolve() in seen:
            raise UsageError(f"{path} is given twice; name each model once")
        seen.add(path.resolve())


def _entry(name: str, path: Path) -> _Entry:
    return _Entry(ModelFigures(name, file_sha256(path), path.stat().st_size))


def _open(
    entry: _Entry, job: Job, dataset: DetectionDataset, nvml: NvmlDevice | None, run: Serve, stack: ExitStack
) -> None:
    """Start the model's process and wait until it is warm; one model at a time, so that none disturbs another."""
    try:
        ready = prepared_model(job)
        before = _used_bytes(nvml)
        if ready.on_cpu is not None:
            entry.on_cpu = (ready.on_cpu,)
        child = entry.child = stack.enter_context(Child(replace(job, model=ready.path), run=run))
        opened = child.opened()
        if job.options.accuracy:
            from ssd_edge.evaluation.evaluate import scored_classes

            scored_classes(dataset, opened.card.class_names, None)  # fails now, not after the turns
    except SsdEdgeError as error:
        entry.fail(str(error))
        return
    used = _used_bytes(nvml)
    entry.figures = replace(
        entry.figures,
        size_bytes=ready.path.stat().st_size,
        precision=opened.card.precision,
        parent_sha256=opened.card.parent_sha256,
        backend=opened.backend,
        score_threshold=opened.score_threshold,
        device_memory_bytes=max(0, used - before) if used is not None and before is not None else None,
    )


def _close_timing(entry: _Entry, series: Series) -> None:
    """Memory is read before accuracy is measured, whose images and detections are not the model's."""
    if series.error is not None:
        entry.fail(series.error)
    elif entry.child is not None:
        try:
            peak = entry.child.peak_memory_bytes()
        except ModelFailedError as error:
            entry.fail(str(error))
        else:
            entry.figures = replace(entry.figures, peak_memory_bytes=peak)


def _measure_accuracy(entries: Sequence[_Entry], dataset: DetectionDataset) -> None:
    """One model at a time; its process ends afterwards."""
    for number, entry in enumerate(entries, start=1):
        if entry.child is None:
            continue
        log.info("accuracy of %s on %d images (%d of %d)", entry.figures.name, len(dataset), number, len(entries))
        try:
            accuracy = entry.child.accuracy(dataset)
        except ModelFailedError as error:
            entry.fail(str(error))
            continue
        entry.figures = replace(entry.figures, ap=accuracy.ap, ap50=accuracy.ap50)
        entry.notes = accuracy.notes
        entry.child.close()


def _notes(entries: Sequence[_Entry]) -> tuple[str, ...]:
    """Why the GPU was not used, then the evaluations' notes; once where all models have the same."""
    return (
        *_merged({entry.figures.name: entry.on_cpu for entry in entries}),
        *_merged({entry.figures.name: entry.notes for entry in entries}),
    )


def _merged(notes: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Notes by model."""
    if len(set(notes.values())) == 1:
        return tuple(f"note: {note}" for note in next(iter(notes.values())))
    return tuple(f"note on {name}: {note}" for name, texts in notes.items() for note in texts)


def _frames(dataset: DetectionDataset, batch: int) -> list[ImageRecord]:
    """Images spread evenly over the dataset, as many as fit in memory; at least as many as a batch where there are.

    Raises:
        UsageError: the dataset has no images.
    """
    if not len(dataset):
        raise UsageError(f"{dataset.name}: no images to measure on; give a folder or split that has some")
    largest = max(3 * height * width for height, width in (record.size_hw for record in dataset.records))
    count = max(batch, min(MOST_FRAMES, MOST_FRAME_BYTES // max(1, largest)))
    return spread_evenly(dataset.records, count)


def _sizes_text(frames: Sequence[ImageRecord]) -> str:
    """`640×480`, or the smallest and the largest."""
    sizes = sorted({record.size_hw for record in frames}, key=lambda size_hw: size_hw[0] * size_hw[1])
    texts = [f"{width}×{height}" for height, width in sizes]
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def _device_index(device: str | None) -> int:
    """Of the GPU that is asked for its power and memory: 1 for `cuda:1`, else 0."""
    number = (device or "").partition(":")[2]
    return int(number) if number.isdecimal() else 0


def _used_bytes(nvml: NvmlDevice | None) -> int | None:
    try:
        return None if nvml is None else nvml.used_bytes()
    except OSError:
        return None
