"""Inference requests over HTTP: read, hand to the data plane, answer."""

import time
from collections.abc import Callable, Iterable, Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from turnout.errors import TurnoutError
from turnout.oip.exchange import LOGGED_ID, answered, fill
from turnout.routing.preferences import PreferenceReader
from turnout.serving.inference import Inference, InferenceRequest, InferenceResult, Route
from turnout.serving.limits import InputLimits
from turnout.web.body import Body, receive
from turnout.web.oip.answers import error_answer, inference_answer
from turnout.web.oip.requests import (
    HEADER_LENGTH,
    BinaryWish,
    open_body,
    read_inputs,
    read_outputs,
    read_parameters,
    read_wish,
)

RouteHeaders = Callable[[Route], Iterable[tuple[str, str]]]

_NOBODY_READS_IT = 499


class RestExchange:
    """One request and its answer."""

    def __init__(
        self,
        body: Body,
        header_length: str | None,
        limits: InputLimits,
        route_headers: RouteHeaders,
        prefer: Callable[[InferenceRequest], None],
    ) -> None:
        """Prepares.

        Args:
            body: As it came.
            header_length: Of its JSON, as the header says.
            limits: On what it may hold.
            route_headers: Returns the headers that say which version answers, and why.
            prefer: Has a call routed as its headers ask.
        """
        self._body = body
        self._header_length = header_length
        self._limits = limits
        self._route_headers = route_headers
        self._prefer = prefer
        self._request_id = ""
        self._classes: Mapping[str, int] = {}
        self._wish = BinaryWish({}, False)

    @property
    def costly(self) -> bool:
        """Whether outputs are to be classified, which sorts and spells them."""
        return bool(self._classes)

    def decode(self, call: InferenceRequest) -> None:
        """Puts the body into `call`, and how it is to be routed."""
        body = open_body(self._body.plain(), self._header_length, self._limits)
        self._request_id = body.request_id
        call.request_id = body.request_id[:LOGGED_ID] or call.request_id
        outputs, parameters = read_outputs(body), read_parameters(body)
        self._wish = read_wish(outputs, parameters)
        self._classes = fill(call, body.request_id, read_inputs(body), outputs, parameters, self._limits)
        self._prefer(call)

    def encode(self, call: InferenceRequest, result: InferenceResult) -> Response:
        """Returns the answer."""
        headers = dict(self._route_headers(result.route))
        outputs = answered(result, self._classes, self._limits)
        return inference_answer(call, self._request_id, result.route, outputs, self._wish, headers)


class InferenceEndpoint:
    """Runs requests."""

    def __init__(
        self,
        inference: Inference,
        preferences: PreferenceReader,
        new_request_id: Callable[[], str],
        route_headers: RouteHeaders,
        max_body_bytes: int,
        limits: InputLimits,
    ) -> None:
        """Prepares.

        Args:
            inference: The data plane.
            preferences: Reads what a request's headers ask for.
            new_request_id: Makes up the name of a request that has none.
            route_headers: Returns the headers that say which version answers, and why.
            max_body_bytes: Largest body.
            limits: On what requests may hold.
        """
        self._limits = limits
        self._inference = inference
        self._preferences = preferences
        self._new_request_id = new_request_id
        self._route_headers = route_headers
        self._max_body_bytes = max_body_bytes

    async def infer(self, request: Request) -> Response:
        """Answers one request."""
        call = InferenceRequest(
            request.path_params["model"],
            request.path_params.get("selector", ""),
            {},
            request_id=request.headers.get("x-request-id", "")[:LOGGED_ID] or self._new_request_id(),
            arrived=time.monotonic(),
        )
        try:
            try:
                body = await receive(request, self._max_body_bytes)
            except TurnoutError as error:
                self._inference.refuse(call, error)
                raise
            host = request.client.host if request.client is not None else ""
            prefer = self._preferences.preferring(request.headers.items(), lambda: host)
            length = request.headers.get(HEADER_LENGTH)
            exchange = RestExchange(body, length, self._limits, self._route_headers, prefer)
            return await self._inference.answer(call, exchange, heavy=body.heavy)
        except ClientDisconnect:
            return Response(status_code=_NOBODY_READS_IT)
        except TurnoutError as error:
            return error_answer(error, call.request_id)
