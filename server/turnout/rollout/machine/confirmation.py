"""What the confirm webhook says of a step, and how that is recorded with the rollout. Pure.

It is asked before each step and before promotion. What it has said of one is not asked again: it is recorded with the
rollout before anything is done about it, so that a restart repeats no question that was answered and skips none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from turnout.registry.manifest.json_form import JsonForm

LONGEST_REASON = 500


class Reply(StrEnum):
    """What the webhook said."""

    WAITING = "waiting"
    """Nothing yet: it could not be asked, or answered neither yes nor no."""
    GO = "go"
    """2xx."""
    VETO = "veto"
    """4xx: the rollout holds."""
    ROLLBACK = "rollback"
    """4xx with `rollback` in its body: the candidate is rolled back."""


@dataclass(frozen=True, slots=True)
class Confirmation(JsonForm):
    """Where the question stands whether a step may begin.

    Attributes:
        step: Number of the step, from 0; the plan's number of steps for promotion.
        reply: What was said.
        reason: Why, or why nothing was said, in words.
        tries: How often it was asked.
        waited_s: Active seconds since it was asked first.
    """

    step: int
    reply: Reply = Reply.WAITING
    reason: str = ""
    tries: int = 0
    waited_s: float = 0.0

    AS_LIST = True

    def __post_init__(self) -> None:
        if min(self.step, self.tries) < 0 or not 0 <= self.waited_s < math.inf:
            raise ValueError("expected the state of a confirmation")


def reply_of(status: int, body: object) -> tuple[Reply, str]:
    """Returns what an HTTP answer says, and why.

    Args:
        status: The HTTP status.
        body: JSON with `reason` and `rollback`, or text; None if it is neither.
    """
    if 200 <= status < 300:
        return Reply.GO, ""
    if status in (408, 425, 429) or not 400 <= status < 500:
        return Reply.WAITING, f"it answered {status}"
    table = body if isinstance(body, Mapping) else {}
    message = table.get("reason") if table else body
    reason = " ".join(message.split())[:LONGEST_REASON] if isinstance(message, str) else ""
    return (Reply.ROLLBACK if table.get("rollback") is True else Reply.VETO), reason or f"it answered {status}"
