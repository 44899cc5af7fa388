"""TLS settings: which servers the client trusts, and its own certificate."""

import errno
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc

from turnout_client.config import Options, file_stamp

VARIABLES = {
    "ca": "TURNOUT_TLS_CA",
    "cert": "TURNOUT_TLS_CERT",
    "key": "TURNOUT_TLS_KEY",
    "server_name": "TURNOUT_TLS_SERVER_NAME",
}
"""The environment variable for each attribute of `Tls`."""


class ClosedOnReset(ssl.SSLSocket):
    """A TLS socket that is closed if the peer resets the connection before the handshake.

    `SSLContext.wrap_socket` takes over the file descriptor. If the peer has already disconnected, it raises without
    closing the descriptor.
    """

    def getpeername(self) -> Any:
        """Returns the peer's address. Closes the socket if it is not connected."""
        try:
            return super().getpeername()
        except OSError as error:
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS settings of a client: the authorities it trusts and the certificate it presents.

        Client("turnout.example.org:8001", tls=Tls(ca="ca.pem", cert="client.pem", key="client.key"))

    The files are read when the client is created, and again when a connection fails after they have changed. So renewed
    certificates need no new client.

    Attributes:
        ca: PEM file with the certificates of the authorities that may sign the server's certificate; "" for the public
            authorities that are built into gRPC.
        cert: PEM file with the client's certificate, followed by any intermediate certificates; "" for none.
        key: PEM file with the unencrypted private key of `cert`.
        server_name: Name that the server's certificate must be valid for; "" for the host in the target.
    """

    ca: str | Path = ""
    cert: str | Path = ""
    key: str | Path = ""
    server_name: str = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            given, missing = ("cert", "key") if self.cert else ("key", "cert")
            raise ValueError(f"a client's certificate takes both cert and key: {given} is set, and {missing} is not")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> Self | None:
        """Returns the settings from TURNOUT_TLS_CA, _CERT, _KEY and _SERVER_NAME; None if none of them is set.

        `environ` is the environment; None for that of the process.

        Raises:
            ValueError: Only one of certificate and key is set.
        """
        environ = os.environ if environ is None else environ
        found = {name: environ[variable] for name, variable in VARIABLES.items() if environ.get(variable)}
        return cls(**found) if found else None

    def credentials(self) -> grpc.ChannelCredentials:
        """Returns the credentials for a gRPC channel.

        Raises:
            ValueError: A file cannot be read, or has the wrong content.
        """
        self.context()  # reports errors in the files; with gRPC, each call would fail to connect without a reason
        ca, key, cert = (Path(path).read_bytes() if path else None for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)

    def stamps(self) -> tuple[tuple[int, int, int], ...]:
        """Returns numbers that change when one of the files is replaced. Raises OSError if one does not exist."""
        return tuple(file_stamp(path) for path in (self.ca, self.cert, self.key) if path)

    def options(self) -> list[tuple[str, str]]:
        """Returns the gRPC channel arguments to use with the credentials."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []

    def context(self) -> ssl.SSLContext:
        """Returns the same settings as a context for Python's `ssl`. Raises ValueError as for `credentials`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.sslsocket_class = ClosedOnReset
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # like gRPC, trusts intermediate authorities
        context.set_alpn_protocols(["h2"])
        if self.ca:
            self._load_authorities(context)
        else:
            context.load_default_certs()
        if self.cert:
            self._load_own(context)
        return context

    def _load_authorities(self, context: ssl.SSLContext) -> None:
        _check_readable(self.ca)
        try:
            context.load_verify_locations(self.ca)
        except ssl.SSLError as error:
            raise ValueError(f"{self.ca} holds no PEM certificate, expected the server's authority") from error

    def _load_own(self, context: ssl.SSLContext) -> None:
        for path in (self.cert, self.key):
            _check_readable(path)
        try:
            context.load_cert_chain(self.cert, self.key, _refuse_to_ask)
        except _Encrypted:
            raise ValueError(f"{self.key} is encrypted: store the key without a passphrase") from None
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError(f"the key in {self.key} does not belong to the certificate in {self.cert}") from None
            raise ValueError(f"{self.cert} and {self.key} do not hold a PEM certificate and its key") from None


@dataclass(frozen=True, slots=True)
class Security:
    """The security of a channel.

    Attributes:
        credentials: gRPC channel credentials; None for plain text.
        tls: The settings that the credentials were made from; None if there are none or they are not known.
        stamps: `Tls.stamps` of the files when they were read.
    """

    credentials: grpc.ChannelCredentials | None = None
    tls: Tls | None = None
    stamps: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def of(cls, tls: Tls | None, credentials: grpc.ChannelCredentials | None) -> Self:
        """Returns the security from `tls` or `credentials`; plain text if neither is given.

        Raises:
            ValueError: Both are given, or a file cannot be used.
        """
        if tls is None:
            return cls(credentials)
        if credentials is not None:
            raise ValueError("expected tls or credentials, got both")
        credentials = tls.credentials()  # first, since it says which file is missing
        return cls(credentials, tls, tls.stamps())

    def renewed(self) -> Self:
        """Returns the security with the present content of the files; itself if it is the same, or cannot be used."""
        if self.tls is None:
            return self
        try:
            stamps = self.tls.stamps()
            return self if stamps == self.stamps else type(self)(self.tls.credentials(), self.tls, stamps)
        except (OSError, ValueError):
            return self

    @property
    def plain(self) -> bool:
        """Whether the channel uses plain text."""
        return self.credentials is None

    @property
    def options(self) -> Options:
        """The gRPC channel arguments to use with the credentials."""
        return self.tls.options() if self.tls is not None else ()


class _Encrypted(Exception):
    """Raised when the private key is encrypted."""


def _refuse_to_ask() -> str:
    raise _Encrypted


def _check_readable(path: str | Path) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
