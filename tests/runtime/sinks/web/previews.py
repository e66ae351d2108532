"""What tests of the web preview share: results to feed it with, and a client that asks it."""

import http.client
import json
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_edge.detections import Detections
from ssd_edge.runtime.results import Event, Result
from ssd_edge.runtime.sinks.web.access import Token
from ssd_edge.runtime.sinks.web.server import WebPreview
from ssd_edge.runtime.sources.base import Frame

TOKEN = Token("0123456789abcdef")


def result(index: int = 0, source: str = "gate", *, size_hw: tuple[int, int] = (48, 64), grey: int = 0) -> Result:
    found = Detections(np.array([[1, 2, 30, 40]], np.float32), np.array([0.75], np.float32), np.array([1]))
    frame = Frame(np.full((*size_hw, 3), grey, np.uint8), index, time.monotonic(), source)
    event = Event("enter", "dock", track=7, label=1)
    return Result(source, frame, found, ("red", "green"), age_ms=12.0, tracks=np.array([7]), events=(event,))


def write(preview: WebPreview, one: Result) -> None:
    preview.write(one, one.frame.image_bgr)


def port_of(preview: WebPreview) -> int:
    return int(preview.url.rstrip("/").rpartition(":")[2])


def get(preview: WebPreview, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(preview), timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def get_live(preview: WebPreview, after: int = 0) -> tuple[dict[str, Any], list[NDArray[np.uint8] | None]]:
    """An update, and the picture of each source that has a new one."""
    line, _, rest = get(preview, f"/live?after={after}")[2].partition(b"\n")
    update = json.loads(line)
    pictures: list[NDArray[np.uint8] | None] = []
    for source in update["sources"]:
        jpeg, rest = rest[: source.get("jpeg", 0)], rest[source.get("jpeg", 0) :]
        pictures.append(decoded(jpeg) if jpeg else None)
    assert not rest
    return update, pictures


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def decoded(image: bytes) -> NDArray[np.uint8]:
    """A JPEG or PNG as uint8 [H, W, 3] BGR."""
    image_bgr = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert image_bgr is not None
    return np.asarray(image_bgr, np.uint8)
