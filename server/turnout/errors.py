"""What can go wrong, in one tree.

    TurnoutError
    ├── InvalidRequest            the caller's fault; says which field, what was expected and what came
    │   ├── MalformedMessage      bytes that are no message
    │   ├── InvalidSelector
    │   ├── InvalidTensor
    │   ├── InputsRefused         the signature takes the inputs, and the model does not
    │   └── InvalidModel          what was to be published is not fit to be
    ├── NotFoundError             names the nearest that exist
    │   ├── ModelNotFound
    │   ├── VersionNotFound
    │   └── TagNotFound
    ├── AlreadyExistsError        other content stands under that version
    ├── Conflict                  what the change was based on has changed meanwhile
    ├── ChangeRefused             the change would harm what is served, or changes are frozen
    ├── NotLoaded                 known, but not in service, and nothing is about to change that
    │   ├── VersionOnDemand       not in memory: the first request for it loads it
    │   ├── VersionYanked         withdrawn, and pins to it are refused
    │   └── NotTrusted            not signed by a key that is trusted, where that is required
    ├── UnavailableError          try again soon
    │   ├── VersionLoading
    │   ├── StoreUnavailable      the object store or registry that versions live in does not answer
    │   └── Draining
    ├── Exhausted                 a bound was met; try again later
    │   ├── QueueFull
    │   └── MemoryBudgetExceeded
    ├── DeadlineExceededError
    ├── RequestCancelled
    ├── UnauthenticatedError      nobody knows who asks, or what they show proves nothing
    ├── PermissionDeniedError
    ├── Unsupported
    ├── DigestMismatch            bytes changed since they were published
    ├── ModelFailure              the model raised
    │   ├── ModelCrashed          it took the process down that it ran in
    │   └── ModelTimedOut         its run was ended
    └── ConfigError               the server or a command was set up wrongly

No error here knows of gRPC or HTTP: `turnout.rpc.errors` is the one table to status codes. A message is one sentence
that a client may read: it holds no path, no traceback and no payload.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Self

from semver import Version

_COMPARED = 64
"""Characters of a name that are compared with the known ones; the longest name of a model has 63."""

_MOST_COMPARED = 256
"""Known names that an unknown one is compared with: some 10 us each."""

MODEL_SEEN: ContextVar[Callable[[str], bool] | None] = ContextVar("MODEL_SEEN", default=None)
"""Tells whether the caller of the task that runs may know of a model; None where everybody may know of every one."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field of a request.

    Attributes:
        field: Path of the field, for example `inputs[0].shape` or `version`.
        description: What was expected and what came.
    """

    field: str
    description: str


_NO_VERSION = Version(0)


class TurnoutError(Exception):
    """The root of all errors that Turnout raises on purpose.

    Attributes:
        message: One sentence for the caller.
        violations: The fields at fault, if any.
        retry_after: Seconds after which trying again makes sense; None where it does not.
    """

    def __init__(
        self, message: str, *, violations: Sequence[FieldViolation] = (), retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.violations = tuple(violations)
        self.retry_after = retry_after


class InvalidRequest(TurnoutError):
    """The request can never succeed as it is."""

    @classmethod
    def at(cls, field: str, description: str) -> Self:
        """Makes an error about one field; the message names it too, for clients that read no details."""
        return cls(f"{field}: {description}", violations=[FieldViolation(field, description)])


class MalformedMessage(InvalidRequest):
    """The bytes that came are no message of the type expected."""


class InvalidSelector(InvalidRequest):
    """A version selector that does not parse; it is never guessed at."""


class InvalidTensor(InvalidRequest):
    """An input or requested output that the model's signature does not have, or not so."""


class InputsRefused(InvalidRequest):
    """Inputs that fit the signature and that the model cannot run on: sizes that do not go together, say."""


class InvalidModel(InvalidRequest):
    """What was to be published is not a valid version of a model."""


class NotFoundError(TurnoutError):
    """Nothing goes by that name."""


class ModelNotFound(NotFoundError):
    """No model goes by that name."""

    @classmethod
    def named(cls, name: str, known: Sequence[str]) -> "ModelNotFound":
        """Makes the error for the model `name`, with the nearest of the `known` names."""
        if (seen := MODEL_SEEN.get()) is not None:
            known = [one for one in known if seen(one)]
        return cls(f"no model is named {name[:64]!r}; {_nearest(name, known, 'models')}")


class VersionNotFound(NotFoundError):
    """No version of the model answers the selector."""

    @classmethod
    def of(cls, model: str, selector: str, known: Sequence[str]) -> "VersionNotFound":
        """Makes the error for `selector` on `model`, with the nearest of the `known` versions and tags."""
        wanted = f"no version of {model} is {selector[:256]!r}" if selector else f"{model} has no released version"
        return cls(f"{wanted}; {_nearest(selector, known, 'versions')}")


class TagNotFound(NotFoundError):
    """The model has no such tag."""

    @classmethod
    def of(cls, model: str, tag: str, known: Sequence[str]) -> "TagNotFound":
        """Makes the error for `tag` on `model`, with the nearest of the `known` tags."""
        return cls(f"{model} has no tag {tag[:64]!r}; {_nearest(tag, known, 'tags')}")


class AlreadyExistsError(TurnoutError):
    """A version is immutable: other content stands under it already."""


class Conflict(TurnoutError):
    """What the change was based on has changed meanwhile; look again, and decide anew."""


class ChangeRefused(TurnoutError):
    """The change would harm what is served, or changes are frozen; nothing was changed."""


class NotLoaded(TurnoutError):
    """The version is known, but not in service, and nothing is about to change that."""


class VersionOnDemand(NotLoaded):
    """The version is not in memory, and is loaded once a request asks for it.

    Attributes:
        model: Its model.
        version: Which.
    """

    def __init__(self, message: str, model: str = "", version: Version = _NO_VERSION) -> None:
        super().__init__(message)
        self.model = model
        self.version = version

    @classmethod
    def of(cls, model: str, version: Version) -> Self:
        """Returns the error of one version."""
        return cls(f"{model} {version} is not in memory: the first request for it loads it", model, version)


class VersionYanked(NotLoaded):
    """The version was withdrawn, and this server refuses pins to such."""


class NotTrusted(NotLoaded):
    """The version has no signature by a key that is trusted, and this server requires one."""


class UnavailableError(TurnoutError):
    """Not now; the same request may well succeed soon."""


class VersionLoading(UnavailableError):
    """The version is on its way into service."""


class StoreUnavailable(UnavailableError):
    """The object store or registry that versions live in does not answer, or refuses what it is asked."""


class Draining(UnavailableError):
    """The server or the version takes no new requests."""


class Exhausted(TurnoutError):
    """A bound on a resource was met; the request was not begun."""


class QueueFull(Exhausted):
    """The version's queue holds as many requests or bytes as it may."""


class MemoryBudgetExceeded(Exhausted):
    """A memory limit was met."""


class DeadlineExceededError(TurnoutError):
    """The request's deadline passed before its answer was there; it may never have been computed."""


class RequestCancelled(TurnoutError):
    """The caller gave the request up."""


class UnauthenticatedError(TurnoutError):
    """Nobody knows who asks, or what they show proves nothing."""


class PermissionDeniedError(TurnoutError):
    """Whoever asks may not; or the listener that was asked does not do this, and another may."""


class Unsupported(TurnoutError):
    """A part of a protocol that Turnout does not speak."""


class DigestMismatch(TurnoutError):
    """A version's bytes are not those that were published; it is never served."""


class ModelFailure(TurnoutError):
    """The model raised on this request."""


class ModelCrashed(ModelFailure):
    """The run took the process down that it ran in."""


class ModelTimedOut(ModelFailure):
    """The run took longer than it may and was ended."""


class ConfigError(TurnoutError):
    """The server, or a command, was set up wrongly."""


def _nearest(name: str, known: Sequence[str], noun: str) -> str:
    """Says which of the `known` names come nearest to `name`, in half a sentence.

    Both sides are cut: the comparison takes time with the product of their lengths, on the event loop.
    """
    if not known:
        return f"there are no {noun}"
    cut = name[:_COMPARED].lower()
    # Stable: else in their order. By lower case: nobody means another model by another case.
    likely = sorted(known, key=lambda other: other[:2].lower() != cut[:2])[:_MOST_COMPARED]
    by_folded = {other.lower(): other for other in reversed(likely)}
    folded = get_close_matches(cut, list(reversed(by_folded)), n=3, cutoff=0.5)
    near = [by_folded[one] for one in folded] or list(known[:5])
    more = "" if len(near) == len(known) else ", ..."
    return f"{'nearest' if more else 'there are'}: {', '.join(near)}{more}"


def kind_of(error: BaseException) -> str:
    """Returns what an error is called in spans and in JSON: the name of the client's error of the same status."""
    name = type(error).__name__
    named = isinstance(error, TurnoutError) and type(error) not in (TurnoutError, ConfigError)
    return name.removesuffix("Error") if named else name
