"""Endpoints that describe the server and its models in JSON."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from google.protobuf.json_format import MessageToDict
from starlette.requests import Request
from starlette.responses import Response

from turnout import __version__
from turnout.errors import TurnoutError
from turnout.oip.description import SERVER, ModelDescription
from turnout.web.oip.answers import error_answer, json_answer
from turnout_proto.oip.inference_pb2 import ModelMetadataResponse
from turnout_proto.oip.model_config_pb2 import ModelConfig

Endpoint = Callable[[Request], Awaitable[Response]]


class DescriptionEndpoints:
    """Endpoints for health, metadata and configuration. If something is not ready, the status is not 200."""

    def __init__(self, description: ModelDescription) -> None:
        self._description = description

    async def live(self, _: Request) -> Response:
        """Returns 200 as long as the event loop runs."""
        return json_answer({"live": True})

    async def ready(self, _: Request) -> Response:
        """Returns 200 if the server is ready for traffic, 503 while it starts or drains."""
        ready = self._description.ready()
        return json_answer({"ready": ready}, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def server(self, _: Request) -> Response:
        """Returns the server's metadata."""
        return json_answer({"name": SERVER, "version": __version__, "extensions": self._description.extensions})

    async def model_ready(self, request: Request) -> Response:
        """Returns 200 if a request for this version would be accepted now; otherwise the status of its rejection."""
        model, selector = _named(request)
        try:
            self._description.check_ready(model, selector)
        except TurnoutError as error:
            return error_answer(error)
        return json_answer({"name": model, "ready": True})

    async def metadata(self, request: Request) -> Response:
        """Returns the metadata of a version: its inputs and outputs."""
        try:
            return json_answer(metadata_document(self._description.metadata(*_named(request))))
        except TurnoutError as error:
            return error_answer(error)

    async def config(self, request: Request) -> Response:
        """Returns the configuration of a version, in Triton's form."""
        try:
            return json_answer(config_document(self._description.config(*_named(request))))
        except TurnoutError as error:
            return error_answer(error)


def metadata_document(metadata: ModelMetadataResponse) -> Mapping[str, Any]:
    """Returns a version's metadata in the protocol's JSON form."""

    def tensors(described: Any) -> list[dict[str, Any]]:
        return [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in described]

    return {
        "name": metadata.name,
        "versions": list(metadata.versions),
        "platform": metadata.platform,
        "inputs": tensors(metadata.inputs),
        "outputs": tensors(metadata.outputs),
    }


def config_document(config: ModelConfig) -> Mapping[str, Any]:
    """Returns a version's configuration in Triton's JSON form, with its type names."""
    document: dict[str, Any] = MessageToDict(config, preserving_proto_field_name=True)
    document["max_batch_size"] = config.max_batch_size
    tensors = [*document.get("input", ()), *document.get("output", ())]
    for tensor in tensors:
        tensor["data_type"] = tensor["data_type"].replace("DATA_TYPE_", "TYPE_")
        tensor["dims"] = [int(size) for size in tensor.get("dims", ())]  # protobuf's JSON has 64-bit numbers as strings
    return document


def _named(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("selector", "")
