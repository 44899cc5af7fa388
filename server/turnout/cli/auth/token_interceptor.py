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

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Makes a call with the token."""
        authorized = _CallDetails(
            details.method,
            details.timeout,
            self._bearer.with_token(details.metadata or ()),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
        return continuation(authorized, request)

    intercept_unary_stream: Any = intercept_unary_unary
    intercept_stream_unary: Any = intercept_unary_unary
    intercept_stream_stream: Any = intercept_unary_unary
