"""`ssd-edge stream`: detect in a camera, network stream, video or images."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ssd_edge.choices import BACKENDS, DAMAGED, DEFAULT_BACKEND, HWACCELS, LOG_FORMATS, SHOWN_SCORE, TRANSPORTS
from ssd_edge.cli.arguments import (
    add_threads,
    camera,
    class_names,
    flag,
    given,
    host_port,
    positive_int,
    positive_number,
    score,
    whole_number,
)
from ssd_edge.cli.errors import explain
from ssd_edge.errors import UsageError

if TYPE_CHECKING:
    from ssd_edge.runtime.sinks.base import Recording
    from ssd_edge.runtime.stream.config import MqttConfig, SnapshotsConfig, SourceConfig, StreamConfig, WebConfig

SUMMARY = "detect in a camera, network stream, video or images"

# Options that are fields of StreamConfig by the same name.
STREAM_OPTIONS = (
    *("model", "show", "save", "jsonl", "score_threshold", "threads", "latency", "max_frames", "log_format"),
)
SOURCE_OPTIONS = (
    *("size", "fps", "pixel_format", "transport", "realtime", "timeout", "damaged", "hwaccel", "allow_redirects"),
    *("loop", "max_fps", "retries", "classes", "track"),
)
# Fields of MqttConfig, but for the prefix.
MQTT_OPTIONS = (
    *("mqtt_prefix", "mqtt_qos", "mqtt_buffer", "mqtt_client_id", "mqtt_password_file"),
    *("mqtt_ca", "mqtt_cert", "mqtt_key"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_source_arguments(parser)
    _add_detection_arguments(parser)
    _add_output_arguments(parser)
    _add_mqtt_arguments(parser)


def _add_source_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sources", "each as often as there are sources; they share the detector")
    add: Callable[..., object] = group.add_argument
    source = {"action": "append", "dest": "sources"}
    camera_help = "camera by number, from 0, by name, or by serial number"
    add("--camera", type=camera, metavar="N|NAME|SERIAL", help=camera_help, **source)
    add("--csi", type="csi:{}".format, metavar="N", help="camera of a Jetson by number, from 0", **source)
    add("--video", type=Path, metavar="FILE", help="video file", **source)
    add("--rtsp", metavar="URL", help="network camera", **source)
    add("--source", metavar="URI", help="any of these; or an image, a folder, a glob pattern", **source)
    add("--config", type=Path, metavar="FILE", help="sources and all else as TOML; options take its place")
    add("--size", metavar="WxH", help="ask cameras for this size, such as 1280x720")
    add("--fps", type=positive_number, help="ask cameras for this rate; pace of --realtime")
    max_fps_help = "detect in at most N frames per second of each source (all)"
    add("--max-fps", type=positive_number, metavar="N", help=max_fps_help)
    add("--pixel-format", metavar="CODE", help="ask cameras for this, such as MJPG")
    add("--transport", choices=TRANSPORTS, help="of RTSP (tcp)")
    add("--loop", action="store_const", const=True, help="begin files anew at their end")
    add("--realtime", action="store_const", const=True, help="play files at their own pace, as if they were cameras")
    add("--timeout", type=positive_number, metavar="S", help="to open and to read (8 s)")
    add("--damaged", choices=DAMAGED, help="frames that come damaged: leave them out, or keep them (skip)")
    hwaccel_help = "what decodes video (auto: an NVIDIA GPU or a Jetson's decoder for a model that runs there)"
    add("--hwaccel", choices=HWACCELS, help=hwaccel_help)
    redirects_help = "follow HTTP redirects and playlists to other hosts (no)"
    add("--allow-redirects", action="store_const", const=True, help=redirects_help)
    retries_help = "end a source after so many failures in a row (cameras and network: never; files: at once)"
    add("--retries", type=whole_number, metavar="N", help=retries_help)


def _add_detection_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("detection")
    add = group.add_argument
    add("--model", type=Path, help="model file (the bundled one)")
    add(
        "--backend",
        choices=BACKENDS,
        default=DEFAULT_BACKEND,
        help="what runs an .onnx file: TensorRT builds and keeps an engine (auto: that where there is a GPU)",
    )
    add(
        "--score",
        type=score,
        dest="score_threshold",
        metavar="S",
        help=f"detections need a score above this ({SHOWN_SCORE})",
    )
    add("--classes", type=class_names, metavar="A,B", help="keep these classes only")
    add("--track", action="store_const", const=True, help="give what is seen ids that stay; zones and lines: --config")
    add("--latency", action="store_const", const=True, help="lowest age of a frame, rather than most frames")
    add_threads(group)
    add("--max-frames", type=positive_int, metavar="N", help="end after so many frames (all)")


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("outputs").add_argument
    add("--show", action="store_const", const=True, help="show a window; q closes it")
    add("--save", type=Path, metavar="PATH", help="write an annotated video, image, or folder of images")
    add("--segment", metavar="TIME", help="begin a new file of the video so often, such as 10m")
    add("--keep", metavar="SIZE", help="remove the oldest of these files above this, such as 10GB")
    add("--free-floor", metavar="SIZE", help="pause the video when less is free on the disk (256MiB)")
    add(
        "--snapshots",
        type=Path,
        metavar="DIR",
        help="write a picture of each event, and its JSON object, to this folder",
    )
    add("--snapshots-keep", metavar="SIZE", help="remove the oldest of these files above this, such as 1GB")
    add("--snapshots-free-floor", metavar="SIZE", help="pause snapshots when less is free on the disk (256MiB)")
    add(
        "--jsonl",
        metavar="FILE",
        help="write detections, a JSON object a frame and line, those of live sources to the file's end; - for "
        "standard output",
    )
    add("--web", type=host_port, nargs="?", const={}, metavar="HOST:PORT", help="show a web page")
    add("--web-token", metavar="FILE|auto", help="file with what opens that page from elsewhere; auto to make one")
    add("--log-format", choices=LOG_FORMATS, help="of messages and progress (human)")


def _add_mqtt_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("MQTT").add_argument
    add("--mqtt", metavar="URL", help="publish to this broker: mqtt://[USER@]HOST[:PORT], mqtts:// for TLS")
    add("--mqtt-prefix", metavar="TOPIC", help="first levels of all topics (ssd-edge)")
    add("--mqtt-qos", type=int, choices=(0, 1, 2), help="of results and events (1)")
    add("--mqtt-buffer", type=positive_int, metavar="N", help="messages that wait while it is away (10000)")
    add("--mqtt-client-id", metavar="ID", help="who we are to it (made of this machine's name)")
    add(
        "--mqtt-password-file", type=Path, metavar="FILE", help="its first line; or the variable SSD_EDGE_MQTT_PASSWORD"
    )
    add("--mqtt-ca", type=Path, metavar="PEM", help="authorities to trust (the system's)")
    add("--mqtt-cert", type=Path, metavar="PEM", help="certificate that proves who we are")
    add("--mqtt-key", type=Path, metavar="PEM", help="key of that certificate")


def run(args: argparse.Namespace) -> None:
    from ssd_edge.runtime.stream.memory import limit_heaps

    limit_heaps()  # before the libraries below start threads
    from ssd_edge.runtime.cuda.errors import CudaFatalError
    from ssd_edge.runtime.logs import set_up_logs
    from ssd_edge.runtime.stream.run import Stream

    config = _stream_config(args)
    set_up_logs(config.log_format)
    args.log_format = config.log_format  # of the file too
    stream = Stream(config)
    try:
        stream.run()
    except Exception as error:
        if not (stream.hanging or isinstance(error, CudaFatalError)):
            raise
        _leave(explain(error, args))
    if stream.hanging:
        _leave(0)


def _leave(status: int) -> NoReturn:
    """End the process where a driver hangs or the GPU is lost: what libraries do at a normal exit could hang too."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _stream_config(args: argparse.Namespace) -> StreamConfig:
    """What the file says, and in its place what the options say."""
    from ssd_edge.bundled import bundled_model
    from ssd_edge.export.engine.cache import prepare_model
    from ssd_edge.runtime.stream.config import StreamConfig
    from ssd_edge.runtime.stream.config_file import read_stream_file

    values = read_stream_file(args.config) if args.config else {}
    if sources := _sources_of_options(args):
        values["source"] = sources
    elif "source" not in values:
        raise UsageError(
            "no source; give --camera, --csi, --rtsp, --video or --source, or --config FILE that names one"
        )
    values |= given(args, *STREAM_OPTIONS) | _recording_of_options(args) | _snapshots_of_options(args)
    values |= _mqtt_of_options(args) | _web_of_options(args)
    model = prepare_model(values.pop("model", None) or bundled_model(), backend=args.backend)
    return StreamConfig(model=model, **values)


def _sources_of_options(args: argparse.Namespace) -> list[SourceConfig]:
    from ssd_edge.runtime.sources.base import SourceOptions
    from ssd_edge.runtime.stream.config import SourceConfig
    from ssd_edge.runtime.tracking.analytics import UnderstandingOptions
    from ssd_edge.runtime.tracking.tracker import TrackOptions
    from ssd_edge.runtime.units import fourcc, size_wh

    if not args.sources:
        if useless := given(args, *SOURCE_OPTIONS):
            option = flag(next(iter(useless)))
            raise UsageError(f"{option} is about sources that are given as options; write it into {args.config}")
        return []
    opening = given(args, "fps", "transport", "realtime", "damaged", "hwaccel", "allow_redirects") | _converted(
        args, size=("size_wh", size_wh), pixel_format=("pixel_format", fourcc), timeout=("timeout_s", float)
    )
    understanding = None
    if given(args, "classes", "track"):
        understanding = UnderstandingOptions(tuple(args.classes or ()), track=TrackOptions() if args.track else None)
    options, reading = SourceOptions(**opening), given(args, "loop", "max_fps", "retries")
    return [SourceConfig(uri, options=options, understanding=understanding, **reading) for uri in args.sources]


def _converted(args: argparse.Namespace, **fields: tuple[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The options that were given, as fields of a configuration: each argument's name with its field and its type.

    These are types from modules that `--help` does without.
    """
    values = {}
    for name, text in given(args, *fields).items():
        field, convert = fields[name]
        try:
            values[field] = convert(text)
        except UsageError as error:
            raise UsageError(f"{flag(name)}: {error}") from None
    return values


def _recording_of_options(args: argparse.Namespace) -> dict[str, Recording]:
    from ssd_edge.runtime.sinks.base import Recording
    from ssd_edge.runtime.units import byte_size, seconds

    options = _converted(
        args,
        segment=("segment_s", seconds),
        keep=("keep_bytes", byte_size),
        free_floor=("free_floor_bytes", byte_size),
    )
    return {"recording": Recording(**options)} if options else {}


def _snapshots_of_options(args: argparse.Namespace) -> dict[str, SnapshotsConfig]:
    from ssd_edge.runtime.stream.config import SnapshotsConfig
    from ssd_edge.runtime.units import byte_size

    limits = _converted(
        args, snapshots_keep=("keep_bytes", byte_size), snapshots_free_floor=("free_floor_bytes", byte_size)
    )
    if limits and not args.snapshots:
        raise UsageError("--snapshots-keep and --snapshots-free-floor need --snapshots DIR too")
    return {"snapshots": SnapshotsConfig(args.snapshots, **limits)} if args.snapshots else {}


def _mqtt_of_options(args: argparse.Namespace) -> dict[str, MqttConfig]:
    from ssd_edge.runtime.stream.config import MqttConfig

    options = given(args, *MQTT_OPTIONS)
    if options and not args.mqtt:
        raise UsageError(f"{flag(next(iter(options)))} is about a broker; give --mqtt URL too")
    fields = {name.removeprefix("mqtt_"): value for name, value in options.items()}
    return {"mqtt": MqttConfig(args.mqtt, **fields)} if args.mqtt else {}


def _web_of_options(args: argparse.Namespace) -> dict[str, WebConfig]:
    from ssd_edge.runtime.stream.config import WebConfig

    if args.web is None:
        if args.web_token:
            raise UsageError("--web-token is about the web page; give --web too")
        return {}
    return {"web": WebConfig(**args.web, token=args.web_token)}
