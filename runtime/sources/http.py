"""HTTP as cameras and web servers speak it: who may be asked, and what a refusal means to the user.

FFmpeg gets what this gives, and opens no connection of its own: so there is one place for passwords, redirects,
time-outs and limits.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import re
import socket
import ssl
import string
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from typing import IO, Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from ssd_edge.errors import SourceError
from ssd_edge.runtime.redact import clean_text, clean_url

CHUNK_BYTES = 2**16
HTML_TYPES = ("text/html", "application/xhtml+xml")
REDIRECTS = 5
PARTIAL = 206  # the status of an answer to a request for a part
USER_AGENT = "ssd-edge"
UNREADABLE = "the address cannot be read; write special characters of the password as %40 (@), %23 (#), %2F (/)"


class HttpClient:
    """Asks one host, by default, for things.

    Args:
        url: the address that the user gave: its host and password are those that count.
        timeout_s: for an answer to begin, and for each of its pieces.
        allow_redirects: other hosts may be asked too; they get no password.
    """

    def __init__(self, url: str, *, timeout_s: float, allow_redirects: bool = False) -> None:
        self.name = clean_url(url)
        self.timeout_s = timeout_s
        self._allow_redirects = allow_redirects
        self.renew()
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise SourceError(f"cannot open {self.name}: {error}; check the address") from None
        self._host = parts.hostname
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        bare = without_password(url)
        passwords.add_password(None, f"{urlsplit(bare).scheme}://{urlsplit(bare).netloc}/", self._user, self._password)

        self._opener = urllib.request.OpenerDirector()  # not build_opener's, which also opens files and FTP
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=unverified_tls()),
            _Redirects(self),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            *((_Basic(passwords), _Digest(passwords)) if self._user else ()),
        ):
            self._opener.add_handler(handler)

    def renew(self) -> None:
        """Let the time-out begin: what is wanted next may take so long, over all pieces and addresses."""
        self._due_at = time.monotonic() + self.timeout_s

    def check_time(self) -> None:
        """Raises TimeoutError where the time-out is over."""
        if time.monotonic() > self._due_at:
            raise TimeoutError(f"no data within {self.timeout_s:g} s")

    def get(self, url: str, *, start: int = 0) -> Answer:
        """The answer to a GET, from a byte on.

        Raises:
            SourceError: there is none, or a refusal; or the address is not allowed.
        """
        begin = time.monotonic()
        try:
            self.check(url)
            self.check_time()
            request = urllib.request.Request(without_password(url), headers={"User-Agent": USER_AGENT, "Accept": "*/*"})
            if start:
                request.add_header("Range", f"bytes={start}-")
            response = self._opener.open(request, timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            error.close()
            raise SourceError(f"{self.name} {self._refusal(error.code, error.reason)}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SourceError(f"cannot open {self.name}: {self._failure(error, time.monotonic() - begin)}") from None
        if response is None:
            raise SourceError(f"cannot open {self.name}: {clean_url(url)} is of a kind that is not read")
        return Answer(response, url)

    def check(self, url: str) -> None:
        """Whether an address may be asked for.

        Raises:
            SourceError: it is on another host, or not HTTP at all.
        """
        parts = urlsplit(url)
        if parts.scheme.lower() not in ("http", "https"):
            raise SourceError(f"{self.name} leads to {clean_url(url)}, which is not HTTP; that is never followed")
        if parts.hostname != self._host and not self._allow_redirects:
            raise SourceError(
                f"{self.name} leads to another host: {clean_url(url)}; give that address itself, or --allow-redirects "
                "where you trust both"
            )

    def _refusal(self, status: int, reason: str) -> str:
        if status == 401:
            asked = "does not accept this user and password" if self._user else "asks for a user and password"
            return f"{asked} (401); give them in the address: http://USER:PASSWORD@HOST/…"
        if 300 <= status < 400:
            return f"sends on to another address more than {REDIRECTS} times, or to none ({status}); check the address"
        if status == 403:
            return "does not allow this (403); check the user's rights, and whether the stream is enabled"
        if status in (404, 410):
            return f"has nothing at this path ({status}); check the path after the host's name"
        if status >= 500:
            return f"answers {status} {clean_text(reason)}; the device has trouble, or too many viewers: restart it"
        return f"answers {status} {clean_text(reason)}; check the address"

    def _failure(self, error: Exception, waited_s: float) -> str:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            return f"no answer within {waited_s:.1f} s (limit {self.timeout_s:g} s); check that the device is on"
        if isinstance(cause, socket.gaierror):
            return f"the name of the host is not known ({cause.strerror}); check the address"
        if isinstance(cause, ConnectionRefusedError):
            return "the connection is refused; check the port, and that the service is running"
        if isinstance(cause, http.client.InvalidURL):
            return UNREADABLE
        if isinstance(cause, http.client.HTTPException):
            return f"the answer is not HTTP ({type(cause).__name__}); check the port"
        return f"{clean_text(getattr(cause, 'strerror', None) or str(cause))}; check address and port"


class Answer:
    """A body that is read as it comes.

    Attributes:
        content_type: without parameters, in lower case; "" where there is none.
        length: bytes of the body; None where it does not say.
        url: where it came from in the end.
    """

    def __init__(self, response: IO[bytes] | http.client.HTTPResponse, url: str) -> None:
        headers: Message = response.headers  # type: ignore[union-attr]
        self._response = response
        self.url = getattr(response, "url", None) or url
        self.content_type = headers.get_content_type().lower() if "Content-Type" in headers else ""
        length = headers.get("Content-Length", "")
        self.length = int(length) if length.isascii() and length.isdigit() else None
        self.status = getattr(response, "status", 200)

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """What has come, up to so many bytes; waits for something. b"" at the end.

        Raises:
            OSError: it broke off, or nothing came in time.
        """
        try:
            return self._response.read1(size)  # type: ignore[union-attr]
        except http.client.IncompleteRead as error:
            return error.partial
        except http.client.HTTPException as error:
            raise OSError(f"the answer broke off ({type(error).__name__})") from None

    def close(self) -> None:
        """Hang up."""
        self._response.close()


class HttpFile(io.RawIOBase):
    """A body as a file that FFmpeg reads. Where its length is known it can be read from any place, if at the cost of
    all that is before.

    Attributes:
        name: its address, to which FFmpeg adds those in a playlist.
    """

    def __init__(self, client: HttpClient, answer: Answer) -> None:
        self.name = without_password(answer.url)
        self._client, self._answer = client, answer
        self._wanted = self._position = 0
        self._length = answer.length

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._length is not None

    def read(self, size: int = -1) -> bytes:
        self._client.check_time()
        if self._wanted != self._position:
            if self._length is not None and self._wanted >= self._length:
                return b""
            self._go_on_there()
        data = self._answer.read(CHUNK_BYTES if size < 0 else size)
        self._wanted = self._position = self._position + len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """The next read is from there; FFmpeg often goes to the end and back only to see how long a file is."""
        if self._length is None:
            raise io.UnsupportedOperation("seek")
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._wanted, io.SEEK_END: self._length}[whence]
        self._wanted = max(0, start + offset)
        return self._wanted

    def tell(self) -> int:
        return self._wanted

    def close(self) -> None:
        self._answer.close()
        super().close()

    def _go_on_there(self) -> None:
        if not self._position < self._wanted <= self._position + CHUNK_BYTES:
            self._answer.close()
            self._answer = self._client.get(self.name, start=self._wanted)
            self._position = self._wanted if self._answer.status == PARTIAL else 0
        while left := self._wanted - self._position:
            skipped = len(self._answer.read(min(left, CHUNK_BYTES)))
            if not skipped:
                raise OSError("the answer is shorter than it was")
            if self._position // CHUNK_BYTES < (self._position + skipped) // CHUNK_BYTES:
                self._client.renew()  # much to read over takes its time
            self._position += skipped
            self._client.check_time()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows what the client allows."""

    max_redirections = REDIRECTS

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    def http_error_302(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message) -> Any:
        """Ask there."""
        if target := headers.get("Location"):
            url = urljoin(req.full_url, target)
            self._client.check(url)
            headers.replace_header("Location", without_password(url))
        code = 307 if code == 308 else code  # which Python 3.10 does not know; to a GET they are the same
        return super().http_error_302(req, fp, code, msg, headers)  # type: ignore[arg-type]

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Challenges(urllib.request.BaseHandler):
    """Shows a handler those of the server's challenges that it can answer: it looks at the first one alone, and takes
    another kind for an error."""

    kinds: re.Pattern[str]

    def http_error_401(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message) -> Any:
        """Ask again, with a password; None where that is of no use."""
        known = Message()
        for challenge in headers.get_all("WWW-Authenticate", ()):
            if self.kinds.match(challenge) and not known:
                known["WWW-Authenticate"] = challenge
        return super().http_error_401(req, fp, code, msg, known) if known else None  # type: ignore[misc]


class _Basic(_Challenges, urllib.request.HTTPBasicAuthHandler):
    kinds = re.compile("basic", re.IGNORECASE)


class _Digest(_Challenges, urllib.request.HTTPDigestAuthHandler):
    """Python's own knows no SHA-256, and no letters but ASCII's."""

    kinds = re.compile(r'digest(?!.*algorithm="?(?!(?:md5|sha|sha-256)["\s,]|(?:md5|sha|sha-256)$))', re.IGNORECASE)

    def get_algorithm_impls(self, algorithm: str) -> tuple[Callable[[str], str], Callable[[str, str], str]]:
        """The two functions of RFC 7616, 3.4."""
        kind = {"MD5": "md5", "SHA": "sha1", "SHA-256": "sha256"}[algorithm.upper()]

        def digest(text: str) -> str:
            return hashlib.new(kind, text.encode()).hexdigest()

        return digest, lambda secret, data: digest(f"{secret}:{data}")


def unverified_tls() -> ssl.SSLContext:
    """For cameras, which sign their certificates themselves. FFmpeg does not verify them either."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def without_password(url: str) -> str:
    """The address as it is asked for."""
    parts = urlsplit(url)
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))  # spaces and umlauts
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, query, ""))
