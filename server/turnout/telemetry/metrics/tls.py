"""Metrics of the listeners' certificates."""

from dataclasses import dataclass

from turnout.telemetry.families import counter, gauge


@dataclass(slots=True)
class TlsRecorder:
    """State of the certificates, by listener, without listeners that use plain text.

    Attributes:
        expires: In seconds since 1970.
    """

    expires: dict[str, float] = gauge(
        "turnout_tls_certificate_expiry_timestamp_seconds",
        "When the certificate of a listener, or one of its intermediate certificates, expires.", "listener",
    )  # fmt: skip
    reloads: dict[str, int] = counter(
        "turnout_tls_reloads_total", "Times that a listener's changed certificate files were loaded.", "listener"
    )
    failed: dict[str, bool] = gauge(
        "turnout_tls_reload_failing",
        "1 while a listener's certificate files are invalid and the previous certificate stays in use, else 0.",
        "listener",
    )
