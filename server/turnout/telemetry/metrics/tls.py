"""Metrics of the listeners' certificates."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from turnout.telemetry.families import Family


@dataclass(slots=True)
class TlsRecorder:
    """State of the certificates, by listener, without listeners that use plain text.

    Attributes:
        expires: When the certificate in use expires, in seconds since 1970.
        reloads: Number of times that changed files were loaded.
        failed: Whether the current files are invalid, so that the previous certificate stays in use.
    """

    expires: dict[str, float] = field(default_factory=dict)
    reloads: dict[str, int] = field(default_factory=dict)
    failed: dict[str, bool] = field(default_factory=dict)


def tls_families(recorder: TlsRecorder) -> Iterator[Family]:
    """Returns the families of one scrape."""
    yield Family(
        "turnout_tls_certificate_expiry_timestamp_seconds", "gauge",
        "When the certificate of a listener, or one of its intermediate certificates, expires.",
        [({"listener": listener}, at) for listener, at in recorder.expires.items()],
    )  # fmt: skip
    yield Family(
        "turnout_tls_reloads_total", "counter", "Times that a listener's changed certificate files were loaded.",
        [({"listener": listener}, float(count)) for listener, count in recorder.reloads.items()],
    )  # fmt: skip
    yield Family(
        "turnout_tls_reload_failing", "gauge",
        "1 while a listener's certificate files are invalid and the previous certificate stays in use, else 0.",
        [({"listener": listener}, float(failed)) for listener, failed in recorder.failed.items()],
    )  # fmt: skip
