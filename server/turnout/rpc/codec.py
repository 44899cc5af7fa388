"""Converts between `turnout.v1` messages and the data plane's types."""

import itertools
import uuid
from typing import Any, TypeAlias, cast

import numpy as np

from turnout.errors import InvalidRequest, InvalidTensor
from turnout.routing.request_metadata import Preferences
from turnout.rpc.transport.port import FixedMetadata
from turnout.serving.data_plane.inference import InferenceRequest, InferenceResult, Route, ServingRole
from turnout.serving.inputs.limits import InputLimits
from turnout.serving.sessions.tensor import Array, elements_of
from turnout.wire_format import VARINT, Lengths, delimited, length_delimited, tag, varint
from turnout_proto import tensors
from turnout_proto.v1 import prediction_pb2 as pb

MAX_REQUEST_ID = 128
"""Maximum length of a request id in characters."""

_MAX_ROUTING_KEY = 1024
_MAX_WARNING = 512

_SHORT_NAME = 16
"""Length in characters up to which a name satisfies any configured limit, so it need not be checked."""

ROLES = {role: cast(pb.Role, pb.Role.Value(f"ROLE_{role.name}")) for role in ServingRole}

Befores: TypeAlias = dict[str, tuple[np.dtype[Any], tuple[int, ...], bytes]]
"""Numeric outputs by name: dtype, shape, and the bytes that precede the elements in a serialized response."""

_ID, _TIMING = (Lengths(pb.PredictResponse.DESCRIPTOR.fields_by_name[name].number) for name in ("request_id", "timing"))
_OUTPUTS = pb.PredictResponse.DESCRIPTOR.fields_by_name["outputs"].number
_QUEUE, _COMPUTE, _ROWS = (
    tag(pb.Timing.DESCRIPTOR.fields_by_name[name].number, VARINT) for name in ("queue_us", "compute_us", "batch_rows")
)

_BEGINNING = "turnout.v1 answer"
_TRAILING = "trailing metadata"

_process = uuid.uuid4().hex[:12] + "-"
_numbers = itertools.count(1)


def new_request_id() -> str:
    """Returns a request id that is unique across processes."""
    return _process + str(next(_numbers))


def logged_id(request_id: str) -> str:
    """Returns the id of a request in logs: the beginning of the one that the client sent, or a new one."""
    return request_id[:MAX_REQUEST_ID] or new_request_id()


def decode(
    message: pb.PredictRequest, arrived: float, deadline: float | None, preferences: Preferences, limits: InputLimits
) -> InferenceRequest:
    """Converts a message to a request, whose tensors are views of the message's bytes.

    `arrived` and the caller's `deadline` are in seconds of `time.monotonic()`.

    Raises:
        InvalidRequest, InvalidTensor: A field violates the protocol or the limits.
    """
    request_id, routing_key, model, selector = message.request_id, message.routing_key, message.model, message.version
    check_id(request_id)
    if len(routing_key) > _MAX_ROUTING_KEY:
        raise InvalidRequest.at("routing_key", f"expected at most {_MAX_ROUTING_KEY} characters")
    limits.check_name("model", model)
    limits.check_name("version", selector)
    if outputs := message.outputs:
        limits.check_tensors("outputs", len(outputs))
        for index, name in enumerate(outputs):
            limits.check_name(f"outputs[{index}]", name)
    return InferenceRequest(
        model,
        preferences.selector_of(selector),
        _inputs(message, limits),
        outputs,
        request_id or new_request_id(),
        routing_key or preferences.routing_key,
        deadline,
        arrived,
        preferences.baseline_only,
    )


def check_id(request_id: str) -> None:
    """Raises InvalidRequest if a request id is too long."""
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidRequest.at("request_id", f"expected at most {MAX_REQUEST_ID} characters")


def _inputs(message: pb.PredictRequest, limits: InputLimits) -> dict[str, Array]:
    inputs: dict[str, Array] = {}
    limits.check_tensors("inputs", len(message.inputs))
    strings = 0
    for tensor in message.inputs:
        name = tensor.name
        if name in inputs:
            raise InvalidTensor.at(f"inputs[{len(inputs)}].name", f"{name[:64]!r} stands twice")
        if len(name) > _SHORT_NAME:
            limits.check_name(f"inputs[{len(inputs)}].name", name)
        if (rank := len(tensor.shape)) > limits.rank:
            limits.check_rank(f"inputs[{len(inputs)}].shape", rank)
        strings += len(tensor.strings)
        if strings > limits.strings:
            limits.check_strings(f"inputs[{len(inputs)}].strings", strings)
        try:
            inputs[name] = tensors.decode(tensor)
        except tensors.TensorError as error:
            raise InvalidTensor.at(f"inputs[{len(inputs)}].{error.field}", error.description) from error
    return inputs


def response(request: InferenceRequest, result: InferenceResult) -> list[bytes]:
    """Returns the parts of a response, which form a serialized PredictResponse when joined.

    Protobuf accepts the fields of a message in any order. Therefore the fields that all responses of a route share are
    serialized once, and the bytes that precede an output's elements once for each shape.

    Raises:
        TensorError: An output cannot be represented as a tensor message.
    """
    route, answer = result.route, result.answer
    if (prepared := route.memo.get(_BEGINNING)) is None:
        message = pb.PredictResponse(model=route.entry.model, route=route_message(route))
        prepared = route.memo[_BEGINNING] = message.SerializeToString(), {}
    beginning: bytes = prepared[0]
    befores: Befores = prepared[1]
    request_id, timing = request.request_id.encode(), _COMPUTE + varint(int(answer.compute_seconds * 1e6))
    if answer.queue_seconds:
        timing += _QUEUE + varint(int(answer.queue_seconds * 1e6))
    if answer.batch_rows:
        timing += _ROWS + varint(answer.batch_rows)
    parts = [beginning, _ID[len(request_id)], request_id, _TIMING[len(timing)], timing]
    for name, array in zip(result.names, answer.outputs, strict=True):
        known = befores.get(name)
        if known is not None and known[0] is array.dtype and known[1] == array.shape:
            parts += (known[2], *elements_of(array))
            continue
        tensor = tensors.encode(name, array)
        raw, serialised = tensor.raw, tensor.SerializeToString()
        parts.append(delimited(_OUTPUTS, serialised))
        if raw and serialised.endswith(raw) and raw == array.tobytes():  # nothing follows the elements
            before = length_delimited(_OUTPUTS, len(serialised)) + serialised[: -len(raw)]
            befores[name] = array.dtype, array.shape, before
    return parts


def route_message(route: Route) -> pb.Route:
    """Returns the version that answers and its role, as a message."""
    entry = route.entry
    return pb.Route(
        version=entry.version_text,
        digest=entry.digest,
        role=ROLES[route.role],
        epoch=route.epoch,
        warning=route.warning,
    )


def trailing_metadata(route: Route) -> FixedMetadata:
    """Returns the route as trailing metadata, for clients and proxies that only read metadata."""
    known: FixedMetadata | None = route.memo.get(_TRAILING)
    if known is None:
        entry = route.entry
        known = route.memo[_TRAILING] = FixedMetadata(
            (
                ("x-turnout-version", entry.version_text),
                ("x-turnout-digest", entry.digest),
                ("x-turnout-role", str(route.role)),
                ("x-turnout-epoch", str(route.epoch)),
                # Metadata must be ASCII; the response message contains the full warning.
                *([("x-turnout-warning", ascii_text(route.warning))] if route.warning else ()),
            )
        )
    return known


def ascii_text(text: str) -> str:
    """Returns `text`, cut to 512 characters, with each character that a header cannot contain replaced by "?"."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:_MAX_WARNING]
