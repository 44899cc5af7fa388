"""What a client learns of a gRPC call, less what differs between two servers that agree.

A call is sent byte by byte (`h2_wire`), so that nothing between the test and the server puts it right first.
"""

import base64
import gzip
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import RequestInfo
from google.rpc.status_pb2 import Status

from http2_client import CALL, Answer, Http2Client
from turnout.config import Address
from turnout.rpc.codec import new_request_id
from turnout_proto.oip import inference_pb2
from turnout_proto.v1 import catalog_pb2, prediction_pb2

_ID = re.compile(re.escape(new_request_id().rstrip("0123456789")) + r"\d+")
"""An id that the server made, since the request had none."""

_TRANSPORTS_OWN = {
    b":status",
    b"content-type",
    b"content-length",
    b"date",
    b"server",
    b"grpc-encoding",
    b"grpc-accept-encoding",
    b"accept-encoding",
}
_STATUS = {b"grpc-status", b"grpc-message", b"grpc-status-details-bin"}

_NO_METHOD = re.compile(r"Method not found!|no method is named '.*'")
"""Each transport's own words."""

_OF_RESET = {
    3: grpc.StatusCode.INTERNAL,
    7: grpc.StatusCode.UNAVAILABLE,
    8: grpc.StatusCode.CANCELLED,
    11: grpc.StatusCode.RESOURCE_EXHAUSTED,
    12: grpc.StatusCode.PERMISSION_DENIED,
}
_OF_HTTP = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}

_ANSWERS: dict[str, type[Message]] = {
    "/turnout.v1.PredictionService/Predict": prediction_pb2.PredictResponse,
    "/turnout.v1.PredictionService/PredictStream": prediction_pb2.PredictStreamResponse,
    "/inference.GRPCInferenceService/ModelInfer": inference_pb2.ModelInferResponse,
    "/inference.GRPCInferenceService/ModelStreamInfer": inference_pb2.ModelStreamInferResponse,
    "/inference.GRPCInferenceService/ModelStatistics": inference_pb2.ModelStatisticsResponse,
    "/inference.GRPCInferenceService/LogSettings": inference_pb2.LogSettingsResponse,
    "/inference.GRPCInferenceService/TraceSetting": inference_pb2.TraceSettingResponse,
    "/turnout.v1.CatalogService/GetModel": catalog_pb2.GetModelResponse,
}


@dataclass(frozen=True, slots=True)
class RawCall:
    """A call as it is sent.

    Attributes:
        path: Of the method.
        body: All its messages as gRPC frames them, or what is no such thing.
        metadata: Headers beside those that every call has.
        sizes: Of the DATA frames that the body is sent in, as far as they go.
    """

    path: str
    body: bytes
    metadata: tuple[tuple[bytes, bytes], ...] = ()
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client learns of a call.

    Attributes:
        code: The status.
        message: In words, with `ID` for an id that the server made.
        details: What travels in `grpc-status-details-bin`.
        initial: Metadata before the answers, less what a transport adds by itself.
        trailing: Metadata after them, less the status.
        answers: The messages, decompressed, less what they tell of time.
    """

    code: grpc.StatusCode
    message: str
    details: str
    initial: tuple[tuple[bytes, bytes], ...]
    trailing: tuple[tuple[bytes, bytes], ...]
    answers: tuple[str, ...]


async def outcome(address: Address, call: RawCall) -> Outcome:
    """Sends a call on a connection of its own, and tells what came of it."""
    async with Http2Client(address.host, address.port) as client:
        return read(call.path, await send(client, call))


async def send(client: Http2Client, call: RawCall) -> Answer:
    """Sends a call, and waits for its end."""
    own = {key for key, _ in call.metadata}
    headers = [pair for pair in CALL if pair[0].encode() not in own]
    return await client.call(call.path, call.body, [*headers, *call.metadata], sizes=call.sizes)


def read(path: str, answer: Answer) -> Outcome:
    """Tells what a client learns of an answer, by gRPC's rules for what is no gRPC answer too."""
    trailers = dict(answer.fields[-1]) if answer.fields else {}
    message = _NO_METHOD.sub("no method", _without_id(_unquoted(trailers.get(b"grpc-message", b""))))
    if b"grpc-status" in trailers:
        code = _CODES.get(int(trailers[b"grpc-status"]), grpc.StatusCode.UNKNOWN)
    elif answer.reset is not None or not answer.fields:
        code = _OF_RESET.get(answer.reset or 0, grpc.StatusCode.INTERNAL)
        message = f"the stream was reset: {answer.reset}"
    else:
        code = _OF_HTTP.get(int(dict(answer.fields[0])[b":status"]), grpc.StatusCode.UNKNOWN)
    return Outcome(
        code,
        message,
        _details(trailers.get(b"grpc-status-details-bin", b"")),
        _metadata(answer.fields[0]) if len(answer.fields) > 1 else (),
        _metadata(answer.fields[-1]) if answer.fields else (),
        _answers(path, answer),
    )


def _metadata(block: Sequence[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(sorted(pair for pair in block if pair[0] not in _TRANSPORTS_OWN | _STATUS))


def _unquoted(message: bytes) -> str:
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes.fromhex(found[1].decode()), message)
    return raw.decode(errors="backslashreplace")


def _without_id(text: str) -> str:
    return _ID.sub("ID", text)


def _details(value: bytes) -> str:
    if not value:
        return ""
    status = Status.FromString(base64.b64decode(value + b"=" * (-len(value) % 4)))
    status.message = _without_id(status.message)
    for detail in status.details:
        info = RequestInfo()
        if detail.Unpack(info):
            info.request_id = _without_id(info.request_id)
            detail.Pack(info)
    return str(status) if status.details else ""  # code and message are told twice then


def _answers(path: str, answer: Answer) -> tuple[str, ...]:
    encoding = dict(answer.fields[0]).get(b"grpc-encoding", b"identity") if answer.fields else b""
    found, data = [], bytes(answer.body)
    while data:
        compressed, size = struct.unpack(">BI", data[:5])
        one = data[5 : 5 + size]
        assert not compressed or encoding == b"gzip", f"an answer compressed by {encoding!r}"
        found.append(_shown(path, gzip.decompress(one) if compressed else one))
        data = data[5 + size :]
    return tuple(sorted(found))  # those of a stream come as they are ready


def _shown(path: str, data: bytes) -> str:
    kind = _ANSWERS.get(path)
    if kind is None:
        return repr(data)
    try:
        message = kind.FromString(data)
    except DecodeError:
        return f"no {kind.__name__}: {data!r}"
    for part in (message, getattr(message, "response", None)):
        if isinstance(part, prediction_pb2.PredictResponse):
            part.ClearField("timing")
    if isinstance(message, catalog_pb2.GetModelResponse):
        for version in message.model.versions:
            for measured in ("load_seconds", "batching", "max_batch_rows"):  # each server by itself, as it loaded
                version.ClearField(measured)
    if isinstance(message, inference_pb2.ModelStatisticsResponse):
        known = [(one.name, one.version) for one in message.model_stats]
        return str(known)  # what each server counted is its own
    return _without_id(str(message))
