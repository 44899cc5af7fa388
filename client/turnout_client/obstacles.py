"""Explains connections that failed because client and server do not agree on TLS.

gRPC reports "Socket closed" if only one side uses TLS, if the server requires a client certificate, and if it does not
trust the one it gets. So this module connects once more, with Python's `ssl`, which gives the reason.
"""

import contextlib
import re
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

from turnout_client.errors import TurnoutClientError, Unavailable
from turnout_client.tls import ClosedOnReset, Tls

_SECONDS = 1.0
"""Time limit of each step, in seconds. It is short because a call has already failed when this runs."""

_PATIENCE_SECONDS = 3.0
"""Maximum time that a failed call waits for its explanation, in seconds."""

_REUSED_SECONDS = 5.0
"""Time for which a result is used again, in seconds. Without it, each failed call would connect to the server."""

_TARGET = re.compile(r"(?:(?:dns:(?:///?)?)|(?:ipv[46]:))?(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:,/\[\]]+)):(?P<port>\d+)")
_NO_CONNECTION = (
    "failed to connect",
    "connections to all backends failing",
    "socket closed",
    "connection reset",
    "handshake",
    "http1.x",
    "end of tcp stream",
)
"""Parts of gRPC's error messages for failed connections."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"
"""The HTTP/2 connection preface, with an empty SETTINGS frame."""

_SETTINGS = 4
"""Frame type of SETTINGS, a server's first frame."""

_HOW = "tls=Tls(ca=...), or --tls-ca or TURNOUT_TLS_CA of the command"

_DISCONNECTED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""Errors of a TLS socket whose peer disconnected without a reason."""

_EXPIRED, _NOT_YET, _NAME, _ADDRESS = 10, 9, 62, 64
_UNTRUSTED = (2, 18, 19, 20, 21)
"""OpenSSL's verification error codes (X509_V_ERR_*)."""


class Diagnosis:
    """Explains the failed connections of one channel.

    It connects to the server in a thread, once for all calls that fail within a few seconds, so that an outage does not
    become a storm of connections.
    """

    def __init__(self, target: str, tls: Tls | None, *, plain: bool) -> None:
        """Stores the channel's settings. The arguments are those of `explained`."""
        self._target = target
        self._tls = tls
        self._plain = plain
        self._lock = threading.Lock()
        self._obstacle: Future[str] | None = None
        self._expires = 0.0  # in `time.monotonic` seconds

    def obstacle(self) -> Future[str]:
        """Returns the future result of `find_obstacle`, which may be a few seconds old."""
        with self._lock:
            found = self._obstacle
            if found is None or (found.done() and time.monotonic() > self._expires):
                found = self._obstacle = Future()
                found.set_running_or_notify_cancel()  # a caller that stops waiting does not cancel it
                name = "turnout-client diagnosis"
                threading.Thread(target=self._find, args=(found,), name=name, daemon=True).start()
            return found

    def _find(self, found: Future[str]) -> None:
        try:
            obstacle = find_obstacle(self._target, self._tls, plain=self._plain)
        except BaseException as error:
            found.set_exception(error)
            raise
        self._expires = time.monotonic() + _REUSED_SECONDS
        found.set_result(obstacle)


def patience(left: float | None) -> float:
    """Returns how many seconds a failed call that has `left` seconds waits for its explanation; None for no limit."""
    return _PATIENCE_SECONDS if left is None else min(left, _PATIENCE_SECONDS)


def is_failed_connection(error: TurnoutClientError) -> bool:
    """Returns whether a connection failed, for a reason that the server's port being closed does not explain."""
    text = error.message.lower()
    if not isinstance(error, Unavailable) or "connection refused" in text:
        return False
    return any(phrase in text for phrase in _NO_CONNECTION)


def with_obstacle(error: TurnoutClientError, obstacle: str) -> TurnoutClientError:
    """Returns an error that says what the obstacle was, caused by `error`; `error` itself if `obstacle` is empty."""
    if not obstacle:
        return error
    explained = Unavailable(obstacle, request_id=error.request_id)
    explained.__cause__ = error
    return explained


def explained(error: TurnoutClientError, target: str, tls: Tls | None, *, plain: bool) -> TurnoutClientError:
    """Returns `error`, or an error that explains it if TLS is the cause.

    `plain` tells whether the channel uses plain text. `tls` is then None, as for credentials with unknown settings.
    """
    if not is_failed_connection(error):
        return error
    return with_obstacle(error, find_obstacle(target, tls, plain=plain))


def find_obstacle(target: str, tls: Tls | None, *, plain: bool) -> str:
    """Returns a description of the TLS problem between client and server; "" if none was found.

    Connects to the server, which can take a few seconds. The arguments are those of `explained`.
    """
    match = _TARGET.match(target)
    if match is None:
        return ""
    host, port = match["v6"] or match["host"], int(match["port"])
    where = f"[{host}]:{port}" if match["v6"] else f"{host}:{port}"
    try:
        if plain:
            if _speaks_tls(host, port):
                return f"the server at {where} speaks TLS, and this client does not: name its authority ({_HOW})"
            return ""
        if tls is None:
            return _plain_server(host, port, where)
        return _of_handshake(host, port, where, tls)
    except (OSError, ValueError):
        return ""  # the server cannot be reached, or a file is missing: the original error is kept


def _of_handshake(host: str, port: int, where: str, tls: Tls) -> str:
    name = tls.server_name or host
    with socket.create_connection((host, port), _SECONDS) as plain:
        try:
            with tls.context().wrap_socket(plain, server_hostname=name) as encrypted:
                if _answers(encrypted):
                    return ""
                return f"the server at {where} ended the connection after the handshake; {_own_certificate(tls)}"
        except ssl.SSLCertVerificationError as error:
            return f"the certificate of the server at {where} {_refused(error, name, tls)}"
        except ssl.SSLError as error:
            explained = _of_alert(error.reason or "", tls)
            if explained:
                return f"the server at {where} {explained}"
        except (ConnectionError, TimeoutError):
            pass  # a plain-text server may not answer a TLS handshake
    return _plain_server(host, port, where)


def _answers(encrypted: ssl.SSLSocket) -> bool:
    """Returns whether the server answers after the handshake.

    In TLS 1.3 a server rejects the client's certificate only after the client's handshake is complete. The reason it
    gives is an `SSLError`. Depending on OpenSSL, a server that only disconnects is noticed by the write or by the read.
    """
    with contextlib.suppress(*_DISCONNECTED):
        encrypted.sendall(_PREFACE)
    with contextlib.suppress(*_DISCONNECTED):
        return bool(encrypted.recv(1))
    return False


def _refused(error: ssl.SSLCertVerificationError, name: str, tls: Tls) -> str:
    if error.verify_code == _EXPIRED:
        return "has expired"
    if error.verify_code == _NOT_YET:
        return "is not valid yet; or this machine's clock is wrong"
    if error.verify_code in (_NAME, _ADDRESS):
        return f"is not for {name!r}: call the server by a name in it, or name that (server_name, --tls-server-name)"
    if error.verify_code in _UNTRUSTED:
        trusted = f"in {tls.ca}" if tls.ca else f"that is trusted here; name its authority ({_HOW})"
        return f"was not signed by an authority {trusted}"
    return f"cannot be trusted: {error.verify_message}"


def _of_alert(reason: str, tls: Tls) -> str:
    """Returns what a server's TLS alert means for the client's certificate; "" if it is about something else."""
    if "CERTIFICATE_REQUIRED" in reason or ("HANDSHAKE_FAILURE" in reason and not tls.cert):
        return "requires a client certificate: give one (cert and key of Tls, --tls-cert and --tls-key)"
    if not tls.cert:
        return ""
    if "UNKNOWN_CA" in reason:
        return f"does not trust the authority that signed the client certificate in {tls.cert}"
    if "CERTIFICATE_EXPIRED" in reason:
        return f"refuses the client certificate in {tls.cert}: it has expired"
    if "CERTIFICATE" in reason or "DECRYPT_ERROR" in reason:
        return f"refuses the client certificate in {tls.cert}: {reason.lower().replace('_', ' ')}"
    return ""


def _own_certificate(tls: Tls) -> str:
    if not tls.cert:
        return "it may require a client certificate (cert and key of Tls, --tls-cert and --tls-key)"
    own = f"the client certificate in {tls.cert}"
    ends = _end(Path(tls.cert))
    if ends is not None and ends < datetime.now(UTC):
        return f"{own} expired on {ends:%Y-%m-%d %H:%M} UTC"
    return f"it may not trust the authority that signed {own}"


def _plain_server(host: str, port: int, where: str) -> str:
    with socket.create_connection((host, port), _SECONDS) as plain:
        plain.sendall(_PREFACE)
        head = plain.makefile("rb").read(4)
    if head[3:4] == bytes([_SETTINGS]) or head.startswith(b"HTTP"):
        return f"the server at {where} speaks plain text, and this client TLS: set up TLS there, or leave it out here"
    return ""


def _end(certificate: Path) -> datetime | None:
    """Returns when a certificate expires; None if `cryptography`, an optional dependency, is not installed."""
    try:
        from cryptography import x509  # imported here because it takes 25 ms of CPU and is rarely needed
    except ImportError:
        return None
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = ClosedOnReset
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # no data is sent: this only tests whether the server completes a TLS handshake
    with socket.create_connection((host, port), _SECONDS) as plain:
        try:
            context.wrap_socket(plain).close()
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")
        return True
