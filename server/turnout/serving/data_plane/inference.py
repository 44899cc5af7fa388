"""What stands between protocols and the data plane: requests, their routes, and their answers.

    transport -> exchange (decode) -> data plane -> exchange (encode) -> transport

`turnout.serving.data_plane.data_plane` is the data plane. An exchange is one request and its answer in the words of a
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
"""Outputs of this size are encoded within a millisecond or two."""

_STRING_BYTES = 8
"""A string takes as long to encode as so many numbers of eight bytes."""

T_co = TypeVar("T_co", covariant=True)


class ServingRole(StrEnum):
    """How a version came to answer."""

    PINNED = "pinned"
    BASELINE = "baseline"
    CANARY = "canary"
    SHADOW = "shadow"


class AnswerObserver(Protocol):
    """Is told of answers once they are on their way to the client; `turnout.routing.shadow` has the one that ships."""

    def answered(self, request: "InferenceRequest", result: "InferenceResult", trace: Trace | None) -> None:
        """Takes note of an answer. Quick, and raises nothing."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """Which version answers, and why it does.

    Attributes:
        entry: The version; it is Ready.
        role: How it came to answer.
        epoch: Of the model's routing policy; 0 if it never had one.
        handle: Of the entry.
        recorder: Counts what the version does in that role.
        observer: Is told of the answers; None if nobody wants to know.
        lane: Queue of the version that it goes through: "" for the one that everybody shares.
        warning: What the caller should know; "" for nothing.
        slot: Returns the slot of a routing key; None if keys play no part in the route.
        history: Where the version's requests with a key are logged by slot; None if they are not.
        memo: What protocols have worked out about the route, by a name of theirs; it goes when the route does.
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
        """Makes the route to a version that is Ready; `slots` finds those of keys, if these play a part."""
        handle = entry.handle
        assert handle is not None, "a version that is Ready has a handle"
        recorder = handle.recorder.role(role)
        if slots is None:
            return cls(entry, role, epoch, handle, recorder, observer, lane, warning)
        history = handle.history.under(slots.salt)
        return cls(entry, role, epoch, handle, recorder, observer, lane, warning, slots.slot, history)


class InferenceRequest(NamedTuple):
    """A decoded request. A tuple, since a frozen dataclass takes three times as long to make.

    Attributes:
        model: The model's name, as the client wrote it.
        selector: The version selector, as the client wrote it.
        inputs: By name. Strings are object arrays of `str`; bfloat16 is `ml_dtypes.bfloat16`.
        outputs: Names of the outputs wanted, in order; empty means all, in the signature's order.
        request_id: Names the request in logs.
        routing_key: Requests with the same key meet the same version while the weights allow it; "" for none.
        deadline: `time.monotonic()` after which nobody waits for the answer; None for no bound.
        arrived: `time.monotonic()` when the request came, before it was decoded.
        baseline_only: No canary may answer.
        kind: The same for requests of numbers whose inputs have the same names, shapes and dtypes in the same order,
            and that want the same outputs: what is worked out about these holds for the next. None if it is not known.
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
    """The answer to an InferenceRequest.

    Attributes:
        names: Of the outputs, in the order asked for.
        answer: Their values, and how they came about.
        route: Which version answered, and why.
    """

    names: Sequence[str]
    answer: BatchedAnswer
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


class InferenceExchange(Protocol[T_co]):
    """One request and its answer in the words of a protocol."""

    @property
    def service(self) -> str:
        """What faults are counted by."""
        ...

    @property
    def operation(self) -> Operation:
        """What was called, as traces name it."""
        ...

    @property
    def details(self) -> tuple[tuple[str, str], ...]:
        """What else traces tell of the call."""
        ...

    @property
    def caller(self) -> Caller | None:
        """Who calls; None if nobody asked."""
        ...

    @property
    def deadline(self) -> float | None:
        """`time.monotonic()` after which the client waits no longer, as far as that is known before decoding."""
        ...

    @property
    def heavy(self) -> bool:
        """Whether decoding takes so long that a thread is to do it."""
        ...

    @property
    def costly(self) -> bool:
        """Whether encoding takes long however small the outputs are; known once it is decoded."""
        ...

    def parent(self) -> SpanContext | None:
        """Returns the span that the request is part of."""
        ...

    def read(self) -> None:
        """Reads what came as far as its envelope, if that was not done yet.

        Raises:
            TurnoutError: It is no message of the protocol, or is made of more than it may be.
        """
        ...

    def envelope(self) -> InferenceRequest:
        """Returns what is known of a request that could not be decoded, without its tensors."""
        ...

    def decode(self) -> InferenceRequest:
        """Returns the request.

        Raises:
            TurnoutError: It is refused.
        """
        ...

    def encode(self, request: InferenceRequest, result: InferenceResult) -> T_co:
        """Returns the answer.

        Raises:
            TurnoutError: The protocol cannot say it.
        """
        ...

    def refusal(self, request: InferenceRequest, error: TurnoutError) -> T_co:
        """Returns what the client is told of an error, or raises it as the transport has it."""
        ...

    def outcome(self, error: BaseException | None) -> tuple[str | int, bool]:
        """Returns the status that traces show, and whether the server is at fault; None means an answer."""
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
        """Returns the version that the selector names, whatever its state. Raises as `route` if there is none."""
        ...
