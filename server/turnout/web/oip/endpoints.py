"""Common code of the protocol's endpoints, except for inference."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from turnout.errors import InvalidRequest, TurnoutError
from turnout.serving.inputs.limits import InputLimits
from turnout.web.authorization import caller_of
from turnout.web.body import BodyReceiver
from turnout.web.json_body import SMALL_BYTES, json_object
from turnout.web.oip.answers import empty_answer, error_answer, json_answer

Document = Mapping[str, Any] | list[Any] | None
"""The JSON document of a response; None for an empty response."""

Endpoint = Callable[[Request], Awaitable[Document]]


def route(path: str, *methods: str, answer: Endpoint) -> Route:
    """Returns a route for an endpoint that returns a document or raises TurnoutError."""

    async def answered(request: Request) -> Response:
        try:
            document = await answer(request)
        except TurnoutError as error:
            return error_answer(error)
        except ClientDisconnect:
            return empty_answer()  # the client will not read it
        return empty_answer() if document is None else json_answer(document)

    return Route(path, answered, methods=list(methods))


def sees(request: Request) -> Callable[[str], bool]:
    """Returns a function that returns whether the caller may see a given model in lists."""
    caller = caller_of(request.scope)
    return (lambda _: True) if caller is None else caller.sees


@dataclass(frozen=True, slots=True)
class JsonBodies:
    """Reads JSON objects from bodies that are small enough to be parsed on the event loop.

    Attributes:
        bodies: Receives the bodies.
        limits: Limits on their size and contents.
    """

    bodies: BodyReceiver
    limits: InputLimits

    @classmethod
    def of(cls, bodies: BodyReceiver, limits: InputLimits) -> Self:
        """Returns a reader with the settings of `bodies`, limited to small bodies."""
        return cls(replace(bodies, max_bytes=min(SMALL_BYTES, bodies.max_bytes)), limits)

    async def read(self, request: Request, example: str) -> Mapping[str, Any]:
        """Returns the JSON object in a body; an empty object if there is no body.

        Raises:
            InvalidRequest: The body is not an object (the error shows `example`), or is too large.
            Exhausted: As for `BodyReceiver.receive`.
            ClientDisconnect: The client disconnected before the body was complete.
        """
        data = (await self.bodies.receive(request)).plain()
        return json_object(data, self.limits, example) if data else {}


def parameters_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the parameters in a document. Raises InvalidRequest if they are not an object."""
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest.at("parameters", "expected an object")
    return parameters
