"""`/predict`, a simple JSON API that is easy to call with curl.

A request is `{"inputs": {NAME: nested lists}, "outputs": [NAME, ...]}`.
"""

from collections.abc import Sequence
from functools import partial

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turnout.admission.unread import UnsentBudget
from turnout.errors import InvalidRequest, InvalidTensor
from turnout.oip.json_tensors import from_nested, to_nested
from turnout.registry.manifest.signature import Signature
from turnout.routing.request_metadata import PreferenceReader
from turnout.serving.data_plane.inference import InferenceRequest, InferenceResult, Router
from turnout.serving.inputs.limits import InputLimits
from turnout.serving.sessions.tensor import Array
from turnout.telemetry.tracing.trace import Operation
from turnout.web.body import BodyReceiver
from turnout.web.exchange import HttpExchange, HttpInference
from turnout.web.json_body import json_object


class JsonExchange(HttpExchange):
    """The exchange of one `/predict` request."""

    def __init__(
        self, router: Router, limits: InputLimits, request: Request, operation: Operation, request_id: str
    ) -> None:
        """Creates the exchange. `router` finds the signature, which defines the dtypes of the inputs."""
        super().__init__(request, operation, request_id, limits)
        self._router = router
        self._signature: Signature | None = None

    async def receive(self, preferences: PreferenceReader, bodies: BodyReceiver, unsent: UnsentBudget) -> None:
        """Reads the headers, receives the body, and finds the signature. Also raises errors of `Router.describe`."""
        await super().receive(preferences, bodies, unsent)
        selector = self.preferences.selector_of(self.selector)
        self._signature = self._router.describe(self.model, selector).manifest.signature

    def read(self) -> None:
        """Does nothing: the path and headers have everything that is needed before decoding."""

    def envelope(self) -> InferenceRequest:
        """Returns the known parts of a request that could not be decoded."""
        selector = self.preferences.selector_of(self.selector)
        return InferenceRequest(self.model, selector, {}, request_id=self.request_id, arrived=self.arrived)

    def decode(self) -> InferenceRequest:
        """Returns the request.

        Raises:
            InvalidRequest, InvalidTensor: The body is too large, or is not JSON of the expected form.
        """
        limits, preferences = self.limits, self.preferences
        assert self._signature is not None, "it was received"
        body = json_object(self.body.plain(), limits, '{"inputs": {...}}')
        outputs = body.get("outputs", [])
        if not isinstance(outputs, list) or not all(isinstance(name, str) for name in outputs):
            raise InvalidRequest.at("outputs", "expected a list of names")
        limits.check_tensors("outputs", len(outputs))
        for index, name in enumerate(outputs):
            limits.check_name(f"outputs[{index}]", name)
        return InferenceRequest(
            self.model,
            preferences.selector_of(self.selector),
            _inputs(body.get("inputs"), self._signature, limits),
            outputs,
            self.request_id,
            preferences.routing_key,
            None,
            self.arrived,
            preferences.baseline_only,
        )

    def encode(self, request: InferenceRequest, result: InferenceResult) -> Response:
        """Returns the response. Raises Exhausted as `counted`."""
        route = result.route
        document = {
            "model": request.model,
            "version": route.entry.version_text,
            "digest": route.entry.digest,
            "role": str(route.role),
            "epoch": route.epoch,
            **({"warning": route.warning} if route.warning else {}),
            "request_id": request.request_id,
            "outputs": {name: to_nested(array) for name, array in result.outputs},
        }
        return self.counted(Response(orjson.dumps(document), media_type="application/json"))


def predict_routes(http: HttpInference, router: Router, limits: InputLimits) -> Sequence[Route]:
    """Returns the routes."""
    exchange = partial(JsonExchange, router, limits)
    return [http.route(path, exchange) for path in ("/predict/{model}", "/predict/{model}/{selector}")]


def _inputs(inputs: object, signature: Signature, limits: InputLimits) -> dict[str, Array]:
    if not isinstance(inputs, dict):
        raise InvalidRequest.at("inputs", "expected an object of nested lists by input name")
    limits.check_tensors("inputs", len(inputs))
    arrays: dict[str, Array] = {}
    for name, value in inputs.items():
        spec = signature.input(name)
        if spec is None:
            known = ", ".join(s.name for s in signature.inputs)
            raise InvalidTensor.at(f"inputs.{name[:64]}", f"unknown; expected {known}")
        arrays[name] = from_nested(spec, value, limits)
    return arrays
