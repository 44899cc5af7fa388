"""Checks that the methods of the control service share."""

from turnout.errors import InvalidRequest
from turnout.rollout.machine.actors import check_person

_MAX_ACTOR = 256
_MAX_REASON = 1024


def check_record(actor: str, reason: str, prefix: str = "") -> None:
    """Checks the actor and the reason of a change.

    Raises:
        InvalidRequest: One of them is too long, or the actor is a name reserved for rollouts.
    """
    if len(actor) > _MAX_ACTOR:
        raise InvalidRequest.at(f"{prefix}actor", f"expected at most {_MAX_ACTOR} characters")
    check_person(actor, f"{prefix}actor")
    if len(reason) > _MAX_REASON:
        raise InvalidRequest.at(f"{prefix}reason", f"expected at most {_MAX_REASON} characters")
