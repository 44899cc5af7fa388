"""The data plane that every protocol shares: one request in, one answer out.

This is the narrow port behind which the engine lives: protocols hand in decoded tensors and get tensors back, and know
nothing of sessions, queues or routes.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from turnout.errors import Draining, TurnoutError
from turnout.serving.batcher import Answer
from turnout.serving.catalog import Catalog, VersionEntry
from turnout.serving.handle import VersionHandle
from turnout.serving.tensor import Array
from turnout.telemetry.logging import AccessLog
from turnout.telemetry.metrics import Metrics


class Role(StrEnum):
    """How a version came to answer."""

    PINNED = "pinned"
    BASELINE = "baseline"
    CANARY = "canary"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Route:
    """Which version answers, and why it does.

    Attributes:
        entry: The version.
        role: How it came to answer.
        epoch: Epoch of the policy that decided; 0 where the model has none.
    """

    entry: VersionEntry
    role: Role
    epoch: int = 0


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
        deadline: `time.monotonic()` after which nobody waits for the answer; None for no bound.
        arrived: `time.monotonic()` when the request came, before it was decoded.
    """

    model: str
    selector: str
    inputs: Mapping[str, Array]
    outputs: Sequence[str] = ()
    request_id: str = ""
    routing_key: str = ""
    deadline: float | None = None
    arrived: float = field(default_factory=time.monotonic)


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


class Router(Protocol):
    """Decides who answers. `turnout.routing.router` is the one that ships."""

    def route(self, model: str, selector: str, routing_key: str) -> Route:
        """Returns the route of a request.

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
    ) -> None:
        """Puts the data plane together.

        Args:
            router: Decides who answers.
            catalog: Tells which model names are real ones.
            metrics: Counts requests that reach no version.
            access: Logs requests.
            code_of: Name of the status code that an error becomes; the protocols' one table.
        """
        self._router = router
        self._catalog = catalog
        self._metrics = metrics
        self._access = access
        self._code_of = code_of
        self._draining = False
        self.draining = asyncio.Event()

    def drain(self) -> None:
        """Refuses new requests from now on; those under way are finished."""
        self._draining = True
        self.draining.set()

    def infer_now(self, request: InferenceRequest) -> InferenceResult | None:
        """Answers `request` at once where its version is quick enough for that; None where `infer` is the way.

        Raises:
            TurnoutError: As `Router.route` and `VersionHandle.infer_now`.
        """
        route = self._route(request)
        handle = route.entry.handle
        assert handle is not None, "a router answers with versions that are ready"
        try:
            answered = handle.infer_now(request.inputs, request.outputs)
        except TurnoutError as error:
            self._failed(request, route, handle, error)
            raise
        if answered is None:
            return None
        return self._answered(request, route, handle, *answered)

    async def infer(self, request: InferenceRequest) -> InferenceResult:
        """Answers `request`, at once or on a runner.

        Raises:
            TurnoutError: As `infer_now` and `VersionHandle.infer`.
        """
        result = self.infer_now(request)
        if result is not None:
            return result
        route = self._route(request)
        handle = route.entry.handle
        assert handle is not None, "a router answers with versions that are ready"
        try:
            names, answer = await handle.infer(request.inputs, request.outputs, request.deadline)
        except BaseException as error:
            self._failed(request, route, handle, error)
            raise
        return self._answered(request, route, handle, names, answer)

    def refuse(self, request: InferenceRequest, error: TurnoutError) -> None:
        """Counts and logs a request that reached no version, such as one that could not be decoded."""
        code = self._code_of(error)
        known = request.model in self._catalog.snapshot.models
        self._metrics.unrouted(request.model if known else "", code)
        self._access.failed(request, None, code, time.monotonic() - request.arrived, error)

    def _route(self, request: InferenceRequest) -> Route:
        if self._draining:
            refusal = Draining("the server is stopping", retry_after=1.0)
            self.refuse(request, refusal)
            raise refusal
        try:
            return self._router.route(request.model, request.selector, request.routing_key)
        except TurnoutError as error:
            self.refuse(request, error)
            raise

    def _answered(
        self,
        request: InferenceRequest,
        route: Route,
        handle: VersionHandle,
        names: Sequence[str],
        answer: Answer,
    ) -> InferenceResult:
        took = time.monotonic() - request.arrived
        recorder = handle.recorder
        (recorder.roles.get(route.role) or recorder.role(route.role)).answered(
            took, answer.queue_seconds, answer.compute_seconds
        )
        if self._access.sampled():
            self._access.answered(request, route, took, answer)
        return InferenceResult(names, answer, route)

    def _failed(self, request: InferenceRequest, route: Route, handle: VersionHandle, error: BaseException) -> None:
        took = time.monotonic() - request.arrived
        code = self._code_of(error)
        handle.recorder.role(route.role).failed(code, took)
        self._access.failed(request, route, code, took, error)
