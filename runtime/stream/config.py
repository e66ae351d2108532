"""What to stream, from where to where: the options of `run_stream`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ssd_edge.choices import SHOWN_SCORE
from ssd_edge.runtime.sinks.base import Recording
from ssd_edge.runtime.sinks.disk_space import FREE_FLOOR_BYTES
from ssd_edge.runtime.sources.base import Place, SourceOptions, Uri
from ssd_edge.runtime.tracking.analytics import UnderstandingOptions


@dataclass(frozen=True)
class SourceConfig:
    """One source.

    Attributes:
        uri: what `find_source` takes; or a `Place`, for a source of your own.
        name: what it is called in outputs; None for its address or path, without any password.
        options: how it is opened.
        loop: a file begins anew at its end.
        max_fps: frames per second that are detected in, evenly over the source's own time; None for all.
        retries: how often in a row it is opened again after a failure; None: a camera or address for ever, a file not
            at all.
        understanding: what is kept and watched of what it shows.
    """

    uri: Uri | Place
    name: str | None = None
    options: SourceOptions = field(default_factory=SourceOptions)
    loop: bool = False
    max_fps: float | None = None
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
    score_threshold: float = SHOWN_SCORE
    threads: int | None = None
    latency: bool = False
    max_frames: int | None = None
    log_format: str = "human"

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """All of them."""
        if isinstance(self.source, (str, int, Path)):
            return (SourceConfig(self.source),)
        return tuple(self.source)
