"""The interface between protocols and the data plane: requests, routes and results.

    transport -> exchange (decode) -> data plane -> exchange (encode) -> transport

The data plane is in `turnout.serving.data_plane.data_plane`. An exchange is one request and its answer in terms of a
protocol; it knows nothing of sessions, queues or routes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from turnout.auth.caller import Caller
from turnout.errors import TurnoutError
from turnout.serving.batching.answer import BatchedAnswer
from turnout.serving.counting.keyed_outcomes import KeyedLog, SlotFinder
from turnout.serving.sessions.tensor import Array
from turnout.serving.versions.catalog import VersionEntry
from turnout.serving.versions.handle import VersionHandle
from turnout.telemetry.metrics.versions import RoleRecorder
from turnout.telemetry.tracing.context import SpanContext
from turnout.telemetry.tracing.trace import Operation, Trace

_LIGHT_BYTES = 256 * 1024
"""Maximum size of outputs that are encoded on the event loop, within a millisecond or two."""

_STRING_BYTES = 8
"""Cost of encoding a string, as a multiple of the cost of an eight-byte number."""

T_co = TypeVar("T_co", covariant=True)


class ServingRole(StrEnum):
    """The role in which a version answers a request."""

    PINNED = "pinned"
    BASELINE = "baseline"
    CANARY = "canary"
    SHADOW = "shadow"


class AnswerObserver(Protocol):
    """Observes answers once they are on their way to the client; implemented in `turnout.routing.shadow`."""

    def answered(self, request: "InferenceRequest", result: "InferenceResult", trace: Trace | None) -> None:
        """Records an answer. Must be quick and must not raise."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """The version that answers a request, and why.

    Attributes:
        entry: Catalog entry of the version, which is Ready.
        epoch: Epoch of the model's routing policy; 0 if it never had one.
        recorder: Counts what the version does in that role.
        observer: Observes the answers; None if there is no observer.
        lane: Queue of the version that requests go through; "" for the shared one.
        warning: Warning for the caller; "" if there is none.
        slot: Returns the slot of a routing key; None if the route does not depend on keys.
        history: Log of the version's requests with a key; None if they are not logged.
        memo: Results that protocols cache for the lifetime of the route, by a name of their choice.
    """

    entry: VersionEntry
    role: ServingRole
    epoch: int
    handle: VersionHandle
    recorder: RoleRecorder
    observer: AnswerObserver | None = None
    lane: str = ""
    warning: str = ""
    slot: Callable[[str], int] | None = None
    history: KeyedLog | None = None
    memo: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def to(
        cls,
        entry: VersionEntry,
        role: ServingRole,
        epoch: int = 0,
        observer: AnswerObserver | None = None,
        lane: str = "",
        warning: str = "",
        slots: SlotFinder | None = None,
    ) -> Self:
        """Creates a route to a Ready version; `slots` computes the slots of keys, if keys matter."""
        handle = entry.handle
        assert handle is not None, "a version that is Ready has a handle"
        recorder = handle.recorder.role(role)
        if slots is None:
            return cls(entry, role, epoch, handle, recorder, observer, lane, warning)
        history = handle.history.under(slots.salt)
        return cls(entry, role, epoch, handle, recorder, observer, lane, warning, slots.slot, history)


class InferenceRequest(NamedTuple):
    """A decoded request. A tuple, since a frozen dataclass takes three times as long to create.

    Attributes:
        model: Name of the model, as the client wrote it.
        selector: Version selector, as the client wrote it.
        inputs: Inputs by name. Strings are object arrays of `str`; bfloat16 is `ml_dtypes.bfloat16`.
        outputs: Names of the requested outputs, in order; empty means all, in the signature's order.
        routing_key: Requests with the same key are routed to the same version while the weights allow it; "" for none.
        deadline: `time.monotonic()` after which the caller no longer waits; None for no deadline.
        arrived: `time.monotonic()` when the request arrived, before it was decoded.
        baseline_only: Whether no canary may answer.
        kind: Equal for requests of numeric inputs with the same names, shapes and dtypes in the same order that want
            the same outputs, so that results can be cached by it. None if it is not known.
    """

    model: str
    selector: str
    inputs: Mapping[str, Array]
    outputs: Sequence[str] = ()
    request_id: str = ""
    routing_key: str = ""
    deadline: float | None = None
    arrived: float = 0.0
    baseline_only: bool = False
    kind: object = None


@dataclass(slots=True)
class InferenceResult:
    """The answer to an `InferenceRequest`: its outputs by the names requested, in that order, and who answered."""

    names: Sequence[str]
    answer: BatchedAnswer
    route: Route

    @property
    def outputs(self) -> Iterator[tuple[str, Array]]:
        """Name and value of each output, in the order requested."""
        return zip(self.names, self.answer.outputs, strict=True)

    @property
    def light(self) -> bool:
        """Whether the outputs are small enough to be encoded on the event loop."""
        size = 0
        for array in self.answer.outputs:
            size += array.nbytes * _STRING_BYTES if array.dtype == object else array.nbytes
        return size <= _LIGHT_BYTES


class InferenceExchange(Protocol[T_co]):
    """One request and its answer in terms of a protocol."""

    @property
    def service(self) -> str:
        """Name by which faults are counted."""
        ...

    @property
    def operation(self) -> Operation:
        """Operation that was called, as named in traces."""
        ...

    @property
    def details(self) -> tuple[tuple[str, str], ...]:
        """Further attributes of the call for traces."""
        ...

    @property
    def caller(self) -> Caller | None:
        """Identity of the caller; None if authentication is off."""
        ...

    @property
    def deadline(self) -> float | None:
        """`time.monotonic()` after which the client no longer waits, as far as it is known before decoding."""
        ...

    @property
    def heavy(self) -> bool:
        """Whether decoding takes so long that it must run in a thread."""
        ...

    @property
    def costly(self) -> bool:
        """Whether encoding takes long even if the outputs are small; known once the request is decoded."""
        ...

    def parent(self) -> SpanContext | None:
        """Returns the parent span of the request."""
        ...

    def read(self) -> None:
        """Reads the envelope of the message, unless that has been done.

        Raises:
            TurnoutError: The message is malformed or exceeds a limit.
        """
        ...

    def envelope(self) -> InferenceRequest:
        """Returns the known parts of a request that could not be decoded, without its tensors."""
        ...

    def decode(self) -> InferenceRequest:
        """Returns the decoded request. Raises TurnoutError if the request is refused."""
        ...

    def encode(self, request: InferenceRequest, result: InferenceResult) -> T_co:
        """Returns the encoded answer. Raises TurnoutError if the protocol cannot express the answer."""
        ...

    def refusal(self, request: InferenceRequest, error: TurnoutError) -> T_co:
        """Returns the client's view of an error, or raises it in the transport's form."""
        ...

    def outcome(self, error: BaseException | None) -> tuple[str | int, bool]:
        """Returns the status shown in traces, and whether the server is at fault; `error` is None for an answer."""
        ...


class Router(Protocol):
    """Chooses the version that answers. Implemented in `turnout.routing.router`."""

    def route(self, model: str, selector: str, routing_key: str = "", *, baseline_only: bool = False) -> Route:
        """Returns the route of a request, and counts the request towards the traffic split.

        Raises:
            InvalidSelector: The selector cannot be parsed.
            ModelNotFound, VersionNotFound: No model or version matches.
            NotLoaded, VersionLoading: The version exists but cannot answer now.
            DigestMismatch: The version's files have changed on disk since it was published.
        """
        ...

    def describe(self, model: str, selector: str) -> VersionEntry:
        """Returns the version that the selector names, in any state. Raises as `route` if there is none."""
        ...
