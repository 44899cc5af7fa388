"""The HTTP listener: metrics, probes, JSON predictions for people with curl, the Open Inference Protocol."""

import contextlib
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from turnout.config import Address
from turnout.errors import ConfigError, InvalidRequest, ModelFailure, TurnoutError
from turnout.routing.preferences import PreferenceReader
from turnout.serving.inference import Inference, InferenceRequest, Router
from turnout.telemetry.exposition import Form, negotiate
from turnout.telemetry.tracing.tracer import Tracer
from turnout.web.body import read_body
from turnout.web.errors import error_response
from turnout.web.json_tensors import to_arrays, to_json
from turnout.web.tracing import traced

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
        new_request_id: Makes up the name of a request.
        max_body_bytes: Largest body of a request.
        oip: The Open Inference Protocol's routes.
        console: The console's routes; none where it is off.
        tracer: Traces requests; None where tracing is off.
    """

    inference: Inference
    preferences: PreferenceReader
    router: Router
    scrape: Callable[[Form], Awaitable[bytes]]
    ready: Callable[[], bool]
    new_request_id: Callable[[], str]
    max_body_bytes: int
    oip: Sequence[BaseRoute]
    console: Sequence[BaseRoute] = ()
    tracer: Tracer | None = None

    def application(self) -> Starlette:
        """Returns the ASGI application."""
        return Starlette(
            routes=[
                Route("/metrics", self.metrics),
                Route("/livez", self.livez),
                Route("/readyz", self.readyz),
                *(Route(path, traced(self.tracer, path, self.predict), methods=["POST"]) for path in _PREDICT),
                *self.oip,
                *self.console,
            ]
        )

    async def metrics(self, request: Request) -> Response:
        """The metrics, as Prometheus reads them: in OpenMetrics where that is asked for."""
        form = negotiate(", ".join(request.headers.getlist("accept")))
        return Response(await self.scrape(form), media_type=form.value, headers={"Vary": "Accept"})

    async def livez(self, _: Request) -> Response:
        """200 while the process runs its event loop at all."""
        return PlainTextResponse("ok\n")

    async def readyz(self, _: Request) -> Response:
        """200 while the server takes requests; 503 while it starts or drains."""
        return PlainTextResponse("ready\n") if self.ready() else PlainTextResponse("not ready\n", 503)

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
            host = request.client.host if request.client is not None else ""
            self.preferences.read(request.headers.items(), lambda: host).apply(call)
            await self._decode(request, call)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except TurnoutError as error:
            self.inference.refuse(call, error)
            return error_response(error, call.request_id)
        try:
            result = self.inference.infer_now(call) or await self.inference.infer(call)
        except TurnoutError as error:
            return error_response(error, call.request_id)
        except Exception as error:  # noqa: BLE001 - logged with its cause by the data plane; a client gets no traceback
            return error_response(ModelFailure(f"the request failed ({type(error).__name__})"), call.request_id)
        entry = result.route.entry
        return JSONResponse(
            {
                "model": call.model,
                "version": entry.version_text,
                "digest": entry.digest,
                "role": str(result.route.role),
                "epoch": result.route.epoch,
                **({"warning": result.route.warning} if result.route.warning else {}),
                "request_id": call.request_id,
                "outputs": {name: to_json(array) for name, array in result.outputs},
            }
        )

    async def _decode(self, request: Request, call: InferenceRequest) -> None:
        """Reads the body into `call`.

        Raises:
            TurnoutError: It is too large, no JSON of the expected form, or for no version that exists.
        """
        body = _object(await read_body(request, self.max_body_bytes))
        outputs = body.get("outputs", [])
        if not isinstance(outputs, list) or not all(isinstance(name, str) for name in outputs):
            raise InvalidRequest.at("outputs", "expected a list of names")
        inputs = body.get("inputs")
        if not isinstance(inputs, dict):
            raise InvalidRequest.at("inputs", "expected an object of nested lists by input name")
        signature = self.router.describe(call.model, call.selector).manifest.signature
        call.outputs = outputs
        call.inputs = to_arrays(inputs, signature)


class EmbeddedServer(uvicorn.Server):
    """uvicorn inside another program's event loop: signals are that program's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield


def http_server(application: ASGIApp) -> EmbeddedServer:
    """Returns the HTTP server, to be served on a bound socket."""
    config = uvicorn.Config(
        application, log_config=None, access_log=False, lifespan="off", server_header=False, ws="none"
    )
    return EmbeddedServer(config)


def bind(address: Address) -> socket.socket:
    """Returns a socket bound to `address`.

    Raises:
        ConfigError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(f"{address} cannot be listened on: {error.strerror}") from error


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest.at("body", "expected JSON") from error
    if not isinstance(value, dict):
        raise InvalidRequest.at("body", 'expected an object: {"inputs": {...}}')
    return value
