"""The sinks that a configuration asks for; what each needs is imported only then."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import MissingDependencyError, SinkError
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.sinks.jsonl import JsonLinesSink
from ssd_edge.runtime.sinks.save import save_sink
from ssd_edge.runtime.sinks.snapshots import SnapshotsSink
from ssd_edge.runtime.sinks.window import WindowSink
from ssd_edge.runtime.sources.worker import SourceWorker
from ssd_edge.runtime.stream.config import MqttConfig, SnapshotsConfig, StreamConfig, WebConfig


class OpenedSink(NamedTuple):
    """A sink, what it is called in messages, and the only source whose results it takes; None for all."""

    sink: Sink
    name: str
    source: str | None = None


def open_sinks(
    config: StreamConfig, workers: Sequence[SourceWorker], draw: Callable[[Result], NDArray[np.uint8]]
) -> Iterator[OpenedSink]:
    """Open what the configuration asks for, one after the other.

    Args:
        draw: gives the frame with its overlay, uint8 [H, W, 3].

    Raises:
        SinkError: one cannot write.
        MissingDependencyError: one needs a package that is not installed.
    """
    if config.save is not None and config.jsonl is not None and config.save.resolve() == Path(config.jsonl).resolve():
        raise SinkError(f"--save and --jsonl both name {config.save}, where one would overwrite the other; rename one")
    if config.show:
        yield OpenedSink(WindowSink(), "--show")
    if config.save is not None:
        for worker, path in zip(workers, _paths_by_source(config.save, workers), strict=True):
            yield OpenedSink(save_sink(path, worker, config.recording), f"--save {path}", worker.name)
    if config.snapshots is not None:
        yield OpenedSink(_snapshots(config.snapshots, workers, draw), "--snapshots")
    if config.jsonl is not None:
        append = any(worker.live for worker in workers)
        yield OpenedSink(JsonLinesSink(config.jsonl, *workers, append=append), "--jsonl")
    if config.mqtt is not None:
        yield OpenedSink(_mqtt_sink(config.mqtt), "--mqtt")
    if config.web is not None:
        yield OpenedSink(_web_page(config.web, draw), "--web")


def _paths_by_source(path: Path, workers: Sequence[SourceWorker]) -> list[Path]:
    """`path` itself for one source; for several, each its own: `a-door.mp4`, or in a folder `a/door`."""
    if len(workers) == 1:
        return [path]
    names = _file_names(workers)
    if path.suffix and not path.is_dir():
        return [path.with_name(f"{path.stem}-{name}{path.suffix}") for name in names]
    return [path / name for name in names]


def _file_names(workers: Sequence[SourceWorker]) -> list[str]:
    """The sources' names as names of files can have them, whose length is bounded."""
    words = [re.sub(r"[^\w.-]+", "_", worker.name).strip("_.")[:60] for worker in workers]
    return [word if words.count(word) == 1 else f"{word}-{number}" for number, word in enumerate(words, 1)]


def _snapshots(
    config: SnapshotsConfig, workers: Sequence[SourceWorker], draw: Callable[[Result], NDArray[np.uint8]]
) -> Sink:
    return SnapshotsSink(
        config.folder,
        draw,
        dict(zip((worker.name for worker in workers), _file_names(workers), strict=True)),
        *workers,
        keep_bytes=config.keep_bytes,
        free_floor_bytes=config.free_floor_bytes,
        quiet_s=config.quiet_s,
    )


def _mqtt_sink(config: MqttConfig) -> Sink:
    try:
        from ssd_edge.runtime.sinks.mqtt.broker import parse_broker
        from ssd_edge.runtime.sinks.mqtt.sink import MqttSink
    except ModuleNotFoundError as error:
        raise _missing(error, "--mqtt", "mqtt") from error
    broker = parse_broker(
        config.url, password_file=config.password_file, ca=config.ca, cert=config.cert, key=config.key
    )
    return MqttSink(broker, prefix=config.prefix, qos=config.qos, buffer=config.buffer, client_id=config.client_id)


def _web_page(config: WebConfig, draw: Callable[[Result], NDArray[np.uint8]]) -> Sink:
    try:
        from ssd_edge.runtime.sinks.web.access import choose_token
        from ssd_edge.runtime.sinks.web.server import WebPreview
    except ModuleNotFoundError as error:
        raise _missing(error, "--web", "web") from error
    return WebPreview(config.host, config.port, token=choose_token(config.token), draw=draw)


def _missing(error: ModuleNotFoundError, option: str, extra: str) -> Exception:
    if error.name is None or error.name.startswith("ssd_edge"):
        return error
    return MissingDependencyError(f"{option} needs the package {error.name}, which is not installed", extra)
