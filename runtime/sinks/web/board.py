"""What is known of each source: its newest frame, figures and events, in memory that does not grow."""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.runtime.results import Result
from ssd_edge.runtime.stats import RollingWindow, StreamStats

STALE_S = 10.0  # a source that gives no frame for so long does not deliver, whatever was said of it
FPS_WINDOW_S = 3.0
FPS_MAX_ARRIVALS = 3000
EVENTS_SHOWN = 50
PICTURE_PX = 960  # longest side
PICTURE_PERIOD_S = 0.1  # a source's picture is made anew at most so often, for any number of viewers
JPEG_QUALITY = 80
PERCENTS = (50, 95, 99)


@dataclass(frozen=True)
class Figures:
    """How a source does.

    Attributes:
        status: ok, stalled, reconnecting, ended or failed.
        detail: why, or "".
        fps: frames a second, over the last few seconds.
        frames: frames that came.
        dropped: frames that the source gave, but that did not come: newer ones were there before their turn; as far as
            it was told.
        decoder: what decodes the source; "" as long as nobody has told.
        age_ms: p50, p95, p99 of the time from capture to detections, of the last 1000 frames.
        latency_ms: the same of preprocess, inference and NMS; None as long as nobody has told.
        silent_s: time since the last frame, or since the source is known.
    """

    source: str
    status: str
    detail: str
    fps: float
    frames: int
    dropped: int
    age_ms: tuple[float, ...]
    latency_ms: tuple[float, ...] | None
    silent_s: float
    decoder: str

    @property
    def delivers(self) -> bool:
        return self.status == "ok"


@dataclass
class _Shown:
    """The picture that viewers get. Pictures of all sources are numbered in the order in which they were made."""

    number: int = 0
    frames: int = 0  # how many had come, which tells whether there is a newer one
    made_at: float = -math.inf
    record: dict[str, Any] | None = None
    jpeg: bytes = b""


@dataclass
class _SourceState:
    heard_at: float
    status: str = "ok"
    detail: str = ""
    frames: int = 0
    dropped: int = 0
    decoder: str = ""
    newest: Result | None = None
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=FPS_MAX_ARRIVALS))
    ages_ms: RollingWindow = field(default_factory=RollingWindow)
    latency_ms: tuple[float, ...] | None = None
    detections: Counter[str] = field(default_factory=Counter)
    events: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    shown: _Shown = field(default_factory=_Shown)


class Board:
    """Sources write to it from any thread, in microseconds; the server's thread alone makes pictures of it.

    Args:
        draw: gives a frame with its overlay, uint8 [H, W, 3]; it is asked only for pictures that a viewer gets.
    """

    def __init__(self, draw: Callable[[Result], NDArray[np.uint8]]) -> None:
        self._draw = draw
        self._lock = threading.Lock()
        self._sources: dict[str, _SourceState] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_SHOWN)
        self._numbers = itertools.count(1)

    def add(self, result: Result) -> None:
        """Take a frame in place of the source's last one."""
        now = time.monotonic()
        with self._lock:
            state = self._state(result.source)
            state.newest = result
            state.frames += 1
            state.heard_at = now
            state.arrivals.append(now)
            state.ages_ms.add(result.age_ms)
            state.detections.update(result.class_names[label] for label in result.detections.labels)
            for event in result.events:
                name = result.class_names[event.label]
                state.events[event.kind, event.place, name] += 1
                self._events.append(
                    {"source": result.source, "time": round(result.unix_time, 3)}
                    | {"kind": event.kind, "place": event.place, "track": event.track, "class": name}
                )

    def set_status(self, source: str, status: str, detail: str) -> None:
        """Take what is known of a source, which need not have given a frame yet."""
        with self._lock:
            state = self._state(source)
            if status == "ok" != state.status:  # it has its time anew
                state.heard_at = time.monotonic()
            state.status, state.detail = status, detail

    def set_stats(self, source: str, stats: StreamStats) -> None:
        """Take what is not in a source's frames."""
        with self._lock:
            state = self._state(source)
            state.latency_ms, state.dropped, state.decoder = stats.latency_ms, stats.dropped, stats.decoder

    def figures(self) -> list[Figures]:
        """How each source does, in the order in which they became known."""
        now = time.monotonic()
        with self._lock:
            return [_figures(name, state, now) for name, state in self._sources.items()]

    def totals(self) -> dict[str, tuple[Counter[str], Counter[tuple[str, str, str]]]]:
        """Of each source, detections by class, and events by kind, place and class."""
        with self._lock:
            return {name: (state.detections.copy(), state.events.copy()) for name, state in self._sources.items()}

    def newest_picture(self) -> int:
        """The number of the newest picture; first makes those that are due."""
        now = time.monotonic()
        with self._lock:
            states = list(self._sources.values())
        for state in states:
            with self._lock:
                newest, frames, shown = state.newest, state.frames, state.shown
            if newest is not None and shown.frames < frames and now - shown.made_at >= PICTURE_PERIOD_S:
                jpeg = picture(self._draw(newest))
                state.shown = _Shown(next(self._numbers), frames, now, newest.record(), jpeg)
        return max((state.shown.number for state in states), default=0)

    def update(self, after: int) -> bytes:
        """What a viewer has not seen yet: a line of JSON, then the JPEGs newer than picture `after`, end to end.

        `{"number": int, "time": float, "sources": [...], "events": [...]}`: give `number` as the next `after`. A
        source has its `Figures`, and with a new picture also `record`, the JSON object of its frame, and `jpeg`, the
        picture's length in bytes. `events` are the last ones, oldest first.
        """
        figures = self.figures()
        with self._lock:
            shown = [self._sources[one.source].shown for one in figures]
            events = list(self._events)
        new = [one.number > after for one in shown]
        sources = [
            asdict(one) | ({"record": picture.record, "jpeg": len(picture.jpeg)} if is_new else {})
            for one, picture, is_new in zip(figures, shown, new, strict=True)
        ]
        number = max((one.number for one in shown), default=0)
        line = json.dumps({"number": number, "time": time.time(), "sources": sources, "events": events})
        return b"".join([line.encode(), b"\n", *itertools.compress((one.jpeg for one in shown), new)])

    def _state(self, source: str) -> _SourceState:
        return self._sources.setdefault(source, _SourceState(time.monotonic()))


def picture(image_bgr: NDArray[np.uint8]) -> bytes:
    """A JPEG of the image, of at most `PICTURE_PX` on its longest side.

    Args:
        image_bgr: uint8 [H, W, 3].
    """
    while max(image_bgr.shape[:2]) >= 2 * PICTURE_PX:  # OpenCV averages 2×2 pixels many times faster than others
        image_bgr = _resize(image_bgr, 0.5, cv2.INTER_AREA)
    scale = PICTURE_PX / max(image_bgr.shape[:2])
    if scale < 1:
        image_bgr = _resize(image_bgr, scale, cv2.INTER_LINEAR)
    return bytes(cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])


def _resize(image_bgr: NDArray[np.uint8], scale: float, interpolation: int) -> NDArray[np.uint8]:
    size_wh = [max(1, round(scale * side)) for side in image_bgr.shape[1::-1]]
    return np.asarray(cv2.resize(image_bgr, size_wh, interpolation=interpolation), np.uint8)


def _figures(name: str, state: _SourceState, now: float) -> Figures:
    while state.arrivals and state.arrivals[0] < now - FPS_WINDOW_S:
        state.arrivals.popleft()
    waited_s = now - state.arrivals[0] if state.arrivals else 0.0
    status, detail, silent_s = state.status, state.detail, now - state.heard_at
    if status == "ok" and silent_s > STALE_S:
        status, detail = "stalled", f"no frame for {silent_s:.0f} s"
    return Figures(
        source=name,
        status=status,
        detail=detail,
        fps=round((len(state.arrivals) - 1) / waited_s, 1) if waited_s > 0 else 0.0,
        frames=state.frames,
        dropped=state.dropped,
        age_ms=tuple(round(state.ages_ms.percentile(percent), 1) for percent in PERCENTS),
        latency_ms=state.latency_ms and tuple(round(value, 1) for value in state.latency_ms),
        silent_s=round(silent_s, 1),
        decoder=state.decoder,
    )
