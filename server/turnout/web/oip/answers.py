"""Writes HTTP responses of the protocol: JSON, followed by raw tensor data if the client asked for it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from google.protobuf.message import Message
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from turnout.oip.exchange import answer_parameters
from turnout.oip.extensions.shared_memory import TensorWindow
from turnout.oip.json_tensors import to_json
from turnout.oip.tensors import datatype_of, encode_raw
from turnout.serving.data_plane.inference import InferenceRequest, Route
from turnout.serving.sessions.tensor import Array
from turnout.web.oip.requests import BINARY_SIZE, HEADER_LENGTH, BinaryOutputs

_JSON = "application/json"
_BINARY = "application/octet-stream"

Document = Mapping[str, Any] | list[Any] | None
"""The JSON document of a response; None for an empty response, which means success."""


def inference_answer(
    call: InferenceRequest,
    request_id: str,
    route: Route,
    outputs: Sequence[tuple[str, Array]],
    windows: Mapping[str, TensorWindow],
    binary_outputs: BinaryOutputs,
    headers: Mapping[str, str],
) -> Response:
    """Returns the response to an inference request.

    The outputs in `windows` are written to shared memory, and those that the client wants in binary form follow the
    JSON.

    Raises:
        InvalidRequest: JSON cannot represent an output that was not requested in binary form, or an output does not fit
            into its window.
        Unsupported: The protocol does not have the type of an output.
    """
    tensors: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for name, array in outputs:
        tensor: dict[str, Any] = {"name": name, "datatype": datatype_of(name, array), "shape": list(array.shape)}
        if name in windows:
            windows[name].write(encode_raw(name, array)[1])
        elif binary_outputs.wants(name):
            raw = encode_raw(name, array)[1]
            tensor["parameters"] = {BINARY_SIZE: len(raw)}
            binary.append(raw)
        else:
            tensor["data"] = to_json(name, tensor["datatype"], array)
        tensors.append(tensor)
    document = {
        "model_name": call.model,
        "model_version": route.entry.version_text,
        **({"id": request_id} if request_id else {}),
        "parameters": answer_parameters(route),
        "outputs": tensors,
    }
    text = _rendered(document)
    if not any(binary_outputs.wants(name) and name not in windows for name, _ in outputs):
        return Response(text, headers=headers, media_type=_JSON)
    all_headers = {**headers, HEADER_LENGTH: str(len(text))}
    return Response(b"".join((text, *binary)), headers=all_headers, media_type=_BINARY)


def as_json(message: Message) -> dict[str, Any]:
    """Returns the values of all fields of a message, also of those that are not set, as Triton writes them in JSON."""

    def value_of(value: Any) -> Any:
        if isinstance(value, Message):
            return as_json(value)
        if isinstance(value, Mapping):
            return {key: value_of(one) for key, one in value.items()}
        return value if isinstance(value, str | int | float) else [value_of(one) for one in value]

    return {field.name: value_of(getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


def json_answer(document: Document, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Returns a response with a JSON document."""
    return Response(b"" if document is None else _rendered(document), status, media_type=_JSON)


def route(path: str, *methods: str, answer: Callable[[Request], Awaitable[Document]]) -> HttpRoute:
    """Returns a route for an endpoint that returns a document."""

    async def answered(request: Request) -> Response:
        try:
            return json_answer(await answer(request))
        except ClientDisconnect:
            return json_answer(None)  # the client will not read it

    return HttpRoute(path, answered, methods=list(methods))


def _rendered(document: Mapping[str, Any] | list[Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
