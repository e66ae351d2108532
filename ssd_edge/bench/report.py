"""`BenchReport`: what `bench` measured, as text, Markdown and JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ssd_edge.bench.child import ModelFailedError
from ssd_edge.bench.figures import Speed
from ssd_edge.bench.options import BenchOptions

FEW_CALLS = 100  # fewer leave less than one call above the 99th percentile
NO_FIGURE = "-"
TEXT_WIDTH = 120


@dataclass(frozen=True)
class ModelFigures:
    """What was measured of one model; None is what was not asked for, not told, or not reached.

    Attributes:
        name: short, and unlike the others'.
        sha256: of the file that was given.
        size_bytes: of the file that ran: an engine's, where one was made of an ONNX file.
        parent_sha256: of the checkpoint that it was exported from, as its card has it.
        backend: what ran it, such as `ONNX Runtime`.
        score_threshold: it was timed at.
        ap, ap50: COCO's, fractions, at the card's score threshold.
        peak_memory_bytes: most resident memory of the model's whole process, from its start to the end of its turns.
        device_memory_bytes: GPU memory that opening and warming up took.
        error: why the model failed.
    """

    name: str
    sha256: str
    size_bytes: int
    precision: str | None = None
    parent_sha256: str | None = None
    backend: str | None = None
    score_threshold: float | None = None
    ap: float | None = None
    ap50: float | None = None
    speed: Speed | None = None
    peak_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class BenchReport:
    """What `bench` measured.

    Attributes:
        machine: as `describe_machine`.
        images: of the dataset, which accuracy is measured on.
        frames: distinct frames that speed is measured on.
        frame_sizes: their sizes, such as `640×480`.
        turn: how long a turn was.
        rounds: in each of which every model took one turn.
        power_from: what the readers of power measure.
        models: in the order given.
    """

    machine: dict[str, object]
    dataset: str
    images: int
    frames: int
    frame_sizes: str
    options: BenchOptions
    turn: str
    rounds: int
    power_from: tuple[str, ...]
    models: tuple[ModelFigures, ...]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[ModelFigures, ...]:
        """Models that could not be measured, or not to the end."""
        return tuple(model for model in self.models if model.error is not None)

    def table(self) -> str:
        """What the figures include, the figures one line a model, and notes."""
        columns = self._columns()
        cells = []  # [column][row]
        for column in columns:
            texts = column.texts(self.models)
            width = max(map(len, texts))
            cells.append([text.ljust(width) if column.left else text.rjust(width) for text in texts])
        rows = ["  ".join(row).rstrip() for row in zip(*cells, strict=True)]
        return "\n".join([*map(_wrapped, self.header()), "", *rows, "", *map(_wrapped, self.all_notes())])

    def markdown(self) -> str:
        """The same for a README or an issue; it ends with a line feed."""
        columns = self._columns()
        titles, *rows = zip(*(column.texts(self.models) for column in columns), strict=True)
        rule = [":--" if column.left else "--:" for column in columns]
        lines = [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |" for row in (titles, rule, *rows)]
        return "\n".join([*lines, "", *(f"- {note}" for note in (*self.header(), *self.all_notes())), ""])

    def to_json(self) -> str:
        """The same and more as JSON text: settings, machine, all figures without rounding; NaN becomes null."""
        content = {
            "machine": self.machine,
            "data": {
                "name": self.dataset,
                "images": self.images,
                "timed_frames": self.frames,
                "frame_sizes": self.frame_sizes,
            },
            "options": {**asdict(self.options), "turn": self.turn, "rounds": self.rounds},
            "power_from": self.power_from,
            "models": [asdict(model) for model in self.models],
            "notes": [*self.header(), *self.all_notes()],
        }
        return json.dumps(_without_nan(content), ensure_ascii=False, indent=2)

    def header(self) -> list[str]:
        """What the figures include and how they were measured."""
        options = self.options
        thresholds = {model.score_threshold for model in self.models if model.score_threshold is not None}
        score = f"{min(thresholds):g}" if len(thresholds) == 1 else "each model's own threshold"
        batch = f"batch {options.batch}"
        threads = (
            "threads automatic"
            if options.threads is None
            else f"{options.threads} thread{'s' if options.threads > 1 else ''}"
        )
        threads += " that spin" if options.spin else " that sleep while they wait"
        machine = " · ".join(str(self.machine[key]) for key in ("board", "processor", "gpu") if key in self.machine)
        lines = [
            f"FPS and latency: frame in memory → resize → network → suppression → detections above {score}; "
            "without decoding of files, drawing and output",
            f"net: the network alone (Detector.infer) of the same calls; {batch}, {threads}, {self.frames} distinct "
            f"frames of {self.frame_sizes}",
            f"turns of {self.turn} in random order, {self.rounds} rounds; ×first: latency of the first model by this "
            "one's in the same round, median (quartiles)",
            "memory: peak of the model's whole process (RSS), interpreter and libraries included",
        ]
        if options.accuracy:
            lines.append(f"AP, AP50: COCO's on {self.dataset}, {self.images} images, at each card's score threshold")
        return [*lines, f"machine: {machine}, {self.machine.get('cores')} cores, {self.machine.get('system')}"]

    def all_notes(self) -> list[str]:
        """What a reader has to know, failures last."""
        power = " + ".join(self.power_from)
        notes = [f"power: {power}, idle power included" if power else "power: not told by this machine", *self.notes]
        calls = [model.speed.calls for model in self.models if model.speed is not None]
        if calls and min(calls) < FEW_CALLS:
            notes.append(
                f"note: from {min(calls)} calls on; below {FEW_CALLS} calls p99 is little more than the slowest"
            )
        return [*notes, *(f"FAILED {model.name}: {model.error}" for model in self.failed)]

    def check(self) -> None:
        """Do nothing when every model was measured.

        Raises:
            ModelFailedError: names those that were not; with their reasons where there are no figures to print.
        """
        if not self.failed:
            return
        if any(model.speed is not None for model in self.models):
            names = ", ".join(model.name for model in self.failed)
            raise ModelFailedError(f"{len(self.failed)} of {len(self.models)} models failed: {names}; see FAILED above")
        raise ModelFailedError("; ".join(f"{model.name} failed: {model.error}" for model in self.failed))

    def _columns(self) -> list[_Column]:
        """Those that a model has a figure for."""
        return [column for column in _COLUMNS if any(text != NO_FIGURE for text in column.texts(self.models)[1:])]


@dataclass(frozen=True)
class _Column:
    """Of the table: a title, and how a model's figure is written; None is written as `NO_FIGURE`."""

    title: str
    figure: Callable[[ModelFigures], str | None]
    left: bool = False

    def texts(self, models: Sequence[ModelFigures]) -> list[str]:
        """The title, then a text a model."""
        return [self.title, *(self.figure(model) or NO_FIGURE for model in models)]


def _of_speed(figure: Callable[[Speed], str | None]) -> Callable[[ModelFigures], str | None]:
    return lambda model: figure(model.speed) if model.speed is not None else None


def _scaled(value: float | None, digits: int, unit: float = 1.0) -> str | None:
    return None if value is None else f"{value / unit:.{digits}f}"


def _times_as_fast(speed: Speed) -> str | None:
    times = speed.times_as_fast
    return None if times is None else f"{times.median:.2f} ({times.q1:.2f}–{times.q3:.2f})"


def _power(speed: Speed) -> str | None:
    return f"{sum(speed.power_w.values()):.1f}" if speed.power_w else None


_COLUMNS = (
    _Column("model", lambda model: model.name, left=True),
    _Column("precision", lambda model: model.precision, left=True),
    _Column("runs on", lambda model: model.backend, left=True),
    _Column("AP", lambda model: _scaled(model.ap, 4)),
    _Column("AP50", lambda model: _scaled(model.ap50, 4)),
    _Column("FPS", _of_speed(lambda speed: f"{speed.fps:.1f}")),
    _Column("net FPS", _of_speed(lambda speed: f"{speed.network_fps:.1f}")),
    _Column("p50 ms", _of_speed(lambda speed: f"{speed.latency_ms.p50:.2f}")),
    _Column("p95 ms", _of_speed(lambda speed: f"{speed.latency_ms.p95:.2f}")),
    _Column("p99 ms", _of_speed(lambda speed: f"{speed.latency_ms.p99:.2f}")),
    _Column("×first", _of_speed(_times_as_fast)),
    _Column("file MB", lambda model: f"{model.size_bytes / 1e6:.1f}"),
    _Column("memory MB", lambda model: _scaled(model.peak_memory_bytes, 0, 1e6)),
    _Column("GPU MB", lambda model: _scaled(model.device_memory_bytes, 0, 1e6)),
    _Column("W", _of_speed(_power)),
    _Column("mJ/frame", _of_speed(lambda speed: _scaled(speed.energy_mj, 1))),
)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, TEXT_WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
