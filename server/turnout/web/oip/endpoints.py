"""What the protocol's endpoints have in common, those of inference apart."""

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
"""Of an answer; None if there is nothing to say but that it is done."""

Endpoint = Callable[[Request], Awaitable[Document]]


def route(path: str, *methods: str, answer: Endpoint) -> Route:
    """Returns a route whose endpoint returns a document, or raises TurnoutError."""

    async def answered(request: Request) -> Response:
        try:
            document = await answer(request)
        except TurnoutError as error:
            return error_answer(error)
        except ClientDisconnect:
            return empty_answer()  # nobody reads it
        return empty_answer() if document is None else json_answer(document)

    return Route(path, answered, methods=list(methods))


def sees(request: Request) -> Callable[[str], bool]:
    """Returns what tells whether the caller may see a model in lists."""
    caller = caller_of(request.scope)
    return (lambda _: True) if caller is None else caller.sees


@dataclass(frozen=True, slots=True)
class JsonBodies:
    """Reads bodies that are small JSON objects: of a size that is read on the event loop.

    Attributes:
        bodies: Receives them.
        limits: On what they may hold.
    """

    bodies: BodyReceiver
    limits: InputLimits

    @classmethod
    def of(cls, bodies: BodyReceiver, limits: InputLimits) -> Self:
        """Returns what reads small bodies where `bodies` receives large ones."""
        return cls(replace(bodies, max_bytes=min(SMALL_BYTES, bodies.max_bytes)), limits)

    async def read(self, request: Request, example: str) -> Mapping[str, Any]:
        """Returns the object in a body; an empty one where there is no body.

        Raises:
            InvalidRequest: It is not an object, or too large; the error shows `example`.
            Exhausted: As `BodyReceiver.receive`.
            ClientDisconnect: It never came whole.
        """
        data = (await self.bodies.receive(request)).plain()
        return json_object(data, self.limits, example) if data else {}


def parameters_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the parameters in a document. Raises InvalidRequest if they are no object."""
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest.at("parameters", "expected an object")
    return parameters
