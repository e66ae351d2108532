"""The sinks that a configuration asks for; what each needs is imported only then."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd_edge.errors import MissingDependencyError, SinkError
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.sinks.jsonl import JsonLinesSink
from ssd_edge.runtime.sinks.overlay import draw_result
from ssd_edge.runtime.sinks.save import save_sink
from ssd_edge.runtime.sinks.snapshots import SnapshotsSink
from ssd_edge.runtime.sinks.window import WindowSink
from ssd_edge.runtime.sinks.worker import SinkWorker
from ssd_edge.runtime.sources.worker import SourceWorker
from ssd_edge.runtime.stream.config import MqttConfig, StreamConfig, WebConfig
from ssd_edge.runtime.tracking.analytics import UnderstandingOptions


def open_sinks(
    config: StreamConfig, workers: Sequence[SourceWorker], extra_sinks: Sequence[Sink]
) -> Iterator[Callable[..., SinkWorker]]:
    """Open what the configuration asks for, one after the other: each a `SinkWorker` that lacks its `on_…` arguments.

    Raises:
        SinkError: one cannot write.
    """
    if config.save is not None and config.jsonl is not None and config.save.resolve() == Path(config.jsonl).resolve():
        raise SinkError(f"--save and --jsonl both name {config.save}, where one would overwrite the other; rename one")
    for sink in extra_sinks:
        yield partial(SinkWorker, sink, type(sink).__name__)
    if config.show:
        yield partial(SinkWorker, WindowSink(), "--show")
    if config.save is not None:
        for worker, path in zip(workers, _paths_by_source(config.save, workers), strict=True):
            sink = save_sink(path, worker, config.recording)
            yield partial(SinkWorker, sink, f"--save {path}", source=worker.name)
    if config.snapshots is not None:
        yield partial(SinkWorker, _snapshots(config, workers), "--snapshots")
    if config.jsonl is not None:
        yield partial(
            SinkWorker,
            JsonLinesSink(config.jsonl, *workers, append=any(worker.live for worker in workers)),
            "--jsonl",
            pixels=False,
        )
    if config.mqtt is not None:
        yield partial(SinkWorker, _mqtt_sink(config.mqtt), "--mqtt", pixels=False)
    if config.web is not None:
        yield partial(SinkWorker, _web_page(config.web), "--web")


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


def _snapshots(config: StreamConfig, workers: Sequence[SourceWorker]) -> Sink:
    assert config.snapshots is not None
    sources = zip(workers, config.sources, strict=True)
    watched = {worker.name: source.understanding or UnderstandingOptions() for worker, source in sources}

    def draw(result: Result) -> NDArray[np.uint8]:
        return draw_result(result, watched[result.source].zones, watched[result.source].lines)

    file_names = dict(zip(watched, _file_names(workers), strict=True))
    options = asdict(config.snapshots)
    return SnapshotsSink(options.pop("folder"), draw, file_names, *workers, **options)


def _mqtt_sink(config: MqttConfig) -> Sink:
    try:
        from ssd_edge.runtime.sinks.mqtt.broker import parse_broker
        from ssd_edge.runtime.sinks.mqtt.sink import MqttSink
    except ModuleNotFoundError as error:
        raise _missing(error, "--mqtt", "mqtt") from error
    login = {name: getattr(config, name) for name in ("password_file", "ca", "cert", "key")}
    sending = {name: getattr(config, name) for name in ("prefix", "qos", "buffer", "client_id")}
    return MqttSink(parse_broker(config.url, **login), **sending)


def _web_page(config: WebConfig) -> Sink:
    try:
        from ssd_edge.runtime.sinks.web.access import choose_token
        from ssd_edge.runtime.sinks.web.server import WebPreview
    except ModuleNotFoundError as error:
        raise _missing(error, "--web", "web") from error
    return WebPreview(config.host, config.port, token=choose_token(config.token))


def _missing(error: ModuleNotFoundError, option: str, extra: str) -> Exception:
    if error.name is None or error.name.startswith("ssd_edge"):
        return error
    return MissingDependencyError(f"{option} needs the package {error.name}, which is not installed", extra)
