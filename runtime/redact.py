"""No password, token or key in names, messages and logs."""

from __future__ import annotations

import logging
import re

HIDDEN = "***"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,20}://"
# Parameters that tell the streams of one recorder apart; whatever else is in a query may be a secret.
_HARMLESS = re.compile(r"(?:channel|subtype|stream|profile|unicast|transportmode|proto)=[\w.-]*", re.IGNORECASE)
_KEY = r"(?:passw(?:or)?d|passphrase|pwd|user-pw|secret|token|api[_-]?key)"
_VALUE = re.compile(
    rf"""({_KEY}["']?\s*[:=]\s*)(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""  # "password": "x", password='x'
    rf"""|({_KEY}=)[^\s&;/"']+""",  # password=x, also in the path of an address
    re.IGNORECASE,
)
_HEADER = re.compile(r"(authorization[\"']?\s*[:=]\s*).+", re.IGNORECASE)
_ADDRESS = re.compile(
    rf"{_SCHEME}\S*@\S*"  # with a password, perhaps
    rf"|{_SCHEME}[^\s/?#:@\[]*:(?!\d*(?:\W|$)).*@\S*"  # one with a space in it: what follows the colon is no port
    rf"|{_SCHEME}\S+"
    r"|(?<![\w/])[^\s/:@'\"(=,]{1,200}:\S+@[\w\[]\S*"  # user:password@host
)


def clean_url(url: str) -> str:
    """The address without user and password, fragment, and what may be a secret in its query.

    `rtsp://user:p@ss/w#rd@host/cam?channel=1&token=x` becomes `rtsp://***@host/cam?channel=1&…`. Where it is doubtful
    what is part of a password, it is left out; what is no address, such as the path of a file, stays as it is.
    """
    found = re.match(_SCHEME, url)
    scheme = found[0] if found else ""
    rest = url[len(scheme) :]
    if not scheme and not re.match(r"[^/:@]+:.*@", rest, re.DOTALL):
        return url
    rest, mark, query = rest.partition("?")
    if "@" in query:  # is the "?" part of a password? then more than the query is secret
        return scheme + HIDDEN
    _, at, place = rest.rpartition("@")
    place, fragment, _ = place.partition("#")
    fields = query.split("&") if query else []
    shown = [field for field in fields if _HARMLESS.fullmatch(field)]
    if len(shown) < len(fields):
        shown.append("…")
    place = _VALUE.sub(rf"\1\2{HIDDEN}", place)
    return scheme + (HIDDEN + at if at else "") + place + (fragment and "#…") + mark + "&".join(shown)


def clean_text(text: str) -> str:
    """A message or a traceback without secrets: in addresses, `password=…`, `"token": "…"` and the like."""
    text = _ADDRESS.sub(lambda address: clean_url(address[0]), text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    return _VALUE.sub(rf"\1\2{HIDDEN}", text)


class CleanFilter(logging.Filter):
    """Cleans messages, tracebacks and stacks; for handlers, as a logger's filter does not see its children's records.

    A traceback is then in `record.exc_text` alone, where every `logging.Formatter` finds it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit; logging itself would print them
            message = f"{record.msg} {record.args}"
        record.msg, record.args = clean_text(message), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
        if record.exc_text:
            record.exc_text = clean_text(record.exc_text)
        if record.stack_info:
            record.stack_info = clean_text(record.stack_info)
        return True
