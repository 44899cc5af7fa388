"""The HTTP listener: metrics, probes, JSON predictions for people with curl, the Open Inference Protocol."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from turnout.errors import InvalidRequest, InvalidTensor, ModelFailure, TurnoutError, Unavailable
from turnout.oip.json_tensors import from_nested, to_nested
from turnout.registry.signature import Signature
from turnout.routing.preferences import PreferenceReader
from turnout.serving.availability import Availability
from turnout.serving.inference import Inference, InferenceRequest, InferenceResult, Router
from turnout.serving.limits import InputLimits
from turnout.serving.tensor import Array
from turnout.telemetry.exposition import Form, negotiate
from turnout.telemetry.faults import FaultRecorder
from turnout.telemetry.tracing.tracer import Tracer
from turnout.web.body import Body, receive
from turnout.web.errors import error_response
from turnout.web.json_body import json_object
from turnout.web.tracing import traced

_HTTP = "http"
"""What faults of this listener are counted as."""

_PREDICT = ("/predict/{model}", "/predict/{model}/{selector}")


@dataclass(frozen=True, slots=True)
class Web:
    """What the HTTP listener serves.

    Attributes:
        inference: The data plane.
        preferences: Reads what a request's headers ask for.
        router: Finds the signature that a request's JSON is read by.
        scrape: Returns the metrics, in a form.
        ready: Tells whether the server takes requests.
        availability: What the server depends on and cannot reach now.
        new_request_id: Makes up the name of a request.
        max_body_bytes: Largest body of a request.
        limits: On what a request may hold.
        faults: Counts errors that nobody foresaw.
        oip: The Open Inference Protocol's routes.
        console: The console's routes; none where it is off.
        tracer: Traces requests; None where tracing is off.
    """

    inference: Inference
    preferences: PreferenceReader
    router: Router
    scrape: Callable[[Form], Awaitable[bytes]]
    ready: Callable[[], bool]
    availability: Availability
    new_request_id: Callable[[], str]
    max_body_bytes: int
    limits: InputLimits
    faults: FaultRecorder
    oip: Sequence[BaseRoute]
    console: Sequence[BaseRoute] = ()
    tracer: Tracer | None = None

    def application(self) -> Starlette:
        """Returns the ASGI application."""
        self.faults.watch(_HTTP)
        return Starlette(
            exception_handlers={Exception: self._unexpected},
            routes=[
                Route("/metrics", self.metrics),
                Route("/livez", self.livez),
                Route("/readyz", self.readyz),
                *(Route(path, traced(self.tracer, path, self.predict), methods=["POST"]) for path in _PREDICT),
                *self.oip,
                *self.console,
            ],
        )

    async def _unexpected(self, request: Request, error: Exception) -> Response:
        """Answers where nobody foresaw an error; Starlette has the HTTP server log it after that."""
        self.faults.unexpected[_HTTP] += 1
        return error_response(ModelFailure("the request failed inside the server, whose log tells why"))

    async def metrics(self, request: Request) -> Response:
        """The metrics, as Prometheus reads them: in OpenMetrics where that is asked for."""
        form = negotiate(", ".join(request.headers.getlist("accept")))
        try:
            text = await self.scrape(form)
        except Unavailable as error:  # the parent of several workers does not answer
            return error_response(error)
        return Response(text, media_type=form.value, headers={"Vary": "Accept"})

    async def livez(self, _: Request) -> Response:
        """200 while the process runs its event loop at all."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 while the server takes requests; 503 while it starts or drains.

        The body says besides what the server cannot reach: it serves on from memory, so that is no reason to send
        requests elsewhere. In JSON where that is asked for.
        """
        ready, unavailable = self.ready(), self.availability.reasons
        status = 200 if ready else 503
        if "application/json" in request.headers.get("accept", ""):
            told = [{"part": str(part), "reason": reason} for part, reason in unavailable.items()]
            body = {"ready": ready, "unavailable": told, "notes": list(self.availability.notes)}
            return JSONResponse(body, status)
        lines = ["ready" if ready else "not ready", *unavailable.values(), *self.availability.notes]
        return PlainTextResponse("".join(f"{line}\n" for line in lines), status)

    async def predict(self, request: Request) -> Response:
        """Runs `{"inputs": {NAME: nested lists}, "outputs": [NAME, ...]}` and answers in kind."""
        call = InferenceRequest(
            request.path_params["model"],
            request.path_params.get("selector", ""),
            {},
            request_id=request.headers.get("x-request-id", "")[:128] or self.new_request_id(),
            arrived=time.monotonic(),
        )
        try:
            try:
                host = request.client.host if request.client is not None else ""
                self.preferences.read(request.headers.items(), lambda: host).apply(call)
                body = await receive(request, self.max_body_bytes)
                signature = self.router.describe(call.model, call.selector).manifest.signature
            except TurnoutError as error:
                self.inference.refuse(call, error)
                raise
            return await self.inference.answer(call, JsonExchange(body, signature, self.limits), heavy=body.heavy)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except TurnoutError as error:
            return error_response(error, call.request_id)


class JsonExchange:
    """One request of `/predict` and its answer."""

    costly = False

    def __init__(self, body: Body, signature: Signature, limits: InputLimits) -> None:
        """Prepares.

        Args:
            body: As it came.
            signature: That its numbers are read by.
            limits: On what it may hold.
        """
        self._body = body
        self._signature = signature
        self._limits = limits

    def decode(self, call: InferenceRequest) -> None:
        """Reads the body into `call`.

        Raises:
            InvalidRequest, InvalidTensor: It is too large, or no JSON of the expected form.
        """
        limits = self._limits
        body = json_object(self._body.plain(), limits, '{"inputs": {...}}')
        outputs = body.get("outputs", [])
        if not isinstance(outputs, list) or not all(isinstance(name, str) for name in outputs):
            raise InvalidRequest.at("outputs", "expected a list of names")
        limits.check_tensors("outputs", len(outputs))
        for index, name in enumerate(outputs):
            limits.check_name(f"outputs[{index}]", name)
        inputs = body.get("inputs")
        if not isinstance(inputs, dict):
            raise InvalidRequest.at("inputs", "expected an object of nested lists by input name")
        limits.check_tensors("inputs", len(inputs))
        arrays: dict[str, Array] = {}
        for name, value in inputs.items():
            spec = self._signature.input(name)
            if spec is None:
                known = ", ".join(s.name for s in self._signature.inputs)
                raise InvalidTensor.at(f"inputs.{name[:64]}", f"unknown; expected {known}")
            arrays[name] = from_nested(spec, value, limits)
        call.outputs = outputs
        call.inputs = arrays

    def encode(self, call: InferenceRequest, result: InferenceResult) -> Response:
        """Returns the answer."""
        route = result.route
        document = {
            "model": call.model,
            "version": route.entry.version_text,
            "digest": route.entry.digest,
            "role": str(route.role),
            "epoch": route.epoch,
            **({"warning": route.warning} if route.warning else {}),
            "request_id": call.request_id,
            "outputs": {name: to_nested(array) for name, array in result.outputs},
        }
        return Response(orjson.dumps(document), media_type="application/json")
