"""Encoding of a call's status, as trailers or as the headers of a response without messages."""

import base64
from collections.abc import MutableMapping
from typing import Any, TypeAlias

from google.rpc import code_pb2
from google.rpc.status_pb2 import Status

from turnout.rpc.transport.asgi.headers import percent_encode, write_metadata
from turnout.rpc.transport.port import FixedMetadata, Metadata, StatusError

Event: TypeAlias = MutableMapping[str, Any]
"""An ASGI event."""

CONTENT_TYPE = (b"content-type", b"application/grpc")

_OK = (b"grpc-status", b"0")


def refusal(code: int, message: str) -> StatusError:
    """Returns an error that ends a call with a code of google.rpc.Code and a message."""
    return StatusError(Status(code=code, message=message))


def status_headers(status: Status) -> list[tuple[bytes, bytes]]:
    """Returns the headers for a status other than OK."""
    headers = [(b"grpc-status", b"%d" % status.code), (b"grpc-message", percent_encode(status.message))]
    if status.details:
        encoded = base64.b64encode(status.SerializeToString()).rstrip(b"=")
        headers.append((b"grpc-status-details-bin", encoded))
    return headers


def trailers(headers: list[tuple[bytes, bytes]]) -> Event:
    """Returns the event that ends a response with the given trailers."""
    return {"type": "http.response.trailers", "headers": headers, "more_trailers": False}


def _ok_trailers(metadata: Metadata) -> Event:
    return trailers([_OK, *write_metadata(metadata)])


OK_TRAILERS = _ok_trailers(())


def trailers_for(metadata: Metadata) -> Event:
    """Returns the event that ends a call with OK and trailing metadata."""
    if not metadata:
        return OK_TRAILERS
    if not isinstance(metadata, FixedMetadata):
        return _ok_trailers(metadata)
    event: Event | None = metadata.prepared
    if event is None:
        event = metadata.prepared = _ok_trailers(metadata)
    return event


INTERNAL = code_pb2.INTERNAL
UNIMPLEMENTED = code_pb2.UNIMPLEMENTED
RESOURCE_EXHAUSTED = code_pb2.RESOURCE_EXHAUSTED
DEADLINE_EXCEEDED = code_pb2.DEADLINE_EXCEEDED
UNAVAILABLE = code_pb2.UNAVAILABLE
CANCELLED = code_pb2.CANCELLED
