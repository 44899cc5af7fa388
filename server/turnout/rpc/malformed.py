"""Bytes that are no message: the caller's fault, said as such.

gRPC itself answers them with UNKNOWN and writes a traceback to the log, which any client could fill that way.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from turnout.errors import InvalidRequest

MessageT = TypeVar("MessageT", bound=Message)


class Malformed:
    """Stands in for a message that could not be parsed."""


MALFORMED = Malformed()


def lenient(parse: Callable[[bytes], MessageT]) -> Callable[[bytes], MessageT | Malformed]:
    """Returns a deserialiser that gives MALFORMED where `parse` raises, for the handler to refuse."""

    def deserialise(data: bytes) -> MessageT | Malformed:
        try:
            return parse(data)
        except DecodeError:
            return MALFORMED

    return deserialise


def refusal(expected: str) -> InvalidRequest:
    """Makes the error for a message that could not be parsed as `expected`."""
    return InvalidRequest(f"the message is no {expected}: its bytes cannot be parsed")


def unary(
    behaviour: Callable[..., Any], request: type[Message], response: type[Message]
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Returns the handler of a unary method that takes malformed messages too."""
    return grpc.unary_unary_rpc_method_handler(
        behaviour, request_deserializer=lenient(request.FromString), response_serializer=response.SerializeToString
    )


def streaming(
    behaviour: Callable[..., Any], request: type[Message], response: type[Message]
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Returns the handler of a bidirectional stream that takes malformed messages too."""
    return grpc.stream_stream_rpc_method_handler(
        behaviour, request_deserializer=lenient(request.FromString), response_serializer=response.SerializeToString
    )
