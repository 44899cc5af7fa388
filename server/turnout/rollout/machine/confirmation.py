"""The confirm webhook's answer about a step, as recorded with the rollout. Pure.

The webhook is asked before each step and before promotion. Its answer is recorded with the rollout before it takes
effect, so that after a restart no question is skipped, and none that was answered is repeated.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from turnout.registry.manifest.json_form import JsonForm

LONGEST_REASON = 500


class Reply(StrEnum):
    """A reply of the webhook."""

    WAITING = "waiting"
    """No reply yet: it could not be asked, or the answer was neither yes nor no."""
    GO = "go"
    """Status 2xx: the step may begin."""
    VETO = "veto"
    """Status 4xx: the rollout is paused."""
    ROLLBACK = "rollback"
    """Status 4xx with `rollback` in its body: the candidate is rolled back."""


@dataclass(frozen=True, slots=True)
class Confirmation(JsonForm):
    """The state of the question whether a step may begin.

    Attributes:
        step: Number of the step, from 0; the plan's number of steps for promotion.
        reason: Why, or why there is no reply, in words.
        waited_s: Active seconds since it was first asked.
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
    """Returns the reply in an HTTP response, and the reason. The body is JSON with `reason` and `rollback`, or text."""
    if 200 <= status < 300:
        return Reply.GO, ""
    if status in (408, 425, 429) or not 400 <= status < 500:
        return Reply.WAITING, f"it answered {status}"
    table = body if isinstance(body, Mapping) else {}
    message = table.get("reason") if table else body
    reason = " ".join(message.split())[:LONGEST_REASON] if isinstance(message, str) else ""
    return (Reply.ROLLBACK if table.get("rollback") is True else Reply.VETO), reason or f"it answered {status}"
