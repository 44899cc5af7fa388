"""An ASGI application that carries gRPC calls to methods, for any server with HTTP/2 and trailers.

The server (h2corn) runs each request in a task, and cancels the task when the client resets the stream or its
connection ends, so a call need not watch for that. A call that is answered without waiting needs no task at all. The
response of a unary call consists of three events, two of which are prepared in advance, since they are the same for all
calls of a route.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from google.rpc.status_pb2 import Status
from structlog.typing import FilteringBoundLogger

from turnout.admission.requests import Admission
from turnout.admission.unread import LARGE_BYTES
from turnout.chunks import Serialized
from turnout.errors import TurnoutError
from turnout.rpc.errors import to_status
from turnout.rpc.transport.asgi.call import (
    NO_BODY,
    START,
    AsgiCall,
    CallLimits,
    Receive,
    Scope,
    Send,
    send_http,
    send_only_status,
)
from turnout.rpc.transport.asgi.compression import ENCODING_NAMES
from turnout.rpc.transport.asgi.eager_tasks import begun
from turnout.rpc.transport.asgi.framing import PREFIX, PREFIX_BYTES
from turnout.rpc.transport.asgi.running_calls import RunningCalls
from turnout.rpc.transport.asgi.statuses import CANCELLED, INTERNAL, UNIMPLEMENTED, trailers_for
from turnout.rpc.transport.port import (
    ALWAYS_TAKEN,
    RESPONSES,
    Method,
    Methods,
    Response,
    RpcCall,
    StatusError,
    Stream,
    Unary,
)

Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_GRPC = b"application/grpc"
_TYPES = (_GRPC, b"application/grpc+proto")
_ACCEPTED = (b"grpc-accept-encoding", ENCODING_NAMES.encode())


@dataclass(frozen=True, slots=True)
class _Route:
    """A method in the routing table, which is either unary or streaming."""

    answer: Callable[[Serialized, RpcCall], Response | Awaitable[Response]] | None
    serve: Callable[[Stream], Awaitable[None]] | None
    counted: bool  # against the limit on concurrent requests
    prompt: bool = False  # calls are started without a task


class GrpcApplication:
    """An ASGI application that serves gRPC methods."""

    def __init__(
        self,
        methods: Methods,
        calls: RunningCalls,
        limits: CallLimits,
        admission: Admission,
        log: FilteringBoundLogger,
        fallback: Application | None = None,
    ) -> None:
        """Initializes the application. Requests that are not gRPC go to `fallback`; None rejects them."""
        self._calls = calls
        self._routes = {path.encode(): _route(path, method) for path, method in methods.items()}
        self._limits = limits
        self._whole = limits.max_message_bytes + PREFIX_BYTES
        self._admission = admission
        self._log = log
        self._fallback = fallback

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Serves one request. A call of a prompt method starts immediately, without a task (see `eager_tasks`)."""
        headers = dict(scope["headers"])
        route = self._routes.get(scope["raw_path"])  # raw: a percent-encoded path does not name a method
        if (
            route is None
            or scope["query_string"]
            or headers.get(b"content-type") != _GRPC
            or scope.get("method") != "POST"
            or "http.response.trailers" not in scope["extensions"]
        ):
            return self._unusual(route, scope, headers, receive, send)
        call = AsgiCall(self._limits, route.counted, scope, headers, receive, send)
        if route.prompt:
            return begun(self._carry(route, call, receive, send, in_task=False), partial(self._calls.add, call))
        return self._carry(route, call, receive, send)

    async def _carry(
        self, route: _Route, call: AsgiCall, receive: Receive, send: Send, *, in_task: bool = True
    ) -> None:
        """Carries a call from its first event to its last.

        A call that does not start in a task is registered in the calls in flight when it continues in one.
        """
        admission, counted = self._admission, route.counted
        try:
            if counted:
                admission.check()
            call.open()
        except TurnoutError as error:
            return await self._refuse(call, send, to_status(error))
        except StatusError as error:
            return await self._refuse(call, send, error.status, _ACCEPTED)
        admission.begun += counted
        admission.under_way += counted
        if in_task:
            self._calls.add(call)
        try:
            if route.answer is not None:
                event = await receive()
                data = event.get("body", b"")
                size = len(data)
                body: Serialized
                if PREFIX_BYTES <= size <= self._whole and PREFIX.unpack_from(data) == (0, size - PREFIX_BYTES):
                    body = data[PREFIX_BYTES:]
                else:
                    body = await call.only_message(event)
                del event, data  # otherwise they would keep the body in memory while the method runs
                response = route.answer(body, call)
                del body
                if not isinstance(response, RESPONSES):
                    response = await response
                call.answered = True
                end = trailers_for(call.trailing)
                if not isinstance(response, bytes):
                    await call.send_parts(response)
                elif call.gzip or len(response) > LARGE_BYTES:
                    await call.send_message(response, more=False)
                else:
                    call.started = True
                    event = {"type": "http.response.body", "body": PREFIX.pack(0, len(response)) + response}
                    # The first event wakes the server's thread, which should then find the other events as well.
                    await send(START)
                    await send(event)
                await send(end)
            elif route.serve is not None:
                await route.serve(call)
                call.answered = True
                if not call.started:
                    await send(START)
                await send(NO_BODY)
                await send(trailers_for(call.trailing))
        except StatusError as error:
            await call.send_status(error.status)
        except asyncio.CancelledError:
            if call.ending is not None and call.task is not None:
                call.task.uncancel()
                await call.send_status(call.ending)
            elif call.cancelled:
                raise
            else:
                await call.send_status(Status(code=CANCELLED, message="the call was cancelled"))
        except OSError:
            pass  # the client disconnected during the response
        except Exception as error:  # noqa: BLE001 - the client must get a status in any case
            self._log.error("a method raised what it must not", path=call.path, exc_info=error)
            await call.send_status(Status(code=INTERNAL, message="the call failed inside the server"))
        finally:
            if call.task is not None:
                call.release()
                self._calls.remove(call)
            admission.under_way -= counted

    async def _refuse(self, call: AsgiCall, send: Send, status: Status, *more: tuple[bytes, bytes]) -> None:
        """Ends a call that was not admitted or has invalid headers."""
        try:
            await send_only_status(send, status, *more)
        finally:
            self._calls.remove(call)  # the call is registered if sending the status had to wait

    async def _unusual(
        self, route: _Route | None, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        """Serves or rejects a request that is not an ordinary gRPC call."""
        content_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if content_type in _TYPES and scope["type"] == "http":
            if scope["method"] != "POST":
                await send_http(send, 405, "expected POST", (b"allow", b"POST"))
            elif "http.response.trailers" not in scope["extensions"]:
                await send_only_status(send, Status(code=INTERNAL, message="expected the header te: trailers"))
            elif route is None or scope["query_string"]:
                message = f"no method is named {scope['path'][:256]!r}"
                await send_only_status(send, Status(code=UNIMPLEMENTED, message=message))
            else:
                call = AsgiCall(self._limits, route.counted, scope, headers, receive, send)
                await self._carry(route, call, receive, send)
        elif route is None and self._fallback is not None:
            await self._fallback(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif route is not None and scope["method"] != "POST":
            await send_http(send, 405, "expected POST", (b"allow", b"POST"))
        elif route is not None or content_type.startswith(_GRPC):
            await send_http(send, 415, "expected content-type: application/grpc", (b"accept-post", _GRPC))
        else:
            await send_http(send, 404, "expected a gRPC call")


def _route(path: str, method: Method) -> _Route:
    counted = not path.startswith(ALWAYS_TAKEN)
    if isinstance(method, Unary):
        return _Route(method.answer, None, counted, method.prompt)
    return _Route(None, method.serve, counted)
