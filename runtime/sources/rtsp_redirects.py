"""Where an RTSP server sends its viewers: asked for in advance, as FFmpeg follows it anywhere with the password.

What is asked depends on whether there is a password to lose. Where there is, it is DESCRIBE, to which the server
answers that it wants the password, or where else to go. One that wants none prepares its camera for it, and may refuse
the next viewer until that is over: so without a password it is OPTIONS. FFmpeg still follows a server that redirects
DESCRIBE alone, but has no password then.
"""

from __future__ import annotations

import re
import socket
import time
from contextlib import ExitStack
from urllib.parse import urljoin, urlsplit

from ssd_edge.errors import SourceError
from ssd_edge.runtime.redact import clean_url
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.http import REDIRECTS, USER_AGENT, unverified_tls, without_password

PORTS = {"rtsp": 554, "rtsps": 322}
MAX_ANSWER_BYTES = 2**16
_REDIRECT = re.compile(rb"RTSP/\S+ 3\d\d\b.*?\r\nLocation:[ \t]*(\S+)", re.DOTALL | re.IGNORECASE)


def follow_redirects(url: str, options: SourceOptions, held: ExitStack) -> str:
    """The address to open: `url`, or the one that its server sends to. A password goes to no other host.

    Args:
        held: gets the connection to a server that wants no password, to be closed when the address has been opened.

    Raises:
        SourceError: it sends to another host, and may not; or to something else than RTSP; or too often.
        OSError: there is no connection, or no answer in time.
        ValueError: the address cannot be read.
    """
    name, address = clean_url(url), url
    for _ in range(REDIRECTS + 1):
        with ExitStack() as connections:
            answer = _head_of_answer(address, options.timeout_s, connections)
            if urlsplit(address).username and answer.startswith(b"RTSP/1.0 2"):
                held.push(connections.pop_all())
        found = _REDIRECT.match(answer)
        if found is None:
            return address
        target = urljoin(without_password(address), found[1].decode(errors="replace"))
        here, there = urlsplit(address), urlsplit(target)
        if there.scheme.lower() not in PORTS:
            raise SourceError(f"{name} leads to {clean_url(target)}, which is not RTSP; that is never followed")
        if there.hostname == here.hostname:
            login, at, _ = here.netloc.rpartition("@")
            address = there._replace(netloc=login + at + there.netloc.rpartition("@")[2]).geturl()
        elif options.allow_redirects:
            address = target
        else:
            raise SourceError(
                f"{name} leads to another host: {clean_url(target)}; give that address itself, or --allow-redirects "
                "where you trust both"
            )
    raise SourceError(f"{name} sends on to another address more than {REDIRECTS} times; check the address")


def _head_of_answer(url: str, timeout_s: float, connections: ExitStack) -> bytes:
    """The answer to a request without a password (RFC 2326, 10.1 and 10.2)."""
    parts, due_at = urlsplit(url), time.monotonic() + timeout_s
    scheme = parts.scheme.lower()
    method = "DESCRIBE" if parts.username else "OPTIONS"
    request = f"{method} {without_password(url)} RTSP/1.0\r\nCSeq: 1\r\nUser-Agent: {USER_AGENT}\r\n\r\n"
    answer = b""
    connection = socket.create_connection((parts.hostname or "", parts.port or PORTS[scheme]), timeout_s)
    connections.enter_context(connection)
    if scheme == "rtsps":
        connection = connections.enter_context(unverified_tls().wrap_socket(connection, server_hostname=parts.hostname))
    connection.sendall(request.encode())
    while b"\r\n\r\n" not in answer and len(answer) < MAX_ANSWER_BYTES:
        connection.settimeout(max(0.001, due_at - time.monotonic()))
        if not (more := connection.recv(4096)):
            break
        answer += more
    return answer
