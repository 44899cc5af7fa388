"""The data plane of every protocol: decoding, routing, running, counting, logging, tracing and encoding of requests.

    begin   decodes, routes and runs a small, quick request and encodes its answer: no task, no waiting
    finish  does the rest of the work: converts large messages in a thread, runs other requests on a runner

Every request is answered: with outputs, or with the refusal that its exchange makes of an error.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from semver import Version

from turnout.auth.authority import Authority
from turnout.auth.roles import AccessRole
from turnout.errors import DeadlineExceededError, MalformedMessage, ModelFailure, TurnoutError, VersionOnDemand
from turnout.serving.batching.answer import BatchedAnswer
from turnout.serving.data_plane.inference import InferenceExchange, InferenceRequest, InferenceResult, Route, Router
from turnout.serving.data_plane.request_counting import CountedRequest
from turnout.serving.versions.catalog import Catalog
from turnout.serving.versions.on_demand import OnDemand
from turnout.telemetry.logging import AccessLog
from turnout.telemetry.metrics.versions import Metrics
from turnout.telemetry.tracing.trace import Trace
from turnout.telemetry.tracing.tracer import Tracer
from turnout.threads import Threads

_WARNED = "warning logged"

_PREDICT = (AccessRole.PREDICT,)

_UNEXPECTED = "the request failed inside the server; see the server's log"

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Pending(Generic[T]):
    """A request that `begin` did not complete, with its state so far."""

    plane: "DataPlane"
    exchange: InferenceExchange[T]
    trace: Trace | None
    request: InferenceRequest | None = None
    route: Route | None = None
    counted: CountedRequest | None = None
    result: InferenceResult | None = None

    @property
    def known(self) -> InferenceRequest:
        """The request, as far as it could be decoded."""
        if self.request is None:
            self.request = self.exchange.envelope()  # once, since it may give the request an id
        return self.request

    def finish(self) -> Coroutine[Any, Any, T]:
        """Returns the answer, or the exchange's refusal."""
        return self.plane.finish(self) if self.trace is None else self._finish(self.trace)

    async def _finish(self, trace: Trace) -> T:
        try:
            return await self.plane.finish(self)
        except asyncio.CancelledError as error:
            end(trace, self.exchange, error)
            raise


@dataclass(frozen=True, slots=True)
class RequestTelemetry:
    """Telemetry recorded for every request.

    Attributes:
        metrics: Counts requests that reach no version.
        code_of: Returns the name of the status code that an error maps to, from the table that all protocols share.
        tracer: Traces requests; None if tracing is off.
    """

    metrics: Metrics
    access: AccessLog
    code_of: Callable[[BaseException], str]
    tracer: Tracer | None = None


class DataPlane:
    """Answers inference requests. Used on the event loop only.

    Attributes:
        draining: Set by `drain`, to end long-lived work on connections.
        authority: Authorizes callers; None if authentication is off.
    """

    def __init__(
        self,
        router: Router,
        catalog: Catalog,
        telemetry: RequestTelemetry,
        conversions: Threads,
        authority: Authority | None = None,
        on_demand: OnDemand | None = None,
    ) -> None:
        self._router = router
        self._catalog = catalog
        # Copied to attributes here, since each request reads them several times.
        self._metrics = telemetry.metrics
        self._access = telemetry.access
        self._code_of = telemetry.code_of
        self._tracer = telemetry.tracer
        self._conversions = conversions
        self.authority = authority
        self._on_demand = on_demand
        self._metrics.faults.watch("inference")
        self.draining = asyncio.Event()

    def drain(self) -> None:
        """Ends long-lived work on connections, such as streams. Listeners refuse new requests by then."""
        self.draining.set()

    async def answer(self, exchange: InferenceExchange[T]) -> T:
        """Returns the answer to a request or the exchange's refusal."""
        done = self.begin(exchange)
        return await done.finish() if isinstance(done, Pending) else done

    def begin(self, exchange: InferenceExchange[T]) -> T | Pending[T]:
        """Answers a request if it need not wait; otherwise returns it for `finish`."""
        trace = self._traced(exchange)
        if exchange.heavy:
            return Pending(self, exchange, trace)
        try:
            request = exchange.decode()
        except Exception as error:  # noqa: BLE001 - classified by `_undecoded`
            return self._undecoded(Pending(self, exchange, trace), error)
        return self._run(exchange, trace, request)

    async def parse(self, exchange: InferenceExchange[T]) -> T | None:
        """Reads the envelope of a request, in a thread if it is large. Returns the refusal if there is an error.

        Used by streams, which must identify items before they begin them.
        """
        if not exchange.heavy:
            return self.parse_now(exchange)
        try:
            await self._conversions.run(exchange.read)
        except Exception as error:  # noqa: BLE001 - classified by `_undecoded`
            return self.refuse(exchange, error)
        except asyncio.CancelledError as error:
            self._given_up(Pending(self, exchange, self._traced(exchange)), error)
            raise
        return None

    def parse_now(self, exchange: InferenceExchange[T]) -> T | None:
        """Does the same as `parse`, for a request that is not heavy."""
        try:
            exchange.read()
        except Exception as error:  # noqa: BLE001 - classified by `_undecoded`
            return self.refuse(exchange, error)
        return None

    def refuse(self, exchange: InferenceExchange[T], error: Exception) -> T:
        """Counts a request that could not be read, and returns its refusal."""
        return self._undecoded(Pending(self, exchange, self._traced(exchange)), error)

    async def finish(self, pending: Pending[T]) -> T:
        """Returns the answer to a request that `begin` did not complete, or the exchange's refusal."""
        exchange, trace = pending.exchange, pending.trace
        if pending.request is None:
            try:
                request = await self._conversions.run(_decode, exchange)
            except Exception as error:  # noqa: BLE001 - classified by `_undecoded`
                return self._undecoded(pending, error)
            except asyncio.CancelledError as error:
                self._given_up(pending, error)
                raise
            done = self._run(exchange, trace, request)
            if not isinstance(done, Pending):
                return done
            pending = done
        assert pending.request is not None
        request, result = pending.request, pending.result
        if result is None:
            try:
                names, answer = await self._infer(pending, request, trace)
            except Exception as error:  # noqa: BLE001 - classified by `_failed`
                return self._failed(pending, error)
            except asyncio.CancelledError as error:
                self._given_up(pending, error)
                raise
            route = pending.route
            assert route is not None, "what was answered had a route"
            result = self._answered(trace, request, route, pending.counted, names, answer)
        if result.light and not exchange.costly:
            return self._encoded(exchange, trace, request, result)
        try:
            encoded = await self._conversions.run(exchange.encode, request, result)
        except Exception as error:  # noqa: BLE001 - classified by `_not_encoded`
            return self._not_encoded(pending, error)
        if trace is not None:
            end(trace, exchange)
        return encoded

    async def _infer(
        self, pending: Pending[Any], request: InferenceRequest, trace: Trace | None
    ) -> tuple[Sequence[str], BatchedAnswer]:
        """Runs a request on a runner, loading its version first if necessary.

        If the version could not be loaded, the request is routed again: a range may name another version by then, and
        of a version that was yanked, pruned or unloaded meanwhile, the router knows why it does not answer.

        Raises:
            TurnoutError: As `Router.route`, `OnDemand.loaded` and `VersionHandle.infer`.
        """
        route, waited = pending.route, pending.route is None
        failures: dict[Version, TurnoutError] = {}
        while route is None or route.handle.closing:  # not routed yet, or the version has left since
            pending.route = None
            try:
                route = pending.route = self._route(request, trace)
            except VersionOnDemand as cold:
                if cold.version in failures:
                    raise failures[cold.version] from None
                if self._on_demand is None:
                    raise
                size = sum(array.nbytes for array in request.inputs.values())
                async with self._on_demand.loaded(cold.model, cold.version, request.deadline, size) as failure:
                    if failure is None:
                        return await self._infer(pending, request, trace)
                failures[cold.version] = failure
        if waited and pending.counted is None and (route.handle.arms or request.routing_key):
            pending.counted = CountedRequest(route, request.routing_key)
        return await route.handle.infer(request.inputs, request.outputs, request.deadline, route.lane, request.kind)

    def _run(self, exchange: InferenceExchange[T], trace: Trace | None, request: InferenceRequest) -> T | Pending[T]:
        """Routes a request, and runs it at once if its version is quick enough."""
        route: Route | None = None
        counted: CountedRequest | None = None
        try:
            if self.authority is not None:
                self.authority.check(exchange.caller, _PREDICT, request.model, exchange.service)
            route = self._route(request, trace)
            handle = route.handle
            if handle.arms or request.routing_key:
                counted = CountedRequest(route, request.routing_key)
            if request.deadline is not None and request.deadline <= request.arrived:
                # It spent too long in transit: the queue refuses it and nothing is computed.
                return Pending(self, exchange, trace, request, route, counted)
            answered = handle.infer_now(request.inputs, request.outputs, route.lane, request.kind)
        except VersionOnDemand as error:
            cold = Pending(self, exchange, trace, request)
            return cold if self._on_demand is not None else self._failed(cold, error)
        except Exception as error:  # noqa: BLE001 - classified by `_failed`
            return self._failed(Pending(self, exchange, trace, request, route, counted), error)
        if answered is None:
            return Pending(self, exchange, trace, request, route, counted)
        result = self._answered(trace, request, route, counted, *answered)
        if result.light and not exchange.costly:
            return self._encoded(exchange, trace, request, result)
        return Pending(self, exchange, trace, request, route, counted, result)

    def _route(self, request: InferenceRequest, trace: Trace | None) -> Route:
        if trace is not None:
            trace.note_request(request)
            trace.routing = trace.routed = time.monotonic()
        route = self._router.route(
            request.model, request.selector, request.routing_key, baseline_only=request.baseline_only
        )
        if trace is not None:
            trace.routed = time.monotonic()
        route.recorder.decisions += 1
        if route.warning and _WARNED not in route.memo:
            route.memo[_WARNED] = True  # logged once per route, not once per request
            self._access.warned(request, route, trace)
        return route

    def _answered(
        self,
        trace: Trace | None,
        request: InferenceRequest,
        route: Route,
        counted: CountedRequest | None,
        names: Sequence[str],
        answer: BatchedAnswer,
    ) -> InferenceResult:
        now = time.monotonic()
        took = now - request.arrived
        recorder = route.recorder
        recorder.answered(took, answer.queue_seconds, answer.compute_seconds)
        recorder.answered_last = now
        if counted is not None:
            counted.answered(request, took, answer)
        if trace is not None:
            trace.note_answer(route, answer, now, took)
        if self._access.sampled():
            self._access.answered(request, route, took, answer, trace)
        result = InferenceResult(names, answer, route)
        if route.observer is not None:
            # Scheduled, since the caller continues without a pause until the answer is handed to the transport.
            asyncio.get_running_loop().call_soon(route.observer.answered, request, result, trace)
        return result

    def _encoded(
        self, exchange: InferenceExchange[T], trace: Trace | None, request: InferenceRequest, result: InferenceResult
    ) -> T:
        """Encodes a small answer; returns a refusal if that fails."""
        try:
            encoded = exchange.encode(request, result)
        except Exception as error:  # noqa: BLE001 - classified by `_not_encoded`
            return self._not_encoded(Pending(self, exchange, trace, request), error)
        if trace is not None:
            end(trace, exchange)
        return encoded

    def _not_encoded(self, pending: Pending[T], error: Exception) -> T:
        """Returns the refusal of a request that was answered and counted, but whose answer could not be encoded."""
        return self._refused(pending, self._client_error(pending, error))

    def _undecoded(self, pending: Pending[T], error: Exception) -> T:
        if isinstance(error, MalformedMessage):
            self._metrics.faults.malformed[pending.exchange.service] += 1
        if pending.trace is not None:
            pending.trace.note_request(pending.known)
        return self._failed(pending, error)

    def _failed(self, pending: Pending[T], error: Exception) -> T:
        client_error = self._client_error(pending, error)
        self._count_failure(pending, error)
        return self._refused(pending, client_error)

    def _refused(self, pending: Pending[T], client_error: TurnoutError) -> T:
        if pending.trace is not None:
            end(pending.trace, pending.exchange, client_error)
        return pending.exchange.refusal(pending.known, client_error)

    def _client_error(self, pending: Pending[Any], error: Exception) -> TurnoutError:
        """Returns the error that the client may see; logs and counts unexpected errors."""
        if isinstance(error, TurnoutError):
            return error
        self._metrics.faults.unexpected["inference"] += 1
        self._access.unexpected(pending.known, error, pending.trace)
        return ModelFailure(_UNEXPECTED)

    def _given_up(self, pending: Pending[Any], error: asyncio.CancelledError) -> None:
        """Counts and logs a request cancelled by its caller, or by its transport because the deadline had passed."""
        deadline = pending.exchange.deadline if pending.known.deadline is None else pending.known.deadline
        late = deadline is not None and deadline <= time.monotonic()
        why = DeadlineExceededError("the deadline passed before the answer was ready") if late else error
        self._count_failure(pending, why)
        if pending.trace is not None:
            end(pending.trace, pending.exchange, why)

    def _count_failure(self, pending: Pending[Any], error: BaseException) -> None:
        request, route, counted, trace = pending.known, pending.route, pending.counted, pending.trace
        took = time.monotonic() - request.arrived
        code = self._code_of(error)
        if route is None:
            known = request.model in self._catalog.snapshot.models
            self._metrics.unrouted(request.model if known else "", code)
        else:
            route.recorder.failed(code, took)
        if counted is not None:  # even without a route: the request's version may have left after it was counted
            counted.failed(request, took, code, error)
        if trace is not None:
            trace.note_failure(route, error, code, took)
        self._access.failed(request, route, code, took, error, trace)

    def _traced(self, exchange: InferenceExchange[Any]) -> Trace | None:
        """Returns the trace of a new request; None if it is not traced."""
        if self._tracer is None:
            return None
        trace = self._tracer.begin(exchange.operation, exchange.parent())
        if trace is not None and trace.sampled and exchange.details:
            trace.details = exchange.details
        return trace


def end(trace: Trace, exchange: InferenceExchange[Any], error: BaseException | None = None) -> None:
    """Ends the trace of a request that was answered or failed with an error."""
    status, fault = exchange.outcome(error)
    message = error.message if isinstance(error, TurnoutError) else ""
    trace.end(status, fault=fault, message=message)


def _decode(exchange: InferenceExchange[Any]) -> InferenceRequest:
    """Decodes a request, unless its deadline has passed."""
    exchange.read()
    if exchange.deadline is not None and time.monotonic() > exchange.deadline:
        raise DeadlineExceededError("the deadline passed before the request was decoded")
    return exchange.decode()
