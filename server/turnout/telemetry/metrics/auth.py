"""Metrics of callers: refusals and their reasons, and whether the policy and keys could be read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from turnout.telemetry.families import Family


class RefusalReason(StrEnum):
    """Why a call was refused."""

    NO_CREDENTIAL = "no_credential"
    """It has no credential, and needs one."""
    BAD_CREDENTIAL = "bad_credential"
    """Its credential is unknown, expired, revoked, or from an untrusted issuer."""
    DENIED = "denied"
    """The caller may not do that."""
    ENDED = "ended"
    """A stream whose caller's credential expired or was revoked."""
    SIGN_IN = "sign_in"
    """A sign-in to the console with an invalid token."""
    SIGN_IN_THROTTLED = "sign_in_throttled"
    """A sign-in too soon after failed ones."""


@dataclass(slots=True)
class AuthRecorder:
    """Counts about callers; not exposed if `[auth]` is not enabled.

    Attributes:
        enabled: Whether calls need credentials.
        refused: Calls, by reason.
        limited: Calls, by the limit's name and the bound that was reached.
        callers: Credentials that are remembered.
        reloads: Number of times that a changed policy file came into force.
        policy_failed: Whether the policy file is invalid, so that the previous policy is in force.
        keys_failed: By name of an issuer: whether its keys could not be fetched the last time.
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
