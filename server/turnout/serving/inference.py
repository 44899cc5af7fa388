"""The data plane that every protocol shares: one request in, one answer out.

This is the narrow port behind which the engine lives: protocols hand in decoded tensors and get tensors back, and know
nothing of sessions, queues or routes.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, Self, TypeVar

from turnout.errors import DeadlineExceeded, ModelFailure, TurnoutError
from turnout.serving.arms import ArmMeter, Cell, FailedRequest
from turnout.serving.batcher import Answer
from turnout.serving.catalog import Catalog, VersionEntry
from turnout.serving.conversion import ConversionThread
from turnout.serving.handle import VersionHandle
from turnout.serving.tensor import Array
from turnout.telemetry.logging import AccessLog
from turnout.telemetry.metrics import Metrics, RoleRecorder
from turnout.telemetry.tracing.trace import Trace

_WARNED = "warning told"

_LIGHT_BYTES = 256 * 1024
"""Outputs of this size are encoded within a millisecond or two."""

_STRING_BYTES = 8
"""A string takes as long to encode as so many numbers of eight bytes."""

_UNEXPECTED = "the request failed inside the server, whose log tells why"

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Role(StrEnum):
    """How a version came to answer."""

    PINNED = "pinned"
    BASELINE = "baseline"
    CANARY = "canary"
    SHADOW = "shadow"


class AnswerObserver(Protocol):
    """Is told of answers once they are on their way to the client; `turnout.routing.shadow` has the one that ships."""

    def answered(self, request: "InferenceRequest", result: "InferenceResult") -> None:
        """Takes note of an answer. Quick, and raises nothing."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """Which version answers, and why it does.

    Attributes:
        entry: The version; it is Ready.
        role: How it came to answer.
        epoch: Of the model's routing policy; 0 where it never had one.
        handle: Of the entry.
        recorder: Counts what the version does in that role.
        observer: Is told of the answers; None where nobody wants to know.
        lane: Queue of the version that it goes through: "" for the one that everybody shares.
        warning: What the caller should know; "" for nothing.
        memo: What protocols have worked out about the route, by a name of theirs; it goes when the route does.
    """

    entry: VersionEntry
    role: Role
    epoch: int
    handle: VersionHandle
    recorder: RoleRecorder
    observer: AnswerObserver | None = None
    lane: str = ""
    warning: str = ""
    memo: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def to(
        cls,
        entry: VersionEntry,
        role: Role,
        epoch: int = 0,
        observer: AnswerObserver | None = None,
        lane: str = "",
        warning: str = "",
    ) -> Self:
        """Makes the route to a version that is Ready."""
        handle = entry.handle
        assert handle is not None, "a version that is Ready has a handle"
        return cls(entry, role, epoch, handle, handle.recorder.role(role), observer, lane, warning)

    @property
    def part(self) -> str:
        """What a rollout counts it as: its lane, or else its role."""
        return self.lane or self.role


@dataclass(slots=True)
class InferenceRequest:
    """A decoded request.

    Attributes:
        model: The model's name, as the client wrote it.
        selector: The version selector, as the client wrote it.
        inputs: By name. Strings are object arrays of `str`; bfloat16 is `ml_dtypes.bfloat16`.
        outputs: Names of the outputs wanted, in order; empty means all, in the signature's order.
        request_id: Names the request in logs.
        routing_key: Requests with the same key meet the same version while the weights allow it; "" for none.
        baseline_only: No canary may answer.
        deadline: `time.monotonic()` after which nobody waits for the answer; None for no bound.
        arrived: `time.monotonic()` when the request came, before it was decoded.
        route: Where it goes, once that was decided; a request is routed once.
        counted: Who counts it for rollouts, and where; empty where nobody does.
        trace: Notes how it goes; None where nobody wants to know.
    """

    model: str
    selector: str
    inputs: Mapping[str, Array]
    outputs: Sequence[str] = ()
    request_id: str = ""
    routing_key: str = ""
    deadline: float | None = None
    arrived: float = field(default_factory=time.monotonic)
    baseline_only: bool = False
    route: Route | None = None
    counted: Sequence[tuple[ArmMeter, Cell]] = ()
    trace: Trace | None = None


@dataclass(slots=True)
class InferenceResult:
    """The answer to an InferenceRequest.

    Attributes:
        names: Of the outputs, in the order asked for.
        answer: Their values, and how they came about.
        route: Which version answered, and why.
    """

    names: Sequence[str]
    answer: Answer
    route: Route

    @property
    def outputs(self) -> Iterator[tuple[str, Array]]:
        """Name and value of each output, in the order asked for."""
        return zip(self.names, self.answer.outputs, strict=True)

    @property
    def light(self) -> bool:
        """Whether the outputs are few enough to be encoded on the event loop."""
        size = 0
        for array in self.answer.outputs:
            size += array.nbytes * _STRING_BYTES if array.dtype == object else array.nbytes
        return size <= _LIGHT_BYTES


class Exchange(Protocol[T_co]):
    """One request and its answer as a protocol has them."""

    @property
    def costly(self) -> bool:
        """Whether encoding takes long however small the outputs are."""
        ...

    def decode(self, call: "InferenceRequest") -> None:
        """Puts all but the envelope of the request into `call`.

        Raises:
            TurnoutError: The request is refused.
        """
        ...

    def encode(self, call: "InferenceRequest", result: InferenceResult) -> T_co:
        """Returns the answer.

        Raises:
            TurnoutError: The protocol cannot say it.
        """
        ...


class Router(Protocol):
    """Decides who answers. `turnout.routing.router` is the one that ships."""

    def route(self, model: str, selector: str, routing_key: str = "", *, baseline_only: bool = False) -> Route:
        """Returns the route of a request, which counts as one of the requests that traffic is split by.

        Raises:
            InvalidSelector: The selector does not parse.
            ModelNotFound, VersionNotFound: It parses and nothing answers it.
            NotLoaded, VersionLoading: What it names is known but cannot answer now.
            DigestMismatch: What it names was changed on disk since its publication.
        """
        ...

    def describe(self, model: str, selector: str) -> VersionEntry:
        """Returns the version that the selector names, whatever its state. Raises as `route` where there is none."""
        ...


class Inference:
    """Answers requests: asks the router, runs the version, counts what happened. Used on the event loop only.

    Attributes:
        draining: Set by `drain`; what is long-lived on a connection ends then.
    """

    def __init__(
        self,
        router: Router,
        catalog: Catalog,
        metrics: Metrics,
        access: AccessLog,
        code_of: Callable[[BaseException], str],
        conversions: ConversionThread,
    ) -> None:
        """Puts the data plane together.

        Args:
            router: Decides who answers.
            catalog: Tells which model names are real ones.
            metrics: Counts requests that reach no version.
            access: Logs requests.
            code_of: Name of the status code that an error becomes; the protocols' one table.
            conversions: Decodes and encodes what is large.
        """
        self._conversions = conversions
        self._router = router
        self._catalog = catalog
        self._metrics = metrics
        self._access = access
        self._code_of = code_of
        metrics.faults.watch("inference")
        self.draining = asyncio.Event()

    def drain(self) -> None:
        """Has what is long-lived on a connection end. No new request comes then: listeners refuse them."""
        self.draining.set()

    async def answer(self, call: InferenceRequest, exchange: Exchange[T], *, heavy: bool = False) -> T:
        """Answers one request, from its decoding to its encoding.

        Args:
            call: With its envelope filled.
            exchange: Decodes and encodes.
            heavy: What there is to decode is large.

        Raises:
            TurnoutError: It was refused, or it failed; counted and logged. Nothing else is raised.
        """
        if heavy:
            await self.decode_in_thread(call, exchange)
            result = self.run_now(call)
        else:
            result = self.begin(call, exchange)
        if result is not None and result.light and not exchange.costly:
            return self.encoded(call, result, exchange)
        return await self.finish(call, result, exchange)

    def begin(self, call: InferenceRequest, exchange: Exchange[T]) -> InferenceResult | None:
        """Decodes a request that is small, and runs it where its version is quick enough for that.

        Returns:
            What it gave; None where `finish` is still to run it.

        Raises:
            TurnoutError: As `answer`.
        """
        try:
            exchange.decode(call)
        except TurnoutError as error:
            self.refuse(call, error)
            raise
        except Exception as error:
            raise self._undecodable(call, error) from error
        return self.run_now(call)

    async def finish(self, call: InferenceRequest, result: InferenceResult | None, exchange: Exchange[T]) -> T:
        """Runs a request that `begin` did not, and encodes its answer. Raises as `answer`."""
        if result is None:
            try:
                result = await self.infer(call)
            except TurnoutError:
                raise
            except Exception as error:
                raise self._unexpected(call, error) from error
        if result.light and not exchange.costly:
            return self.encoded(call, result, exchange)
        return await self._conversions.run(self.encoded, call, result, exchange)

    def encoded(self, call: InferenceRequest, result: InferenceResult, exchange: Exchange[T]) -> T:
        """Encodes an answer. Raises as `answer`."""
        try:
            return exchange.encode(call, result)
        except TurnoutError:
            raise
        except Exception as error:
            raise self._unexpected(call, error) from error

    async def decode_in_thread(self, call: InferenceRequest, exchange: Exchange[T]) -> None:
        """Decodes a request that is large. Raises as `answer`."""
        try:
            await self._conversions.run(_decode, call, exchange)
        except TurnoutError as error:
            self.refuse(call, error)
            raise
        except Exception as error:
            raise self._undecodable(call, error) from error

    def infer_now(self, request: InferenceRequest) -> InferenceResult | None:
        """Answers `request` at once where its version is quick enough for that; None where `infer` is the way.

        Raises:
            TurnoutError: As `Router.route` and `VersionHandle.infer_now`.
        """
        route = self._route(request)
        if request.deadline is not None and request.deadline <= request.arrived:
            return None  # it waited too long on its way: `infer` refuses it, and nothing is computed
        try:
            answered = route.handle.infer_now(request.inputs, request.outputs, route.lane)
        except TurnoutError as error:
            self._failed(request, route, error)
            raise
        if answered is None:
            return None
        return self._answered(request, route, *answered)

    async def infer(self, request: InferenceRequest) -> InferenceResult:
        """Answers `request` on a runner; for one that `infer_now` left.

        Raises:
            TurnoutError: As `infer_now` and `VersionHandle.infer`.
        """
        route = request.route
        if route is None or route.handle.closing:  # it was routed, and then the version left
            route = self._route(request)
        try:
            names, answer = await route.handle.infer(request.inputs, request.outputs, request.deadline, route.lane)
        except BaseException as error:
            self._failed(request, route, error)
            raise
        return self._answered(request, route, names, answer)

    def refuse(self, request: InferenceRequest, error: TurnoutError) -> None:
        """Counts and logs a request that reached no version, such as one that could not be decoded."""
        code = self._code_of(error)
        known = request.model in self._catalog.snapshot.models
        self._metrics.unrouted(request.model if known else "", code)
        took = time.monotonic() - request.arrived
        if request.trace is not None:
            request.trace.note_failure(None, error, code, took)
        self._access.failed(request, None, code, took, error)

    def run_now(self, call: InferenceRequest) -> InferenceResult | None:
        """Runs a request that is decoded where its version is quick enough for that; else `finish` will.

        Raises:
            TurnoutError: As `answer`.
        """
        try:
            return self.infer_now(call)
        except TurnoutError:
            raise
        except Exception as error:
            raise self._unexpected(call, error) from error

    def _undecodable(self, call: InferenceRequest, error: Exception) -> ModelFailure:
        failure = self._unexpected(call, error)
        self.refuse(call, failure)
        return failure

    def _unexpected(self, call: InferenceRequest, error: Exception) -> ModelFailure:
        """Logs an error that nobody foresaw, and returns what a client may know of it."""
        self._metrics.faults.unexpected["inference"] += 1
        self._access.unexpected(call, error)
        return ModelFailure(_UNEXPECTED)

    def _route(self, request: InferenceRequest) -> Route:
        try:
            route = self._router.route(
                request.model, request.selector, request.routing_key, baseline_only=request.baseline_only
            )
        except TurnoutError as error:
            self.refuse(request, error)
            raise
        route.recorder.decisions += 1
        request.route = route
        if route.warning and _WARNED not in route.memo:
            route.memo[_WARNED] = True  # once a route and state of the world, not once a request
            self._access.warned(request, route)
        if route.handle.arms and not request.counted:
            request.counted = [(meter, meter.admit()) for meter in route.handle.arms.get(route.part, ())]
        return route

    def _answered(
        self, request: InferenceRequest, route: Route, names: Sequence[str], answer: Answer
    ) -> InferenceResult:
        now = time.monotonic()
        took = now - request.arrived
        route.recorder.answered(took, answer.queue_seconds, answer.compute_seconds)
        for meter, cell in request.counted:
            meter.answered(cell, request.routing_key, now, took, answer.batch_requests)
        if request.trace is not None:
            request.trace.note_answer(route, answer, now, took)
        if self._access.sampled():
            self._access.answered(request, route, took, answer)
        result = InferenceResult(names, answer, route)
        if route.observer is not None:
            # The protocol's handler goes on from here without a pause until it has handed the answer to gRPC.
            asyncio.get_running_loop().call_soon(route.observer.answered, request, result)
        return result

    def _failed(self, request: InferenceRequest, route: Route, error: BaseException) -> None:
        now = time.monotonic()
        took = now - request.arrived
        code = self._code_of(error)
        route.recorder.failed(code, took)
        if request.counted:
            patience = None if request.deadline is None else request.deadline - request.arrived
            failing = FailedRequest(request.inputs, request.outputs, patience)
            for meter, cell in request.counted:
                meter.failed(cell, request.routing_key, now, took, code, error, failing)
        if request.trace is not None:
            request.trace.note_failure(route, error, code, took)
        self._access.failed(request, route, code, took, error)


def _decode(call: InferenceRequest, exchange: Exchange[Any]) -> None:
    """Decodes a request whose turn has come, unless nobody waits for its answer any more."""
    if call.deadline is not None and time.monotonic() > call.deadline:
        raise DeadlineExceeded("the deadline passed before the request was decoded")
    exchange.decode(call)
