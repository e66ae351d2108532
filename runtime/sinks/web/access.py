"""Who may look: programs on this machine or, with a token, whoever has it."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ssd_edge.errors import UsageError

TOKEN_VARIABLE = "SSD_EDGE_WEB_TOKEN"
TOKEN_FORM = re.compile(r"[A-Za-z0-9._~-]{16,256}")  # stands in an address, a cookie and a header as it is
MAKE_TOKEN = "openssl rand -hex 16"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Token:
    """What opens the page; `generated` if the user has still to be told.

    Raises:
        UsageError: it is too short to be safe, or has characters that an address or a cookie cannot carry.
    """

    value: str = field(repr=False)
    generated: bool = False

    def __post_init__(self) -> None:
        if not TOKEN_FORM.fullmatch(self.value):
            raise UsageError(
                f"a token of {len(self.value)} characters cannot be used; expected 16 to 256 letters, digits or any "
                f"of . _ ~ - and no others; make one with: {MAKE_TOKEN}"
            )

    def matches(self, offered: str | None) -> bool:
        """In a time that tells nothing of where they differ."""
        return secrets.compare_digest((offered or "").encode(errors="replace"), self.value.encode())


def choose_token(choice: str | None) -> Token | None:
    """The token that the user wants.

    Args:
        choice: `auto` for a new one; else a file that holds it; None for the environment's `SSD_EDGE_WEB_TOKEN`, or no
            token where that is not set.

    Raises:
        UsageError: the file cannot be read, or holds none that can be used.
    """
    if choice == "auto":
        return Token(secrets.token_urlsafe(24), generated=True)
    if choice is None:
        value = os.environ.get(TOKEN_VARIABLE)
        return Token(value) if value else None
    try:
        return Token(Path(choice).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read a token from {choice}: {error}; make one with: (umask 077; {MAKE_TOKEN} > FILE), "
            "or give auto for a new one each time"
        ) from error


def is_loopback(host: str) -> bool:
    """Only programs on this machine can reach that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """Lets nobody through to `app` who may not look, and puts `HEADERS` on every answer.

    `/healthz` is let through, with `request.state.admitted` to tell whether it may say more than whether all is well.
    Once given as `/?token=`, the token is kept in a cookie; programs send it as `Authorization: Bearer`.
    """

    def __init__(self, app: ASGIApp, token: Token | None, port: int) -> None:
        self._app = app
        self._token = token
        self._cookie = f"ssd_edge_{port}"  # browsers keep the cookies of all ports of a machine together

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        request = Request(scope)
        refusal = self._refusal(request)
        request.state.admitted = refusal is None
        # Not `request.url`: in that the client's Host header has a say.
        answer = self._app if refusal is None or scope["path"] == "/healthz" else refusal
        await answer(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """None for who may look; the answer to others, which for the token's first use is a cookie."""
        if self._token is None:
            # A page from elsewhere can have its own name lead to this machine, but not hide that name.
            if is_loopback(_host_name(request)):
                return None
            return PlainTextResponse("403: without a token this page is shown as localhost only\n", 403)
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        if self._token.matches(request.cookies.get(self._cookie)):
            return None
        if kind.lower() == "bearer" and self._token.matches(bearer):
            return None
        if request.scope["path"] == "/" and self._token.matches(request.query_params.get("token")):
            welcome = RedirectResponse("./", 303)
            # Lax: with Strict, a browser that follows a link from another page to here would not send it at once.
            welcome.set_cookie(self._cookie, self._token.value, httponly=True, samesite="lax")
            return welcome
        refusal = "401: open the address with ?token=… at its end, or send the token as Authorization: Bearer\n"
        return PlainTextResponse(refusal, 401, {"WWW-Authenticate": "Bearer"})


def _host_name(request: Request) -> str:
    """The name by which the client calls this machine, without the port."""
    try:
        return urlsplit("//" + request.headers.get("host", "")).hostname or ""
    except ValueError:
        return ""
