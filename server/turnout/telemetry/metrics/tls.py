"""Metrics of the listeners' certificates."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from turnout.telemetry.families import Family


@dataclass(slots=True)
class TlsRecorder:
    """Counts about certificates, by listener; plain-text listeners are left out.

    Attributes:
        expires: When the certificate in force expires, in seconds since 1970.
        reloads: Number of times that changed files came into force.
        failed: Whether the present files are invalid, so that earlier ones are in force.
    """

    expires: dict[str, float] = field(default_factory=dict)
    reloads: dict[str, int] = field(default_factory=dict)
    failed: dict[str, bool] = field(default_factory=dict)


def tls_families(recorder: TlsRecorder) -> Iterator[Family]:
    """Returns the families of one scrape."""
    yield Family(
        "turnout_tls_certificate_expiry_timestamp_seconds", "gauge",
        "When the certificate that a listener shows, or an intermediate one beside it, ends.",
        [({"listener": listener}, at) for listener, at in recorder.expires.items()],
    )  # fmt: skip
    yield Family(
        "turnout_tls_reloads_total", "counter", "Times that a listener's changed certificate files came into force.",
        [({"listener": listener}, float(count)) for listener, count in recorder.reloads.items()],
    )  # fmt: skip
    yield Family(
        "turnout_tls_reload_failing", "gauge",
        "1 while a listener's certificate files cannot be used, and what they held before is in force.",
        [({"listener": listener}, float(failed)) for listener, failed in recorder.failed.items()],
    )  # fmt: skip
