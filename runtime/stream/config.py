"""What to stream, from where to where: as options of `run_stream`, or as a TOML file."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssd_edge.errors import UsageError
from ssd_edge.runtime.redact import clean_text
from ssd_edge.runtime.sinks.disk_space import FREE_FLOOR_BYTES
from ssd_edge.runtime.sinks.save import Recording
from ssd_edge.runtime.sources.find import Place, SourceOptions, Uri
from ssd_edge.runtime.tracking.analytics import KEYS as UNDERSTANDING_KEYS
from ssd_edge.runtime.tracking.analytics import UnderstandingOptions, understanding_options
from ssd_edge.runtime.tracking.zones import nearest


@dataclass(frozen=True)
class SourceConfig:
    """One source.

    Attributes:
        uri: what `find_source` takes; or a `Place`, for a source of your own.
        name: what it is called in outputs; None for its address or path, without any password.
        options: how it is opened.
        loop: a file begins anew at its end.
        retries: how often in a row it is opened again after a failure; None: a camera or address for ever, a file not
            at all.
        understanding: what is kept and watched of what it shows.
    """

    uri: Uri | Place
    name: str | None = None
    options: SourceOptions = field(default_factory=SourceOptions)
    loop: bool = False
    retries: int | None = None
    understanding: UnderstandingOptions | None = None


@dataclass(frozen=True)
class MqttConfig:
    """Where to publish; see `parse_broker` and `MqttSink`."""

    url: str
    prefix: str = "ssd-edge"
    qos: int = 1
    buffer: int = 10_000
    client_id: str | None = None
    password_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class WebConfig:
    """Where the web page is; see `WebPreview` and, for the token, `choose_token`."""

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None


@dataclass(frozen=True)
class SnapshotsConfig:
    """Where snapshots of events go; see `SnapshotsSink`."""

    folder: Path
    keep_bytes: int | None = None
    free_floor_bytes: int = FREE_FLOOR_BYTES
    quiet_s: float = 5.0


@dataclass(frozen=True)
class StreamConfig:
    """What to stream.

    Attributes:
        source: one thing that `find_source` takes, or any number of `SourceConfig`.
        model: what `open_detector` takes.
        show: open a window.
        save: annotated video, image or folder of images; see `save_sink`. Of several sources, each has its own, with
            its name in that of the file, or a folder of its own.
        recording: segments and limits of that video.
        snapshots: pictures of events.
        jsonl: file of JSON lines, "-" for the standard output; see `JsonLinesSink`.
        mqtt: publish to a broker.
        web: show a page.
        score_threshold: detections below it appear nowhere. The card's own is meant for measuring mAP and too
            low to look at.
        threads: threads of one inference, None for the backend's choice.
        latency: detections come out before the next frame goes in, for the lowest age; else several sources share a
            batch, and a GPU takes the next one while it computes.
        max_frames: end after so many frames of all sources together, None for all.
        log_format: `human`, or `json`: what is shown becomes part of the log.
    """

    source: Uri | Sequence[SourceConfig]
    model: Path
    show: bool = False
    save: Path | None = None
    recording: Recording | None = None
    snapshots: SnapshotsConfig | None = None
    jsonl: str | None = None
    mqtt: MqttConfig | None = None
    web: WebConfig | None = None
    score_threshold: float = 0.4
    threads: int | None = None
    latency: bool = False
    max_frames: int | None = None
    log_format: str = "human"

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """All of them."""
        one = isinstance(self.source, (str, int, Path))
        return (SourceConfig(self.source),) if one else tuple(self.source)  # type: ignore[arg-type]


def read_stream_file(path: Path) -> dict[str, Any]:
    """The keyword arguments of `StreamConfig` that a TOML file gives; docs/stream.md shows one.

    Raises:
        UsageError: the file cannot be read, or has a key or value that is not as expected.
    """
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; check the path") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise UsageError(f"{path} is no TOML file: {error}") from error
    sources = table.pop("source", [])
    if not isinstance(sources, list):
        raise UsageError(f"{path}: expected [[source]], with two brackets, for each source")
    values = _read(table, _STREAM, f"{path}: ")
    if sources:
        values["source"] = [_source(one, f"{path}: source {number}") for number, one in enumerate(sources, 1)]
    return values


_Convert = Callable[[Any], Any]


def _read(table: Any, keys: Mapping[str, tuple[str, _Convert]], where: str = "") -> dict[str, Any]:
    """The values of a table by the names that the program has for them; each key has such a name and a check."""
    if not isinstance(table, Mapping):
        raise UsageError(f"{where}expected a table with {', '.join(keys)}, got {table!r}")
    values = {}
    for key, value in table.items():
        if key not in keys:
            raise UsageError(f"{where}unknown key {key!r}; {nearest(key, keys)}")
        name, convert = keys[key]
        try:
            values[name] = convert(value)
        except UsageError as error:
            raise UsageError(f"{where}{key}: {error}") from None
    return values


def _source(table: Any, where: str) -> SourceConfig:
    if not isinstance(table, Mapping) or "uri" not in table:
        raise UsageError(f'{where}: expected uri = "…", such as rtsp://…, camera:0 or the path of a video')
    where = clean_text(f"{where} ({table.get('name', table['uri'])})")
    values = _read(table, _SOURCE | _OPENING | _WATCHED, f"{where}: ")
    opening = {name: values.pop(name) for name, _ in _OPENING.values() if name in values}
    watched = {key: values.pop(key) for key in _WATCHED if key in values}
    return SourceConfig(
        **values,
        options=SourceOptions(**opening),
        understanding=understanding_options(watched, where) if watched else None,
    )


def _checked(fits: Callable[[Any], bool], expected: str, convert: _Convert = lambda value: value) -> _Convert:
    def check(value: Any) -> Any:
        if not fits(value):
            raise UsageError(f"got {value!r}, expected {expected}")
        return convert(value)

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def size_wh(text: str) -> tuple[int, int]:
    """`1280x720` as (1280, 720).

    Raises:
        UsageError: it is no size.
    """
    if not (found := re.fullmatch(r"([1-9]\d{0,4})[x×]([1-9]\d{0,4})", str(text))):
        raise UsageError(f"got {text!r}, expected a size such as 1280x720")
    return int(found[1]), int(found[2])


def byte_size(text: str) -> int:
    """`10GB`, `500 MiB` or `1e9` in bytes; powers of 1000, with an i of 1024.

    Raises:
        UsageError: it is no size.
    """
    found = re.fullmatch(r"([\d.]+(?:e\d+)?)\s*(?:([KMGT])(i?))?B?", str(text), re.IGNORECASE)
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if not found or number <= 0:
        raise UsageError(f"got {text!r}, expected a size such as 10GB")
    power = "KMGT".index(found[2].upper()) + 1 if found[2] else 0
    return round(number * float(1024 if found[3] else 1000) ** power)


def seconds(text: str) -> float:
    """`90`, `10m` or `1h` in seconds.

    Raises:
        UsageError: it is no time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(text))
    if not found or float(found[1]) <= 0:
        raise UsageError(f"got {text!r}, expected a time such as 90s, 10m or 1h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def fourcc(text: str) -> str:
    """The name of a pixel format.

    Raises:
        UsageError: it has not four characters.
    """
    if not isinstance(text, str) or len(text) != 4 or not text.isascii():
        raise UsageError(f"got {text!r}, expected four characters such as MJPG or YUYV")
    return text


_text = _checked(lambda value: isinstance(value, str) and bool(value), "a text")
_path = _checked(lambda value: isinstance(value, str) and bool(value), "a path", Path)
_flag = _checked(lambda value: isinstance(value, bool), "true or false")
_count = _checked(lambda value: _is_whole(value) and value >= 0, "a whole number from 0")
_number = _checked(lambda value: _is_number(value) and value > 0, "a number above 0")
_score = _checked(lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
_positive = _checked(lambda value: _is_whole(value) and value > 0, "a whole number from 1")
_port = _checked(lambda value: _is_whole(value) and 0 <= value < 65536, "a port")
_transport = _checked(lambda value: value in ("tcp", "udp"), "tcp or udp")
_uri = _checked(
    lambda value: (isinstance(value, str) and bool(value)) or _is_whole(value), "an address, path or number"
)


def _as(kind: type, keys: Mapping[str, tuple[str, _Convert]], needed: str = "") -> _Convert:
    def convert(table: Any) -> Any:
        values = _read(table, keys)
        if needed and needed not in values:
            raise UsageError(f"expected {needed} = …")
        return kind(**values)

    return convert


_SOURCE: dict[str, tuple[str, _Convert]] = {
    "uri": ("uri", _uri),
    "name": ("name", _text),
    "loop": ("loop", _flag),
    "retries": ("retries", _count),
}
_OPENING: dict[str, tuple[str, _Convert]] = {
    "size": ("size_wh", size_wh),
    "fps": ("fps", _number),
    "pixel_format": ("pixel_format", fourcc),
    "transport": ("transport", _transport),
    "realtime": ("realtime", _flag),
    "timeout_s": ("timeout_s", _number),
}
_WATCHED: dict[str, tuple[str, _Convert]] = {key: (key, lambda value: value) for key in UNDERSTANDING_KEYS}
_RECORDING: dict[str, tuple[str, _Convert]] = {
    "segment": ("segment_s", seconds),
    "keep": ("keep_bytes", byte_size),
    "free_floor": ("free_floor_bytes", byte_size),
}
_SNAPSHOTS: dict[str, tuple[str, _Convert]] = {
    "folder": ("folder", _path),
    "keep": ("keep_bytes", byte_size),
    "free_floor": ("free_floor_bytes", byte_size),
    "quiet_s": ("quiet_s", _number),
}
_MQTT: dict[str, tuple[str, _Convert]] = {
    **{key: (key, _text) for key in ("url", "prefix", "client_id")},
    **{key: (key, _path) for key in ("password_file", "ca", "cert", "key")},
    "qos": ("qos", _count),
    "buffer": ("buffer", _positive),
}
_WEB: dict[str, tuple[str, _Convert]] = {"host": ("host", _text), "port": ("port", _port), "token": ("token", _text)}
_STREAM: dict[str, tuple[str, _Convert]] = {
    "model": ("model", _path),
    "show": ("show", _flag),
    "save": ("save", _path),
    "recording": ("recording", _as(Recording, _RECORDING)),
    "snapshots": ("snapshots", _as(SnapshotsConfig, _SNAPSHOTS, needed="folder")),
    "jsonl": ("jsonl", _text),
    "mqtt": ("mqtt", _as(MqttConfig, _MQTT, needed="url")),
    "web": ("web", _as(WebConfig, _WEB)),
    "score": ("score_threshold", _score),
    "threads": ("threads", _positive),
    "latency": ("latency", _flag),
    "log_format": ("log_format", _checked(lambda value: value in ("human", "json"), "human or json")),
}
