"""The actor names of rollouts, which no person may use. Pure."""

from turnout.errors import InvalidRequest

_ROLLOUT = "turnout rollout"


def rollout_actor(attempt: int) -> str:
    """Returns who changes the traffic for a rollout."""
    return f"{_ROLLOUT} {attempt}"


def is_rollout(actor: str) -> bool:
    """Tells whether a rollout, and no person, goes by this name."""
    return actor.startswith(_ROLLOUT)


def check_person(actor: str, field: str) -> None:
    """Checks that a person does not use a rollout's name: rollouts accept each other's changes.

    Args:
        actor: Who asks.
        field: Where that was said.

    Raises:
        InvalidRequest: It is a rollout's name.
    """
    if is_rollout(actor):
        raise InvalidRequest.at(field, f"names that begin with {_ROLLOUT!r} are those of rollouts; say who you are")
