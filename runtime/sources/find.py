"""Which source a URI names."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.base import Place, Source, SourceOptions, Uri
from ssd_edge.runtime.sources.camera import find_camera
from ssd_edge.runtime.sources.csi import find_csi_camera
from ssd_edge.runtime.sources.images import ImageSource, is_image, natural_key, open_images
from ssd_edge.runtime.sources.played import PlayedSource


def open_source(uri: Uri, options: SourceOptions | None = None) -> Source:
    """Open what `uri` names; see `find_source`.

    Raises:
        SourceError: there is no such thing, or it cannot be opened; passwords are left out of the message.
    """
    return find_source(uri, options).open()


def find_source(uri: Uri, options: SourceOptions | None = None) -> Place:
    """Find out what `uri` names.

    Args:
        uri: a camera's number, `/dev/video0`, `camera:0` or `camera:NAME`; `csi:0` for a camera of a Jetson; an address
            such as `rtsp://…`; an image; a folder or a glob pattern of images; or a video file. A string of digits is
            a camera where no file is called so; a `Path` is never a camera or an address.

    Raises:
        SourceError: it can be none of these, also later.
    """
    options = options or SourceOptions()
    path = Path(str(uri))
    if isinstance(uri, int):
        return find_camera(str(uri), options)
    if isinstance(uri, str):
        if path.is_char_device():
            uri = str(path.resolve())  # /dev/v4l/by-id/… is a link
        if (device := re.fullmatch(r"(?:/dev/video)?(\d+)", uri)) and (path.is_char_device() or not path.exists()):
            return find_camera(device[1], options)
        if uri.startswith("camera:"):
            return find_camera(uri.removeprefix("camera:"), options)
        if csi := re.fullmatch(r"csi:(?://)?(\d+)", uri):
            return find_csi_camera(int(csi[1]), options)
        if "://" in uri:
            return _find_address(uri, options)
    text = str(uri)
    open_file: Callable[[], Source]
    if path.is_dir():
        open_file = partial(open_images, text, sorted(path.iterdir(), key=natural_key))
    elif path.is_file() or path.is_fifo():
        open_file = partial(ImageSource, text, (path,)) if is_image(path) else partial(_open_video, path, options)
    elif glob.has_magic(text):
        open_file = partial(open_images, text, sorted(map(Path, glob.glob(text, recursive=True)), key=natural_key))
    else:
        raise SourceError(
            f"no source {text}; expected a camera's number or name (camera:NAME), an address such as rtsp://…, or the "
            "path of a video, an image or a folder of images"
        )
    if options.realtime:
        return Place(text, False, lambda: PlayedSource(open_file(), options.fps))
    return Place(text, False, open_file)


def _find_address(url: str, options: SourceOptions) -> Place:
    from ssd_edge.runtime.sources.network import find_address  # loads FFmpeg, which cameras and images do without

    return find_address(url, options)


def _open_video(path: Path, options: SourceOptions) -> Source:
    from ssd_edge.runtime.sources.video import open_video  # loads FFmpeg

    return open_video(path, options)
