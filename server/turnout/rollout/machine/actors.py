"""Actor names that are reserved for rollouts. Pure."""

from turnout.errors import InvalidRequest

_ROLLOUT = "turnout rollout"


def rollout_actor(attempt: int) -> str:
    """Returns the actor of changes that a rollout makes."""
    return f"{_ROLLOUT} {attempt}"


def is_rollout(actor: str) -> bool:
    """Returns whether this is the name of a rollout, and not of a person."""
    return actor.startswith(_ROLLOUT)


def check_person(actor: str, field: str) -> None:
    """Checks that a person does not use a rollout's name, since rollouts accept each other's changes.

    Raises:
        InvalidRequest: The name is reserved for rollouts.
    """
    if is_rollout(actor):
        raise InvalidRequest.at(field, f"names that begin with {_ROLLOUT!r} are those of rollouts; say who you are")
