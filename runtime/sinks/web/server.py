"""The web preview: a sink that shows on a page what the stream sees."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np
import uvicorn
from numpy.typing import NDArray
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from ssd_edge.errors import SinkError, UsageError
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.sinks.web.access import Gate, Token, is_loopback
from ssd_edge.runtime.sinks.web.board import Board
from ssd_edge.runtime.sinks.web.metrics import Metrics
from ssd_edge.runtime.stats import StreamStats

logger = logging.getLogger(__name__)

PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.svg": ("page.svg", "image/svg+xml"),
}
MAX_CONNECTIONS = 64  # a browser opens up to six
LONGEST_WAIT_S = 2.0  # for a new picture, before the figures go out alone
POLL_S = 0.02
STUCK_MS = 20_000
KEEPALIVE_S = 30
CLOSE_S = 0.4


class WebPreview(Sink):
    """A page with the live pictures of all sources and how they do, `/healthz`, and `/metrics` for Prometheus.

    One for all sources. The server has a thread of its own, and a viewer gets the newest picture when it asks for the
    next: one that is slow or stuck costs nothing and gets fewer. Pictures are drawn and encoded when someone asks.

    Args:
        host: address to listen at.
        port: 0 for any that is free; see `url`.
        token: what a viewer must have; None for none, on this machine only.
        draw: gives a frame with its overlay, uint8 [H, W, 3]; called in the server's thread.

    Raises:
        UsageError: other machines could look, and there is no token; or the port cannot be.
        SinkError: the address or port cannot be had.
    """

    needs_drawing = False
    wants_stats = True

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8080,
        *,
        token: Token | None = None,
        draw: Callable[[Result], NDArray[np.uint8]] = lambda result: result.frame.image_bgr,
    ) -> None:
        if token is None and not is_loopback(host):
            raise UsageError(
                f"a web page at {host} can be opened from other machines, so it needs a token: give a file that "
                "holds one, or auto to have one made; or leave the address at 127.0.0.1"
            )
        if not 0 <= port <= 65535:
            raise UsageError(f"port {port} cannot be; expected 1 to 65535, or 0 for any that is free")
        self._board = Board(draw)
        self._metrics = Metrics(self._board)
        self._closing = False
        listener = _listen(host, port)
        port = listener.getsockname()[1]
        shown_host = socket.gethostname() if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
        self.url = f"http://{shown_host}:{port}/"
        files = [Route(path, _file_endpoint(*file)) for path, file in PAGE.items()]
        answers = [
            Route("/live", self._answer_live),
            Route("/healthz", self._answer_health),
            Route("/metrics", self._answer_metrics),
        ]
        config = uvicorn.Config(
            Gate(Starlette(routes=[*files, *answers]), token, port),
            http=_BoundedProtocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="error",
            access_log=False,  # it would tell the token
            proxy_headers=False,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="web preview", daemon=True
        )
        self._thread.start()
        logger.info("web preview at %s", self.url)
        if token is not None and token.generated:
            print(f"web preview at {self.url}?token={token.value}", file=sys.stderr, flush=True)

    @property
    def open_connections(self) -> int:
        """Connections of viewers; there are at most `MAX_CONNECTIONS`."""
        return len(self._server.server_state.connections)

    def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
        """Take a frame; it is drawn and encoded only when a viewer asks for it."""
        self._board.add(result)

    def status(self, source: str, status: str, detail: str) -> None:
        """Take a source's status: ok, stalled, reconnecting, ended or failed, and why."""
        self._board.set_status(source, status, detail)

    def stats(self, source: str, stats: StreamStats) -> None:
        """Take a source's figures, now and then: its latency is not in its frames."""
        self._board.set_stats(source, stats)

    def close(self) -> None:
        """Send all viewers away, within a second."""
        self._closing = True
        self._server.should_exit = True
        self._thread.join(CLOSE_S)
        with suppress(RuntimeError):  # it has ended meanwhile
            for stuck in list(self._server.server_state.connections):
                stuck.loop.call_soon_threadsafe(stuck.transport.abort)
        self._thread.join(CLOSE_S)

    def __enter__(self) -> WebPreview:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _answer_live(self, request: Request) -> Response:
        """See `Board.update`; waits a while for a picture that is newer than number `after`."""
        after_text = request.query_params.get("after", "0")
        after = int(after_text) if after_text.isascii() and after_text.isdigit() and len(after_text) < 16 else 0
        begin = time.monotonic()
        while (newest := self._board.newest_picture()) == after and not self._closing:
            if time.monotonic() - begin > LONGEST_WAIT_S:
                break
            await asyncio.sleep(POLL_S)
        # A number that is not given out yet is of a server that was here before.
        return Response(self._board.update(after if after <= newest else 0), media_type="application/octet-stream")

    async def _answer_health(self, request: Request) -> Response:
        """200 while every source delivers, else 503; without the token no more than that."""
        figures = self._board.figures()
        well = bool(figures) and all(one.delivers for one in figures)
        answer = {"status": "ok" if well else "failing"}
        more = {"sources": [asdict(one) for one in figures]} if request.state.admitted else {}
        text = json.dumps(answer | more)  # ASCII: a name may be no UTF-8
        return Response(text, 200 if well else 503, media_type="application/json")

    async def _answer_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


class _BoundedProtocol(H11Protocol):
    """Hangs up on more connections than browsers have, which would take the file handles that cameras need."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()


def _file_endpoint(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = Path(__file__).with_name(name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SinkError(f"no web page at {host}: {error.strerror}; expected an address of this machine") from error
    # What the connections inherit: peers that are gone, or read nothing of what they asked for, are let go.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with suppress(AttributeError, OSError):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_MS)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier run may linger
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise SinkError(
            f"no web page at port {port} of {host}: {error.strerror}; choose another port, or an address of this "
            f"machine; what has the port is shown by: ss -ltnp 'sport = :{port}'"
        ) from error
    return listener
