"""The hierarchy of Turnout's exceptions.

    TurnoutError
    ├── InvalidRequest            the request is wrong; names the field, what was expected and what was received
    │   ├── MalformedMessage      the bytes cannot be parsed as a message
    │   ├── InvalidSelector
    │   ├── InvalidTensor
    │   ├── InputsRefused         the inputs fit the signature, but the model rejects them
    │   └── InvalidModel          the files to publish are not a valid version
    ├── NotFoundError             names the most similar existing ones
    │   ├── ModelNotFound
    │   ├── VersionNotFound
    │   └── TagNotFound
    ├── AlreadyExistsError        the version already exists with other content
    ├── Conflict                  the state that the change was based on has changed
    ├── ChangeRefused             the change would disrupt serving, or changes are frozen
    ├── NotLoaded                 the version exists, but is not loaded or about to be
    │   ├── VersionOnDemand       the version is loaded by the first request for it
    │   ├── VersionYanked         the version was yanked, and pins to it are refused
    │   └── NotTrusted            the version lacks a required signature by a trusted key
    ├── UnavailableError          try again soon
    │   ├── VersionLoading
    │   ├── StoreUnavailable      the object store or registry with the versions does not respond
    │   └── Draining
    ├── Exhausted                 a limit was reached; try again later
    │   ├── QueueFull
    │   └── MemoryBudgetExceeded
    ├── DeadlineExceededError
    ├── RequestCancelled
    ├── UnauthenticatedError      the caller presented no valid credentials
    ├── PermissionDeniedError
    ├── Unsupported
    ├── DigestMismatch            the files have changed since they were published
    ├── ModelFailure              the model failed on a request
    │   ├── ModelCrashed          the run crashed its process
    │   └── ModelTimedOut         the run exceeded its time limit
    └── ConfigError               the server or a command is configured incorrectly

The exceptions do not depend on gRPC or HTTP; `turnout.rpc.errors` maps them to status codes. A message is one sentence
that is shown to clients: it contains no path, traceback or payload.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Self

from semver import Version

_COMPARED = 64
"""Number of characters of a name that are compared with known names."""

_MOST_COMPARED = 256
"""Maximum number of known names that an unknown name is compared with. Each comparison takes about 10 us."""

MODEL_SEEN: ContextVar[Callable[[str], bool] | None] = ContextVar("MODEL_SEEN", default=None)
"""Returns whether the caller of the current task may know that a model exists; None if all models are visible."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A description of what is wrong with one field of a request.

    Attributes:
        field: Path of the field, for example `inputs[0].shape` or `version`.
        description: What was expected and what was received.
    """

    field: str
    description: str


_NO_VERSION = Version(0)


class TurnoutError(Exception):
    """The base class of all exceptions that Turnout raises deliberately.

    Attributes:
        message: Description of the error in one sentence, for the caller.
        violations: The fields at fault, if any.
        retry_after: Time in seconds after which a retry makes sense; None if a retry does not.
    """

    def __init__(
        self, message: str, *, violations: Sequence[FieldViolation] = (), retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.violations = tuple(violations)
        self.retry_after = retry_after


class InvalidRequest(TurnoutError):
    """Raised when a request is invalid, so that it cannot succeed without a change."""

    @classmethod
    def at(cls, field: str, description: str) -> Self:
        """Creates an error about one field. The message includes the field, for clients that ignore error details."""
        return cls(f"{field}: {description}", violations=[FieldViolation(field, description)])


class MalformedMessage(InvalidRequest):
    """Raised when bytes cannot be parsed as a message of the expected type."""


class InvalidSelector(InvalidRequest):
    """Raised when a version selector cannot be parsed."""


class InvalidTensor(InvalidRequest):
    """Raised when an input or a requested output does not match the model's signature."""


class InputsRefused(InvalidRequest):
    """Raised when the inputs match the signature but the model cannot process them, such as for incompatible sizes."""


class InvalidModel(InvalidRequest):
    """Raised when the files to publish are not a valid version of a model."""


class NotFoundError(TurnoutError):
    """Raised when the named object does not exist."""


class ModelNotFound(NotFoundError):
    """Raised when a model does not exist."""

    @classmethod
    def named(cls, name: str, known: Sequence[str]) -> "ModelNotFound":
        """Creates the error for the model `name`, with the most similar of the `known` names."""
        if (seen := MODEL_SEEN.get()) is not None:
            known = [one for one in known if seen(one)]
        fault = f"no model is named {name[:64]!r}"
        if "@" in name:
            fault += ": the version goes into an option or field of its own"
        return cls(f"{fault}; {_nearest(name.partition('@')[0], known, 'models')}")


class VersionNotFound(NotFoundError):
    """Raised when no version of a model matches the selector."""

    @classmethod
    def of(cls, model: str, selector: str, known: Sequence[str]) -> "VersionNotFound":
        """Creates the error for `selector` on `model`, with the most similar of the `known` versions and tags."""
        wanted = f"no version of {model} is {selector[:256]!r}" if selector else f"{model} has no released version"
        return cls(f"{wanted}; {_nearest(selector, known, 'versions')}")


class TagNotFound(NotFoundError):
    """Raised when a model does not have a tag."""

    @classmethod
    def of(cls, model: str, tag: str, known: Sequence[str]) -> "TagNotFound":
        """Creates the error for `tag` on `model`, with the most similar of the `known` tags."""
        return cls(f"{model} has no tag {tag[:64]!r}; {_nearest(tag, known, 'tags')}")


class AlreadyExistsError(TurnoutError):
    """Raised when something already exists, such as a version with other content, since versions are immutable."""


class Conflict(TurnoutError):
    """Raised when the state that a change was based on has changed in the meantime."""


class ChangeRefused(TurnoutError):
    """Raised when a change would disrupt serving, or changes are frozen. Nothing was changed."""


class NotLoaded(TurnoutError):
    """Raised when a version exists, but is neither loaded nor being loaded."""


class VersionOnDemand(NotLoaded):
    """Raised when a version is not in memory, but would be loaded by the first request for it.

    Attributes:
        model: Name of the model.
        version: The version.
    """

    def __init__(self, message: str, model: str = "", version: Version = _NO_VERSION) -> None:
        super().__init__(message)
        self.model = model
        self.version = version

    @classmethod
    def of(cls, model: str, version: Version) -> Self:
        """Creates the error for a version."""
        return cls(f"{model} {version} is not in memory: the first request for it loads it", model, version)


class VersionYanked(NotLoaded):
    """Raised when a version was yanked, and this server refuses pins to yanked versions."""


class NotTrusted(NotLoaded):
    """Raised when a version has no signature by a trusted key, and this server requires one."""


class UnavailableError(TurnoutError):
    """Raised when a request cannot be served at the moment, but is likely to succeed soon."""


class VersionLoading(UnavailableError):
    """Raised when a version is being loaded."""


class StoreUnavailable(UnavailableError):
    """Raised when the object store or registry that contains the versions does not respond or rejects a request."""


class Draining(UnavailableError):
    """Raised when the server or the version accepts no new requests."""


class Exhausted(TurnoutError):
    """Raised when a resource limit was reached. Processing of the request was not started."""


class QueueFull(Exhausted):
    """Raised when a version's queue has reached its limit of requests or bytes."""


class MemoryBudgetExceeded(Exhausted):
    """Raised when a memory limit was reached."""


class NoRoom(MemoryBudgetExceeded):
    """Raised when a version is not loaded because it does not fit into the memory budget."""


class RoomInUse(NoRoom):
    """Raised when it would fit once versions that are in use can be unloaded."""


class DeadlineExceededError(TurnoutError):
    """Raised when a request's deadline passed before its response was ready. The request may never have been run."""


class RequestCancelled(TurnoutError):
    """Raised when the caller cancelled the request."""


class UnauthenticatedError(TurnoutError):
    """Raised when the caller presented no credentials, or credentials that are not valid."""


class PermissionDeniedError(TurnoutError):
    """Raised when the caller lacks a permission, or when a listener does not offer an operation that another may."""


class Unsupported(TurnoutError):
    """Raised when a request uses a part of a protocol that Turnout does not support."""


class DigestMismatch(TurnoutError):
    """Raised when a version's files are not those that were published. Such a version is never served."""


class ModelFailure(TurnoutError):
    """Raised when the model failed on a request."""


class ModelCrashed(ModelFailure):
    """Raised when a run crashed the process that it ran in."""


class ModelTimedOut(ModelFailure):
    """Raised when a run exceeded its time limit and was terminated."""


class ConfigError(TurnoutError):
    """Raised when the server or a command is configured incorrectly."""


def _nearest(name: str, known: Sequence[str], noun: str) -> str:
    """Returns part of a sentence with the `known` names that are most similar to `name`, or some if none is similar.

    The name and the number of known names are limited, because the comparison runs on the event loop, and its cost
    grows with the product of both lengths.
    """
    if not known:
        return f"there are no {noun}"
    cut = name[:_COMPARED].lower()
    # Names with the same first two characters first, otherwise in their given order. Case is ignored.
    likely = sorted(known, key=lambda other: other[:2].lower() != cut[:2])[:_MOST_COMPARED]
    by_folded = {other.lower(): other for other in reversed(likely)}
    folded = get_close_matches(cut, list(reversed(by_folded)), n=3, cutoff=0.5)
    near = [by_folded[one] for one in folded]
    shown = near or known[:5]
    more = ", ..." if len(shown) < len(known) else ""
    return f"{'nearest' if near and more else 'there are'}: {', '.join(shown)}{more}"


def kind_of(error: BaseException) -> str:
    """Returns the name of an error in spans and in JSON, which is the name of the corresponding client exception."""
    name = type(error).__name__
    named = isinstance(error, TurnoutError) and type(error) not in (TurnoutError, ConfigError)
    return name.removesuffix("Error") if named else name
