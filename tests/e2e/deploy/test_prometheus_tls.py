"""A real Prometheus scrapes a real server over HTTPS, with a certificate of its own, and tells when one ends."""

from pathlib import Path

import pytest

from certificates import Authority, put
from processes import serving_in_thread
from prometheus_process import needs_prometheus, prometheus

pytestmark = [pytest.mark.slow, needs_prometheus]

AUTHORITY = Authority.make()


def test_a_scrape_over_https_tells_of_a_certificate_that_ends_and_of_one_that_cannot_be_used(tmp_path: Path) -> None:
    put(tmp_path / "ca.pem", AUTHORITY.pem)
    AUTHORITY.issue("prometheus").write(tmp_path, "prometheus")
    ending = AUTHORITY.issue(days=2)
    cert, key = ending.write(tmp_path, "server")
    tls = {
        "cert": str(cert),
        "key": str(key),
        "client_ca": str(tmp_path / "ca.pem"),
        "client_certificates": "required",
        "poll_interval_s": 0.1,
    }
    how = (
        f"scheme: https\n    tls_config: {{ca_file: {tmp_path / 'ca.pem'}, server_name: localhost, "
        f"cert_file: {tmp_path / 'prometheus.pem'}, key_file: {tmp_path / 'prometheus.key'}}}"
    )
    (tmp_path / "models").mkdir()
    with (
        serving_in_thread(tmp_path / "models", tls=tls) as server,
        prometheus(tmp_path / "prometheus", server.http, how=how) as watched,
    ):
        ends = watched.now("turnout_tls_certificate_expiry_timestamp_seconds{listener='http'}")
        assert list(ends.values()) == [ending.certificate.not_valid_after_utc.timestamp()]

        def firing(alert: str) -> bool:
            return watched.now(f"ALERTS{{alertname='{alert}', alertstate='firing', listener='grpc'}}") != {}

        watched.wait("the certificate ends soon", lambda: firing("TurnoutCertificateExpires"))
        assert not firing("TurnoutCertificateNotReloaded")
        put(cert, b"nothing")
        watched.wait("the certificate cannot be used", lambda: firing("TurnoutCertificateNotReloaded"))
        AUTHORITY.issue(days=90).write(tmp_path, "server")
        watched.wait(
            "all is well again",
            lambda: not firing("TurnoutCertificateNotReloaded") and not firing("TurnoutCertificateExpires"),
        )
