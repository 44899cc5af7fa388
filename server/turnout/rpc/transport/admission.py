"""Applies admission control to methods, for a transport that does not do so itself."""

from collections.abc import Iterator
from contextlib import contextmanager

from turnout.admission.requests import Admission
from turnout.chunks import Serialized
from turnout.errors import TurnoutError
from turnout.rpc.errors import to_status
from turnout.rpc.transport.port import (
    ALWAYS_TAKEN,
    Method,
    Methods,
    Response,
    RpcCall,
    StatusError,
    Stream,
    Streaming,
    Unary,
)


def admitted(methods: Methods, admission: Admission) -> Methods:
    """Wraps methods so that they reject calls that `admission` does not admit, and count the calls that it does."""
    return {
        path: method if path.startswith(ALWAYS_TAKEN) else _admitted(method, admission)
        for path, method in methods.items()
    }


def _admitted(method: Method, admission: Admission) -> Method:
    @contextmanager
    def counted() -> Iterator[None]:
        try:
            admission.check()
        except TurnoutError as error:
            raise StatusError(to_status(error)) from None
        admission.begun += 1
        admission.under_way += 1
        try:
            yield
        finally:
            admission.under_way -= 1

    if isinstance(method, Unary):

        async def answer(message: Serialized, call: RpcCall) -> Response:
            with counted():
                return await method.respond(message, call)

        return Unary(answer)

    serving = method.serve

    async def serve(stream: Stream) -> None:
        with counted():
            await serving(stream)

    return Streaming(serve)
