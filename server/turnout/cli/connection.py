"""Calls a running server for commands."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import grpc

from turnout.address import Address
from turnout.cli.options import CallOptions, ServerTarget, TargetOptions
from turnout.cli.output import ServerRefused
from turnout.cli.releases.answers_view import read_answers
from turnout.errors import ConfigError, FieldViolation
from turnout.routing.default_answers import RoutingTable
from turnout_client import Client, Tls, TurnoutClientError, Unauthenticated, Unavailable, Unimplemented
from turnout_client.config import channel_options
from turnout_client.errors import FailedCall, error_of_call
from turnout_client.obstacles import explained
from turnout_client.token import Bearer, TokenFile, bearer_of, token_from_environ
from turnout_proto.oip.inference_pb2 import ModelMetadataRequest, ModelMetadataResponse
from turnout_proto.v1.control_pb2 import ReleaseVersionRequest
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub
from turnout_proto.v1.registry_pb2_grpc import RegistryServiceStub

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to connect if a server listens on all addresses

_NO_METHOD = re.compile("Method not found!|no method is named|http2 header with status: 404")
"""Matches what the listeners of a server answer that do not serve a method."""

_MODEL_METADATA = "/inference.GRPCInferenceService/ModelMetadata"
"""As clients call it; the generated stub has the name under which the file is registered."""

CHANGE_SECONDS = 60.0
"""How long a change of releases or tags may take."""


def _given_tls(given: CallOptions) -> Tls | None:
    """Returns the TLS settings from the command's options and the environment; None if there are none."""
    named = {"ca": given.tls_ca, "cert": given.tls_cert, "key": given.tls_key, "server_name": given.tls_server_name}
    message = {name: value for name, value in named.items() if value}
    try:
        return Tls(**message) if message else None
    except ValueError:
        missing = "--tls-key" if given.tls_cert else "--tls-cert"
        raise ConfigError(f"a client's certificate takes --tls-cert and --tls-key: {missing} is missing") from None


def _trust_in(cert: str) -> Tls:
    """Returns TLS settings that trust the certificate file of the server in this machine's configuration."""
    from cryptography import x509

    from turnout.certificate_errors import UNREADABLE

    try:
        own = x509.load_pem_x509_certificates(Path(cert).read_bytes())[0]
        names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except OSError as error:
        raise ConfigError(f"tls.cert: {cert} cannot be read: {error.strerror}") from None
    except (x509.ExtensionNotFound, *UNREADABLE):
        return Tls(ca=cert)
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return Tls(ca=cert, server_name=next((host.replace("*", "any") for host in hosts), ""))


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        address: Address of its control listener, which also serves everything that the data listener serves.
        tls: TLS settings; None for plain text.
        call: Other call options of the command.
        given: Whether the command names the server with --server.
    """

    address: Address
    tls: Tls | None = None
    call: CallOptions = CallOptions()  # noqa: RUF009 - a frozen value
    given: bool = False

    @classmethod
    def named(cls, target: ServerTarget | TargetOptions) -> "Server":
        """Returns the server that a command names, or the configured server if the command names none.

        Raises:
            ConfigError: The address or the configuration is invalid, or the options contradict each other.
        """
        given = _given_tls(target.call)
        if target.server is not None:
            if isinstance(target, TargetOptions) and (target.models or target.state):
                raise ConfigError("--server cannot be combined with --models or --state: a server uses its own")
            try:
                return cls(Address.parse(target.server), given, target.call, given=True)
            except ValueError as error:
                raise ConfigError(f"--server: {error}, got {target.server!r}") from None
        from turnout.config import load_settings

        settings = load_settings(target.config).settings
        control = settings.control
        if control.port == 0:
            raise ConfigError("the configuration leaves the control listener's port open: name it with --server")
        configured = settings.tls.of("control")
        if configured is not None and not (given is not None and given.ca):
            own = _trust_in(configured.cert)
            given = (
                own if given is None else replace(given, ca=own.ca, server_name=given.server_name or own.server_name)
            )
        return cls(Address(_WILDCARDS.get(control.host, control.host), control.port), given, target.call)

    @contextmanager
    def client(self, timeout: float) -> Iterator[Client]:
        """Opens a client. `timeout` is in seconds. Errors from the server are raised as `ServerRefused`."""
        tls, target = self._tls(), str(self.address)
        bearer = self._bearer(plain=tls is None)
        with (
            self._translated(),
            Client(target, timeout=timeout, retries=0, tls=tls, token=bearer.token, plaintext_token=True) as client,
        ):
            yield client

    def release(
        self, model: str, version: str, actor: str, reason: str, *, no_traffic: bool = False, supersede: bool = False
    ) -> tuple[bool, str, RoutingTable]:
        """Releases a version.

        Returns:
            Whether this changed anything, a sentence about what was done, and the versions that answer afterwards.

        Raises:
            ServerRefused: The version does not exist, its release is refused, or no server answers.
        """
        with self.control() as control:
            request = ReleaseVersionRequest(
                model=model, version=version, actor=actor, reason=reason, no_traffic=no_traffic, supersede=supersede
            )
            response = control.ReleaseVersion(request, timeout=CHANGE_SECONDS)
        return response.changed, response.sentence, read_answers(response.answers)

    @contextmanager
    def control(self) -> Iterator[ControlServiceStub]:
        """Opens the control service. Errors from the server are raised as `ServerRefused`."""
        with self._channel() as channel:
            yield ControlServiceStub(channel)

    def model_metadata(self, model: str, selector: str, timeout: float) -> ModelMetadataResponse:
        """Asks for a version's inputs and outputs by the Open Inference Protocol. `timeout` is in seconds.

        Raises:
            ServerRefused: The version does not exist, the caller may not predict with it, or no server answers.
        """
        with self._channel() as channel:
            ask = channel.unary_unary(
                _MODEL_METADATA, ModelMetadataRequest.SerializeToString, ModelMetadataResponse.FromString
            )
            return ask(ModelMetadataRequest(name=model, version=selector), timeout=timeout)

    @contextmanager
    def registry(self) -> Iterator[RegistryServiceStub]:
        """Opens the registry service. Errors from the server are raised as `ServerRefused`."""
        with self._channel() as channel:
            yield RegistryServiceStub(channel)

    @contextmanager
    def _channel(self) -> Iterator[grpc.Channel]:
        tls, target = self._tls(), str(self.address)
        options = channel_options(tls.options() if tls is not None else (), target)
        bearer = self._bearer(plain=tls is None)
        if tls is None:
            opened = grpc.insecure_channel(target, options=options)
        else:
            opened = grpc.secure_channel(target, tls.credentials(), options=options)
        with self._translated(), opened as channel:
            try:
                yield channel if bearer.token is None else grpc.intercept_channel(channel, _TokenInterceptor(bearer))
            except grpc.RpcError as error:
                refused = error_of_call(cast(FailedCall, error))
                raise explained(refused, target, tls, plain=tls is None) from error

    def _bearer(self, *, plain: bool) -> Bearer:
        """Returns the token to send to the server. It must not be sent unencrypted to another machine."""
        file = self.call.token_file
        token = TokenFile(file) if file else token_from_environ({**os.environ, "TURNOUT_TOKEN_FILE": ""})
        try:
            found = bearer_of(token, str(self.address), (), plain=plain, plaintext_token=self.call.plaintext_token)
            found.with_token(())
        except ValueError as error:
            text = str(error).replace(
                "give tls=Tls(...), or plaintext_token=True", "give --tls-ca, or --plaintext-token"
            )
            raise ConfigError(text) from None
        return found

    def _tls(self) -> Tls | None:
        """Returns the TLS settings for calls, whose files can be used; None for plain text."""
        try:
            if self.tls is not None:
                self.tls.context()
        except ValueError as error:
            raise ConfigError(f"TLS: {error}") from None
        return self.tls

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except TurnoutClientError as error:
            message = error.message
            if isinstance(error, Unauthenticated):
                message = f"{message} (TURNOUT_TOKEN, --token-file; --tls-cert and --tls-key)"
            if isinstance(error, Unimplemented) and _NO_METHOD.search(message):
                message = f"{self.address} is not a control listener, which this command needs (by default, port 8003)"
            if isinstance(error, Unavailable) and (obstacle := self._obstacle()):
                hint = "" if self.given else "; start one with `turnout serve`, or name it with --server"
                message = f"no server answers at {self.address} ({obstacle}){hint}"
            violations = [FieldViolation(v.field, v.description) for v in error.violations]
            raise ServerRefused(type(error).__name__, message, violations=violations) from error

    def _obstacle(self) -> str:
        """Returns why nobody can connect to the address; "" if somebody listens there."""
        try:
            socket.create_connection((self.address.host, self.address.port), timeout=1.0).close()
        except OSError as error:
            return error.strerror or str(error)
        return ""


class _TokenInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to the metadata of all four kinds of calls."""

    def __init__(self, bearer: Bearer) -> None:
        self._bearer = bearer

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Makes a call with the token."""
        authorized = details._replace(metadata=self._bearer.with_token(details.metadata or ()))  # a named tuple
        return continuation(authorized, request)

    intercept_unary_stream: Any = intercept_unary_unary
    intercept_stream_unary: Any = intercept_unary_unary
    intercept_stream_stream: Any = intercept_unary_unary
