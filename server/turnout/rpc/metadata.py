"""Which calls' metadata is read: of those that say something that Turnout wants to know.

gRPC turns a call's metadata into Python to look its method up, and would again for the method to read it. On a small
model that is 2 to 3 % of all that a unary call costs, and few calls say anything. So each method has two handlers, and
what the lookup has seen decides which it is.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import grpc

from turnout.routing.preferences import Pairs, PreferenceReader
from turnout.telemetry.tracing.context import TRACEPARENT

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Behaviour(Protocol):
    """Answers unary calls."""

    def __call__(
        self, request: Any, context: "grpc.aio.ServicerContext[Any, Any]", /, metadata: Pairs = ()
    ) -> Coroutine[Any, Any, Any]:
        """Answers one; its metadata is empty where it says nothing of interest."""
        ...


@dataclass(frozen=True, slots=True)
class Attentive:
    """The two handlers of a method."""

    plain: Handler
    reading: Handler

    @classmethod
    def of(cls, behaviour: Behaviour, make: "Callable[[Callable[..., Any]], Handler]") -> "Attentive":
        """Makes both out of one behaviour."""

        async def reading(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
            return await behaviour(request, context, context.invocation_metadata() or ())

        return cls(make(behaviour), make(reading))


class Methods(grpc.GenericRpcHandler):
    """Finds the handlers of one service."""

    def __init__(
        self, service: str, handlers: "Mapping[str, Handler | Attentive]", preferences: PreferenceReader
    ) -> None:
        """Prepares.

        Args:
            service: Its full name.
            handlers: By name of the method.
            preferences: Tells by which keys of metadata a call asks for something; a trace's is known here.
        """
        self._keys = preferences.keys | {TRACEPARENT}
        self._plain: dict[str, Handler] = {}
        self._reading: dict[str, Handler] = {}
        for name, handler in handlers.items():
            both = handler if isinstance(handler, Attentive) else Attentive(handler, handler)
            self._plain[f"/{service}/{name}"] = both.plain
            self._reading[f"/{service}/{name}"] = both.reading

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        """Returns the handler of a call; None where the method is not one of the service's."""
        keys = self._keys
        for key, _ in handler_call_details.invocation_metadata:
            if key in keys:
                return self._reading.get(handler_call_details.method)
        return self._plain.get(handler_call_details.method)
