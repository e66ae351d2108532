"""The address of an MQTT broker, and what it takes to be let in."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ssd_edge.errors import SinkError
from ssd_edge.runtime.redact import clean_url

PASSWORD_VARIABLE = "SSD_EDGE_MQTT_PASSWORD"
PORTS = {"mqtt": 1883, "mqtts": 8883}  # as IANA has them


@dataclass(frozen=True)
class Broker:
    """Where the broker is and how it lets us in.

    Attributes:
        tls: None for a connection that is not encrypted.
    """

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def parse_broker(
    url: str,
    *,
    password_file: Path | None = None,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
) -> Broker:
    """The broker at an address.

    Args:
        url: `mqtt://[USER@]HOST[:PORT]`, or `mqtts://…` for TLS; odd characters of the user are %-encoded.
        password_file: its first line is the password; else the environment variable SSD_EDGE_MQTT_PASSWORD is.
        ca: PEM file of the authorities to trust; else the system's.
        cert, key: PEM files of the certificate that proves who we are; the key may be in the same file.

    Raises:
        SinkError: not such an address, or it holds a password; a file that cannot be used.
    """
    shown = clean_url(url)
    scheme, _, rest = url.rpartition("://")
    login = rest.rpartition("@")[0]
    if ":" in login:
        raise SinkError(
            f"the address of the MQTT broker ({shown}) holds a password, which every user of this machine can read in "
            "the list of processes; expected mqtt://USER@HOST, and the password in the first line of a file "
            f"(--mqtt-password-file) or in {PASSWORD_VARIABLE}"
        )
    try:
        parts = urlsplit(url if scheme else f"mqtt://{url}")
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        host, port = "", None
    if not host or parts.scheme not in PORTS or parts.path.strip("/") or parts.query or parts.fragment:
        raise SinkError(
            f"{shown} is no address of an MQTT broker; expected mqtt://[USER@]HOST[:PORT], or mqtts:// for TLS"
        )
    user = unquote(parts.username) if parts.username else None
    password = _read_password(password_file) if password_file else os.environ.get(PASSWORD_VARIABLE)
    if password and not user:
        raise SinkError(f"a password for the MQTT broker {shown}, but no user; expected mqtt://USER@HOST")
    tls = _tls(ca, cert, key) if parts.scheme == "mqtts" else None
    if tls is None and (ca or cert or key):
        raise SinkError(f"certificates for the MQTT broker {shown}, which is reached without TLS; expected mqtts://…")
    return Broker(host, port or PORTS[parts.scheme], user, password, tls)


def _read_password(path: Path) -> str:
    try:
        password = path.read_text(encoding="utf-8").split("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise SinkError(
            f"cannot read the MQTT password from {path}: {reason_of(error)}; check --mqtt-password-file"
        ) from error
    if not password:
        raise SinkError(f"the first line of {path} is empty; expected the password of the MQTT broker's user")
    return password


def _tls(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    if key and not cert:
        raise SinkError(f"a key for MQTT ({key}) without its certificate; give --mqtt-cert too")
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        raise SinkError(
            f"no authority's certificate for MQTT in {ca}: {reason_of(error)}; expected a PEM file"
        ) from error
    if cert:
        try:
            context.load_cert_chain(cert, key, password="")  # "": an encrypted key is an error, not a question
        except OSError as error:
            raise SinkError(
                f"cannot use the certificate for MQTT {cert} with the key {key or cert}: {reason_of(error)}; expected "
                "PEM files that belong together, and a key that is not encrypted"
            ) from error
    return context


def reason_of(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
