"""Metrics of authentication: refused calls by reason, and whether the policy and the issuers' keys could be read."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from turnout.telemetry.families import Family, counter, families_of, gauge


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
        limited: By the limit's name and the bound that was reached.
        unlogged: Number of refusals that were left out of the log.
    """

    enabled: bool = False
    unlogged: int = 0
    refused: defaultdict[str, int] = counter(
        "turnout_auth_refused_total", "Calls refused because of their caller, by reason.", "reason"
    )
    limited: dict[tuple[str, str], int] = counter(
        "turnout_auth_limited_total", "Calls refused because their identity exceeded a limit, by limit.",
        "limit", "bound",
    )  # fmt: skip
    callers: int = gauge("turnout_auth_callers", "Valid credentials in the cache.")
    reloads: int = counter("turnout_auth_policy_reloads_total", "Times that a changed policy file was loaded.")
    policy_failed: bool = gauge(
        "turnout_auth_policy_reload_failing",
        "1 while the policy file is invalid and the previous policy stays in force, else 0.",
    )
    keys_failed: dict[str, bool] = gauge(
        "turnout_auth_keys_failing",
        "1 while an issuer's keys cannot be fetched and the previous keys stay in use, else 0.", "issuer",
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.refused |= {str(one): 0 for one in RefusalReason}


def auth_families(recorder: AuthRecorder) -> Iterator[Family]:
    """Returns the families of one scrape."""
    if recorder.enabled:
        return families_of([recorder], AuthRecorder)
    sign_in = {str(one): recorder.refused[one] for one in (RefusalReason.SIGN_IN, RefusalReason.SIGN_IN_THROTTLED)}
    hidden = dict.fromkeys(("callers", "reloads", "policy_failed"))  # but console.token works without [auth]
    return families_of([recorder], AuthRecorder, refused=sign_in, **hidden)
