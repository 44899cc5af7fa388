"""Traces of HTTP requests: a handler is wrapped where its route is declared."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from turnout.telemetry.tracing.context import read
from turnout.telemetry.tracing.trace import Operation, current
from turnout.telemetry.tracing.tracer import Tracer

Handler = Callable[[Request], Awaitable[Response]]

_MAX_PATH = 256


def traced(tracer: Tracer | None, route: str, handler: Handler, method: str = "POST") -> Handler:
    """Returns the handler of a route that traces its requests; `handler` itself where tracing is off.

        Route(path, traced(self.tracer, path, self.predict), methods=["POST"])

    Args:
        tracer: Begins traces; None where tracing is off.
        route: The route's path, with its parameters in braces.
        handler: Answers requests.
        method: That the route takes.
    """
    if tracer is None:
        return handler
    operation = Operation.http(method, route)

    async def handle(request: Request) -> Response:
        trace = tracer.begin(operation, read(request.headers.items()))
        if trace is None:
            return await handler(request)
        if trace.sampled:
            trace.details = (("url.path", request.url.path[:_MAX_PATH]),)
        token = current.set(trace)
        status, message = 500, ""
        try:
            response = await handler(request)
            status = response.status_code
            return response
        except BaseException as error:
            message = type(error).__name__
            raise
        finally:
            current.reset(token)
            trace.end(status, fault=status >= 500, message=message)

    return handle
