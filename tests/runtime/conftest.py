"""A network camera, and machines made of files."""

from __future__ import annotations

import importlib.util
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_edge.runtime.sources.gstreamer import GStreamer, load_gstreamer

DEBIANS_GI = Path("/usr/lib/python3/dist-packages/gi")  # for Debian's Python, and any other of the same version


@pytest.fixture(scope="session")
def gstreamer(tmp_path_factory: pytest.TempPathFactory) -> GStreamer:
    """PyGObject's modules, lent from the system where this environment does not have it."""
    if importlib.util.find_spec("gi") is None and DEBIANS_GI.exists():
        folder = tmp_path_factory.mktemp("lent")
        (folder / "gi").symlink_to(DEBIANS_GI)
        sys.path.append(str(folder))
    found = load_gstreamer()
    if found is None:
        pytest.skip("no PyGObject of this Python's version; sudo apt install python3-gi gir1.2-gst-plugins-base-1.0")
    return found


@pytest.fixture
def network_camera() -> Iterator[Callable[..., str]]:
    """Start a camera that sends `frames` red JPEGs, 200 a second, then hangs up or falls silent; its address."""
    done = threading.Event()
    servers = []

    def serve(server: socket.socket, frames: int, falls_silent: bool) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=f\r\n\r\n")
            jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), (0, 0, 255), np.uint8))[1].tobytes()
            part = b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)
            for _ in range(frames):
                connection.sendall(part)
                time.sleep(0.005)
            if falls_silent:
                done.wait(20)

    def start(frames: int, *, falls_silent: bool = False) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        threading.Thread(target=serve, args=(server, frames, falls_silent), daemon=True).start()
        return f"http://admin:s3cret@127.0.0.1:{server.getsockname()[1]}/video"

    yield start
    done.set()
    for server in servers:
        server.close()


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Path]:
    """A file system with these files."""

    def make(*trees: dict[str, str]) -> Path:
        for path, text in [item for tree in trees for item in tree.items()]:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return make
