"""A port that never answers, web servers, and servers that say whatever a test wants."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class RawServer:
    """Answers requests with the bytes that a function gives for their text, and hangs up.

    Attributes:
        place: host and port.
        requests: their texts, as they came.
    """

    def __init__(self, answer: Callable[[str], bytes | Iterator[bytes]], host: str, tls: ssl.SSLContext | None) -> None:
        self._answer, self._tls = answer, tls
        self._server = socket.create_server((host, 0))
        self._open: list[socket.socket] = []
        self.place = f"{host}:{self._server.getsockname()[1]}"
        self.requests: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._server.accept()
                self._open.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError):  # the other side has hung up
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                request = b""
                while b"\r\n\r\n" not in request and (more := connection.recv(4096)):
                    request += more
                self.requests.append(request.decode())
                answer = self._answer(self.requests[-1])
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    connection.sendall(piece)

    def close(self) -> None:
        self._server.close()
        for connection in self._open:
            connection.close()


@contextmanager
def raw_server(
    answer: bytes | Callable[[str], bytes | Iterator[bytes]],
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
) -> Iterator[RawServer]:
    """A `RawServer`; bytes are the answer to each request."""
    server = RawServer((lambda _: answer) if isinstance(answer, bytes) else answer, host, tls)
    try:
        yield server
    finally:
        server.close()


def http_answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """With its length, unless that is given; `Content_Type` and the like are headers."""
    named = {name.replace("_", "-"): text for name, text in {"Content_Length": str(len(body)), **headers}.items()}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {text}" for name, text in named.items()), "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body
