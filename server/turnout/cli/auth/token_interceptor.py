"""Sends a token with each call on a channel."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc

from turnout_client.token import Bearer


class _CallDetails(NamedTuple):
    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str | bytes]] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class TokenInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to the metadata of all four kinds of calls."""

    def __init__(self, bearer: Bearer) -> None:
        self._bearer = bearer

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Makes a call with the token."""
        return continuation(self._authorized(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Makes a call with the token."""
        return continuation(self._authorized(client_call_details), request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Makes a call with the token."""
        return continuation(self._authorized(client_call_details), request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Makes a call with the token."""
        return continuation(self._authorized(client_call_details), request_iterator)

    def _authorized(self, details: Any) -> _CallDetails:
        return _CallDetails(
            details.method,
            details.timeout,
            self._bearer.with_token(details.metadata or ()),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
