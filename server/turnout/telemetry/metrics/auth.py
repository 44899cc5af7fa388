"""What is counted of callers: who was refused and why, and whether what says so could be read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from turnout.telemetry.families import Family


class RefusalReason(StrEnum):
    """Why a call was refused."""

    NO_CREDENTIAL = "no_credential"
    """It needs one."""
    BAD_CREDENTIAL = "bad_credential"
    """What came proves nothing: unknown, expired, revoked, or of somebody who is not believed."""
    DENIED = "denied"
    """Whoever it is may not do that."""
    ENDED = "ended"
    """A stream whose caller's time was up, or whose credential was revoked."""
    SIGN_IN = "sign_in"
    """A sign-in to the console with something that is not a token."""
    SIGN_IN_THROTTLED = "sign_in_throttled"
    """A sign-in that came too soon after those that failed."""


@dataclass(slots=True)
class AuthRecorder:
    """What is counted of callers; nothing is shown where `[auth]` is not enabled.

    Attributes:
        enabled: Whether calls have to prove who makes them.
        refused: Calls, by why.
        limited: Calls, by name of the limit and which of its bounds was met.
        callers: Credentials that are remembered.
        reloads: Times that a changed policy file came into force.
        policy_failed: The policy file cannot be used, and the policy before is in force.
        keys_failed: By name of an issuer: its keys could not be fetched the last time.
        unlogged: Refusals whose lines were left out of the log.
    """

    enabled: bool = False
    refused: dict[str, int] = field(default_factory=lambda: {str(one): 0 for one in RefusalReason})
    limited: dict[tuple[str, str], int] = field(default_factory=dict)
    callers: int = 0
    reloads: int = 0
    policy_failed: bool = False
    keys_failed: dict[str, bool] = field(default_factory=dict)
    unlogged: int = 0


def auth_families(recorder: AuthRecorder) -> Iterator[Family]:
    """Returns the families of one scrape."""
    enabled = recorder.enabled
    sign_in = {
        str(RefusalReason.SIGN_IN),
        str(RefusalReason.SIGN_IN_THROTTLED),
    }  # the console's own token needs no [auth]
    yield Family(
        "turnout_auth_refused_total", "counter", "Calls refused for who makes them, by why.",
        [({"reason": reason}, float(n)) for reason, n in recorder.refused.items() if enabled or reason in sign_in],
    )  # fmt: skip
    yield Family(
        "turnout_auth_limited_total", "counter", "Calls refused since their identity makes too many, by limit.",
        [({"limit": name, "bound": bound}, float(count)) for (name, bound), count in recorder.limited.items()],
    )  # fmt: skip
    yield Family(
        "turnout_auth_callers", "gauge", "Credentials that proved to be good and are remembered.",
        [({}, float(recorder.callers))] if enabled else [],
    )  # fmt: skip
    yield Family(
        "turnout_auth_policy_reloads_total", "counter", "Times that a changed policy file came into force.",
        [({}, float(recorder.reloads))] if enabled else [],
    )  # fmt: skip
    yield Family(
        "turnout_auth_policy_reload_failing", "gauge",
        "1 while the policy file cannot be used, and what it held before is in force.",
        [({}, float(recorder.policy_failed))] if enabled else [],
    )  # fmt: skip
    yield Family(
        "turnout_auth_keys_failing", "gauge",
        "1 while an issuer's keys cannot be fetched, and those before are in force.",
        [({"issuer": issuer}, float(failed)) for issuer, failed in recorder.keys_failed.items()],
    )  # fmt: skip
