"""Network cameras and other addresses as sources."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import av
from av.container import InputContainer

from ssd_edge.errors import SourceError
from ssd_edge.runtime.redact import clean_text, clean_url
from ssd_edge.runtime.sources.base import Place, Source, SourceOptions
from ssd_edge.runtime.sources.ffmpeg import CONTAINER_OPTIONS, FfmpegSource, reason_of
from ssd_edge.runtime.sources.gstreamer import GStreamerSource, gstreamer_decodes, has_element
from ssd_edge.runtime.sources.hardware import accelerator_of, check_taken
from ssd_edge.runtime.sources.http import HTML_TYPES, UNREADABLE, HttpClient, HttpFile
from ssd_edge.runtime.sources.mjpeg import MjpegSource, is_mjpeg
from ssd_edge.runtime.sources.pipelines import NVIDIA_CONVERTER, rtsp_pipeline, srt_pipeline
from ssd_edge.runtime.sources.played import PlayedSource
from ssd_edge.runtime.sources.rtsp_redirects import PORTS, follow_redirects

logger = logging.getLogger(__name__)

# What FFmpeg may open for an address of each kind: never a file of this machine.
PROTOCOLS = {
    "rtsp": "rtsp,rtp,rtcp,udp,tcp,srtp",
    "rtsps": "rtsp,rtp,rtcp,udp,tcp,tls,srtp",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,rtmp,tcp,tls",
    "udp": "udp",
    "rtp": "rtp,rtcp,udp",
    "tcp": "tcp",
    "srt": "srt,udp",
}
GSTREAMER_SCHEMES = frozenset({"rtsp", "rtsps", "srt"})
CHECK = "check address, port, user and password, and that the device is on"
URL_SCHEMES = (*PROTOCOLS, "http", "https")


def find_address(url: str, options: SourceOptions) -> Place:
    """A network stream, or a video on a web server.

    Raises:
        SourceError: the address is of an unknown kind, or `hwaccel` is not here.
    """
    name = clean_url(url)
    scheme = url.split("://")[0].lower()
    if scheme not in URL_SCHEMES:
        raise SourceError(f"{name}: unknown kind of address; expected one of {', '.join(URL_SCHEMES)}")
    accelerator_of(options)  # before there is a detector; and what is not here now will not be later
    if options.hwaccel == "gstreamer" and scheme not in GSTREAMER_SCHEMES:
        logger.warning("%s: FFmpeg reads it; --hwaccel gstreamer is for files, cameras, RTSP and SRT", name)
    if scheme in ("http", "https"):
        return Place(name, True, lambda: _open_http(name, url, options))
    return Place(name, True, lambda: _open_stream(name, url, scheme, options))


def _open_stream(name: str, url: str, scheme: str, options: SourceOptions) -> Source:
    """What FFmpeg connects to by itself, or GStreamer, which PyAV's wheel leaves SRT to."""
    if scheme not in PORTS:
        return _open_directly(name, url, scheme, options)
    begin = time.monotonic()
    with ExitStack() as held:
        try:
            url = follow_redirects(url, options, held)
        except ValueError:
            raise SourceError(f"cannot open {name}: {UNREADABLE}") from None
        except OSError as error:
            problem = _problem(error, time.monotonic() - begin, options)
            raise SourceError(f"cannot open {name}: {problem}") from None
        return _open_directly(name, url, urlsplit(url).scheme.lower(), options)


def _open_directly(name: str, url: str, scheme: str, options: SourceOptions) -> Source:
    if scheme in GSTREAMER_SCHEMES and gstreamer_decodes(options):
        return _open_with_gstreamer(name, url, scheme, options)
    chosen = {"protocol_whitelist": PROTOCOLS[scheme], **CONTAINER_OPTIONS}
    if scheme.startswith("rtsp"):
        chosen["rtsp_transport"] = options.transport
    accelerator = accelerator_of(options)
    begin = time.monotonic()
    try:
        container = av.open(url, options=chosen, timeout=(options.timeout_s, options.timeout_s), hwaccel=accelerator)
    except (OSError, av.FFmpegError) as error:
        if isinstance(error, av.ProtocolNotFoundError) and scheme in GSTREAMER_SCHEMES:
            return _open_with_gstreamer(name, url, scheme, options)
        problem = _problem(error, time.monotonic() - begin, options)
        raise SourceError(f"cannot open {name}: {problem}") from None
    return _source_of(name, container, options, live=True)


def _open_with_gstreamer(name: str, url: str, scheme: str, options: SourceOptions) -> Source:
    nvidia = has_element(NVIDIA_CONVERTER)
    pipeline = srt_pipeline(url, nvidia=nvidia) if scheme == "srt" else rtsp_pipeline(url, options, nvidia=nvidia)
    return GStreamerSource(name, pipeline, options, live=True, advice=CHECK)


def _problem(error: Exception, waited_s: float, options: SourceOptions) -> str:
    if isinstance(error, av.HTTPUnauthorizedError):
        return "it does not accept this user and password, or asks for them (401); give rtsp://USER:PASSWORD@HOST/…"
    if isinstance(error, av.HTTPForbiddenError):
        return "it does not allow this (403); check the user's rights"
    if isinstance(error, av.HTTPNotFoundError):
        return "it has nothing at this path (404); check the path after the host's name"
    if isinstance(error, av.HTTPServerError):
        return "the device has trouble (5xx), or too many viewers; try a restart of it"
    if isinstance(error, (av.ExitError, TimeoutError)) or waited_s >= options.timeout_s:  # RTSP says "invalid data"
        return (
            f"no usable answer within {waited_s:.1f} s (limit {options.timeout_s:g} s); check address, port, user and "
            "password, and that the device is on"
        )
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused; check the port, and that the service is running"
    if isinstance(error, av.ProtocolNotFoundError):
        return "this FFmpeg does not speak it; give another of the device's addresses, such as rtsp://…"
    if isinstance(error, av.InvalidDataError):
        return "what it sends is no video that FFmpeg knows; check port and path"
    return f"{clean_text(reason_of(error))}; {CHECK}"


def _open_http(name: str, url: str, options: SourceOptions) -> Source:
    client = HttpClient(url, timeout_s=options.timeout_s, allow_redirects=options.allow_redirects)
    answer = client.get(url)
    try:
        if answer.content_type in HTML_TYPES:
            raise SourceError(
                f"{name} is a web page ({answer.content_type}), such as a login, and no video; look for the address of "
                "the stream itself in the camera's settings or manual"
            )
        if is_mjpeg(answer):
            check_taken(name, "motion JPEG", options)
            return MjpegSource(name, answer, options)
        file = HttpFile(client, answer)

        def open_entry(entry: str, flags: int, _: Any) -> HttpFile:
            return HttpFile(client, client.get(entry))

        chosen = {"http_persistent": "0", **CONTAINER_OPTIONS}
        container = av.open(file, options=chosen, io_open=open_entry, hwaccel=accelerator_of(options))
    except TimeoutError:
        answer.close()
        raise SourceError(
            f"cannot open {name}: no usable data within {options.timeout_s:g} s; check that the device is on"
        ) from None
    except (OSError, av.FFmpegError) as error:
        answer.close()
        kind = f" ({answer.content_type})" if answer.content_type else ""
        raise SourceError(
            f"{name}: what it sends{kind} is no video that FFmpeg knows: {clean_text(reason_of(error))}; check the "
            "address in a browser"
        ) from None
    except BaseException:
        answer.close()
        raise
    assert isinstance(container, InputContainer)
    if container.format.name == "hls":  # which has a length of time once it is complete; while it grows, it has pieces
        video = _source_of(name, container, options, live=False, asking=client.renew)
        return video if container.duration else PlayedSource(video)
    return _source_of(name, container, options, live=answer.length is None, asking=client.renew)


def _source_of(
    name: str,
    container: InputContainer,
    options: SourceOptions,
    *,
    live: bool,
    asking: Callable[[], None] = lambda: None,
) -> Source:
    try:
        return FfmpegSource(name, container, options, live=live, asking=asking)
    except BaseException:
        container.close()
        raise
