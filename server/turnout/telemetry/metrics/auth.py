"""Metrics of authentication: refused calls by reason, and whether the policy and the issuers' keys could be read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from turnout.telemetry.families import Family


class RefusalReason(StrEnum):
    """Why a call was refused."""

    NO_CREDENTIAL = "no_credential"
    """The call has no credential but needs one."""
    BAD_CREDENTIAL = "bad_credential"
    """The credential is unknown, expired, revoked, or from an untrusted issuer."""
    DENIED = "denied"
    """The caller lacks permission."""
    ENDED = "ended"
    """A stream was ended because the caller's credential expired or was revoked."""
    SIGN_IN = "sign_in"
    """A sign-in to the console used an invalid token."""
    SIGN_IN_THROTTLED = "sign_in_throttled"
    """A sign-in to the console came too soon after failed ones."""


@dataclass(slots=True)
class AuthRecorder:
    """Counts of authentication. Most of them are exposed only if `[auth]` is enabled.

    Attributes:
        refused: Number of refused calls, by reason.
        limited: Number of calls refused by a limit, by the limit's name and the bound that was reached.
        callers: Number of cached valid credentials.
        reloads: Number of times that a changed policy file was loaded.
        policy_failed: Whether the policy file is invalid, so that the previous policy stays in force.
        keys_failed: Whether the last attempt to fetch an issuer's keys failed, by the issuer's name.
        unlogged: Number of refusals that were left out of the log.
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
    sign_in = {str(RefusalReason.SIGN_IN), str(RefusalReason.SIGN_IN_THROTTLED)}  # console.token works without [auth]
    yield Family(
        "turnout_auth_refused_total", "counter", "Calls refused because of their caller, by reason.",
        [({"reason": reason}, float(n)) for reason, n in recorder.refused.items() if enabled or reason in sign_in],
    )  # fmt: skip
    yield Family(
        "turnout_auth_limited_total", "counter", "Calls refused because their identity exceeded a limit, by limit.",
        [({"limit": name, "bound": bound}, float(count)) for (name, bound), count in recorder.limited.items()],
    )  # fmt: skip
    yield Family(
        "turnout_auth_callers", "gauge", "Valid credentials in the cache.",
        [({}, float(recorder.callers))] if enabled else [],
    )  # fmt: skip
    yield Family(
        "turnout_auth_policy_reloads_total", "counter", "Times that a changed policy file was loaded.",
        [({}, float(recorder.reloads))] if enabled else [],
    )  # fmt: skip
    yield Family(
        "turnout_auth_policy_reload_failing", "gauge",
        "1 while the policy file is invalid and the previous policy stays in force, else 0.",
        [({}, float(recorder.policy_failed))] if enabled else [],
    )  # fmt: skip
    yield Family(
        "turnout_auth_keys_failing", "gauge",
        "1 while an issuer's keys cannot be fetched and the previous keys stay in use, else 0.",
        [({"issuer": issuer}, float(failed)) for issuer, failed in recorder.keys_failed.items()],
    )  # fmt: skip
