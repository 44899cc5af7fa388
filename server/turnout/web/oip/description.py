"""Endpoints that describe the server and its models in JSON."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from google.protobuf.json_format import MessageToDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turnout import __version__
from turnout.oip.description import SERVER, ModelDescription
from turnout.web.oip.answers import as_json, json_answer, route
from turnout_proto.oip.model_config_pb2 import ModelConfig

VERSIONS = ("/v2/models/{model}", "/v2/models/{model}/versions/{selector}")
"""Paths that name a version, the first by the model alone."""


class DescriptionEndpoints:
    """Endpoints for health, metadata and configuration. If something is not ready, the status is not 200."""

    def __init__(self, description: ModelDescription) -> None:
        self._description = description

    def routes(self) -> Sequence[Route]:
        """Returns the routes."""
        of_versions = (("", self.metadata), ("/ready", self.model_ready), ("/config", self.config))
        return [
            route("/v2", "GET", answer=self.server),
            route("/v2/health/live", "GET", answer=self.live),
            Route("/v2/health/ready", self.ready),
            *(route(f"{base}{path}", "GET", answer=answer) for base in VERSIONS for path, answer in of_versions),
        ]

    async def live(self, _: Request) -> Mapping[str, Any]:
        """200 while the process runs its event loop at all."""
        return {"live": True}

    async def ready(self, _: Request) -> Response:
        """Returns 200 if the server is ready for traffic, 503 while it starts or drains."""
        ready = self._description.ready()
        return json_answer({"ready": ready}, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def server(self, _: Request) -> Mapping[str, Any]:
        """Describes the server."""
        return {"name": SERVER, "version": __version__, "extensions": self._description.extensions}

    async def model_ready(self, request: Request) -> Mapping[str, Any]:
        """200 if a request for this version would be accepted now; else the status of the refusal."""
        model, selector = _named(request)
        self._description.check_ready(model, selector)
        return {"name": model, "ready": True}

    async def metadata(self, request: Request) -> Mapping[str, Any]:
        """Describes the inputs and outputs of a version."""
        return as_json(self._description.metadata(*_named(request)))

    async def config(self, request: Request) -> Mapping[str, Any]:
        """Describes a version in the form of Triton's model configuration."""
        return config_document(self._description.config(*_named(request)))


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
