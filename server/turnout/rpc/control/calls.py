"""Who asks for a change, and why: read and checked in the same way by all methods that change something."""

from turnout.errors import InvalidRequest
from turnout.rollout.machine.actors import check_person
from turnout.routing.traffic import ChangeOrigin
from turnout_proto.v1.rollout_pb2 import RolloutChange
from turnout_proto.v1.traffic_pb2 import TrafficChange

_MAX_ACTOR = 256
_MAX_REASON = 1024


def read_change(message: TrafficChange | RolloutChange) -> ChangeOrigin:
    """Returns who asks for a change, and why. Raises as `check_record`."""
    check_record(message.actor, message.reason, "change.")
    expected = message.expected_epoch if message.HasField("expected_epoch") else None
    return ChangeOrigin(message.actor, message.reason, expected, isinstance(message, TrafficChange) and message.force)


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
