"""A stream as a TOML file; see docs/stream.md."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ssd_edge.choices import DAMAGED, HWACCELS, LOG_FORMATS, TRANSPORTS
from ssd_edge.errors import UsageError
from ssd_edge.option_checks import check_table, is_filled_text, is_number, is_whole
from ssd_edge.runtime.redact import clean_text
from ssd_edge.runtime.sinks.base import Recording
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.stream.config import MqttConfig, SnapshotsConfig, SourceConfig, WebConfig
from ssd_edge.runtime.tracking.analytics import KEYS as UNDERSTANDING_KEYS
from ssd_edge.runtime.tracking.analytics import understanding_options
from ssd_edge.runtime.units import byte_size, fourcc, seconds, size_wh


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
    values = {}
    for key, value in check_table(table, keys, where).items():
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


_text = _checked(is_filled_text, "a text")
_path = _checked(is_filled_text, "a path", Path)
_flag = _checked(lambda value: isinstance(value, bool), "true or false")
_count = _checked(lambda value: is_whole(value) and value >= 0, "a whole number from 0")
_number = _checked(lambda value: is_number(value) and 0 < value < math.inf, "a number above 0")
_score = _checked(lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
_positive = _checked(lambda value: is_whole(value) and value > 0, "a whole number from 1")
_port = _checked(lambda value: is_whole(value) and 0 <= value < 65536, "a port")


def _one_of(choices: tuple[str, ...]) -> _Convert:
    return _checked(lambda value: value in choices, " or ".join(choices))


_uri = _checked(lambda value: is_filled_text(value) or is_whole(value), "an address, path or number")


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
    "max_fps": ("max_fps", _number),
    "retries": ("retries", _count),
}
_OPENING: dict[str, tuple[str, _Convert]] = {
    "size": ("size_wh", size_wh),
    "fps": ("fps", _number),
    "pixel_format": ("pixel_format", fourcc),
    "transport": ("transport", _one_of(TRANSPORTS)),
    "realtime": ("realtime", _flag),
    "timeout_s": ("timeout_s", _number),
    "damaged": ("damaged", _one_of(DAMAGED)),
    "hwaccel": ("hwaccel", _one_of(HWACCELS)),
    "allow_redirects": ("allow_redirects", _flag),
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
    "log_format": ("log_format", _one_of(LOG_FORMATS)),
}
