"""`bench`: accuracy, speed, size, memory and power of models, measured side by side."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ssd_edge.bench.advice import int8_advice
from ssd_edge.bench.child import Serve
from ssd_edge.bench.measured_model import MeasuredModel
from ssd_edge.bench.options import BenchOptions
from ssd_edge.bench.power import PowerMeter, find_power_readers, missing_nvml
from ssd_edge.bench.report import BenchReport
from ssd_edge.bench.turns import Plan, take_turns
from ssd_edge.bench.worker import Job, serve
from ssd_edge.data.dataset import DetectionDataset, ImageRecord
from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.machine import describe_machine
from ssd_edge.nvml import open_nvml
from ssd_edge.picks import spread_evenly

logger = logging.getLogger(__name__)

MOST_FRAMES = 32
MOST_FRAME_BYTES = 128 << 20  # every model's process holds all frames


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
    nvml = open_nvml(_device_index(options.device))
    meter = PowerMeter(find_power_readers(nvml=nvml))
    jobs = [Job(path, tuple(record.path for record in frames), options) for path in models]
    measured = [MeasuredModel(name, job) for name, job in zip(unique_names(models), jobs, strict=True)]
    with ExitStack() as stack:
        for number, model in enumerate(measured, start=1):
            logger.info("opening %s (%d of %d)", model.figures.name, number, len(measured))
            stack.enter_context(model).open(dataset, nvml, run)
            if model.on_cpu not in ((), *(earlier.on_cpu for earlier in measured[: number - 1])):
                logger.warning("%s %s", model.figures.name, *model.on_cpu)
        opened = [model for model in measured if model.running]
        series = take_turns(opened, options, meter=meter, progress=progress)
        for model, one in zip(opened, series, strict=True):
            model.end_turns(one)
        for model in opened:
            model.compare_speed(measured[0].turns)
        if options.accuracy:
            _measure_accuracy(opened, dataset)
    report = _report(measured, dataset, frames, options, meter)
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


def _measure_accuracy(models: Sequence[MeasuredModel], dataset: DetectionDataset) -> None:
    """One model at a time."""
    for number, model in enumerate(models, start=1):
        if model.running:
            logger.info("accuracy of %s on %d images (%d of %d)", model.figures.name, len(dataset), number, len(models))
            model.measure_accuracy(dataset)


def _report(
    measured: Sequence[MeasuredModel],
    dataset: DetectionDataset,
    frames: Sequence[ImageRecord],
    options: BenchOptions,
    meter: PowerMeter,
) -> BenchReport:
    figures = tuple(model.figures for model in measured)
    turns = {model.figures.name: model.turns for model in measured}
    return BenchReport(
        machine=describe_machine(),
        dataset=dataset.name,
        images=len(dataset),
        frames=len(frames),
        frame_sizes=_sizes_text(frames),
        options=options,
        turn=Plan(options, 1).turn_text,
        rounds=max(len(model.turns) for model in measured),
        power_from=tuple(reader.name for reader in meter.readers),
        models=figures,
        notes=(*_notes(measured), *int8_advice(figures, turns)),
    )


def _notes(models: Sequence[MeasuredModel]) -> tuple[str, ...]:
    """What the GPU does not tell or run and why, then the evaluations' notes; once where all models have the same."""
    missing = missing_nvml()
    return (
        *([f"note: {missing}"] if missing is not None else []),
        *_merged({model.figures.name: model.on_cpu for model in models}),
        *_merged({model.figures.name: model.notes for model in models}),
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
