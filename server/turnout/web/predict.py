"""`/predict`: JSON for people with curl.

{"inputs": {NAME: nested lists}, "outputs": [NAME, ...]}
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from turnout.errors import InvalidRequest, InvalidTensor, TurnoutError
from turnout.oip.json_tensors import from_nested, to_nested
from turnout.registry.signature import Signature
from turnout.routing.preferences import PreferenceReader
from turnout.serving.data_plane import DataPlane
from turnout.serving.inference import InferenceRequest, InferenceResult, Router
from turnout.serving.limits import InputLimits
from turnout.serving.tensor import Array
from turnout.telemetry.tracing.trace import Operation
from turnout.web.body import BodyReceiver
from turnout.web.errors import error_response
from turnout.web.exchange import HttpExchange
from turnout.web.json_body import json_object

_PATHS = ("/predict/{model}", "/predict/{model}/{selector}")


class JsonExchange(HttpExchange):
    """One request and its answer.

    Attributes:
        signature: That its numbers are read by; set before it is decoded.
    """

    signature: Signature

    def parse(self) -> None:
        """Does nothing: what a body says of the request is in its path and headers."""

    def envelope(self) -> InferenceRequest:
        """Returns what is known of a request that could not be decoded."""
        selector = self.preferences.selector_of(self.selector)
        return InferenceRequest(self.model, selector, {}, request_id=self.request_id, arrived=self.arrived)

    def decode(self) -> InferenceRequest:
        """Returns the request.

        Raises:
            InvalidRequest, InvalidTensor: The body is too large, or no JSON of the expected form.
        """
        limits, preferences = self.limits, self.preferences
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
            self._inputs(body.get("inputs")),
            outputs,
            self.request_id,
            preferences.routing_key,
            None,
            self.arrived,
            preferences.baseline_only,
        )

    def encode(self, request: InferenceRequest, result: InferenceResult) -> Response:
        """Returns the answer."""
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
        return Response(orjson.dumps(document), media_type="application/json")

    def refusal(self, request: InferenceRequest, error: TurnoutError) -> Response:
        """Returns an error."""
        return error_response(error, request.request_id)

    def _inputs(self, inputs: object) -> dict[str, Array]:
        if not isinstance(inputs, dict):
            raise InvalidRequest.at("inputs", "expected an object of nested lists by input name")
        self.limits.check_tensors("inputs", len(inputs))
        arrays: dict[str, Array] = {}
        for name, value in inputs.items():
            spec = self.signature.input(name)
            if spec is None:
                known = ", ".join(s.name for s in self.signature.inputs)
                raise InvalidTensor.at(f"inputs.{name[:64]}", f"unknown; expected {known}")
            arrays[name] = from_nested(spec, value, self.limits)
        return arrays


@dataclass(frozen=True, slots=True)
class Predict:
    """Runs requests.

    Attributes:
        plane: Answers them.
        preferences: Reads what their headers ask for.
        router: Finds the signature that their JSON is read by.
        new_request_id: Makes up the name of a request that has none.
        bodies: Receives their bodies.
        limits: On what a request may hold.
    """

    plane: DataPlane
    preferences: PreferenceReader
    router: Router
    new_request_id: Callable[[], str]
    bodies: BodyReceiver
    limits: InputLimits

    def routes(self) -> list[Route]:
        """Returns the routes."""
        return [Route(path, self._handler(Operation.http("POST", path)), methods=["POST"]) for path in _PATHS]

    def _handler(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        return partial(self._predict, operation)

    async def _predict(self, operation: Operation, request: Request) -> Response:
        request_id = request.headers.get("x-request-id", "")[:128] or self.new_request_id()
        exchange = JsonExchange(request, operation, request_id, self.limits)
        try:
            await exchange.receive(self.preferences, self.bodies)
            selector = exchange.preferences.selector_of(exchange.selector)
            exchange.signature = self.router.describe(exchange.model, selector).manifest.signature
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except TurnoutError as error:
            return self.plane.refuse(exchange, error)
        return await self.plane.answer(exchange)
