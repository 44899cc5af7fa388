# Generated from _async/readiness.py by client/unasync.py: change that one.
"""Waits until a server, or a model on it, is ready."""

from grpc_health.v1.health_pb2 import HealthCheckResponse

from turnout_client._sync.connection import Connection, sleep
from turnout_client.errors import DeadlineExceeded, Unavailable
from turnout_client.retry import RetryAttempts, RetryPolicy

PATIENT = RetryPolicy(retries=2**63, first_backoff=0.05, max_backoff=1.0)
"""Retries without a limit: only the caller's timeout ends the wait for a server that has not started yet."""


def wait_until_serving(connection: Connection, service: str, timeout: float | None) -> None:
    """Waits until the health service reports `service` as SERVING.

    Raises:
        DeadlineExceeded: That did not happen within `timeout` seconds; the message has the last status reported.
        TurnoutClientError: The server has no health service, or denies access to this caller.
    """
    attempts = RetryAttempts(PATIENT, timeout)
    heard = ""

    def serving(status: int) -> bool:
        nonlocal heard
        heard = f"the server last said {HealthCheckResponse.ServingStatus.Name(status)}"
        return bool(status == HealthCheckResponse.SERVING)

    while True:
        try:
            return connection.watch_health(service, attempts.remaining(), serving)
        except (DeadlineExceeded, Unavailable) as error:
            pause = None if isinstance(error, DeadlineExceeded) else attempts.pause_after(error)
            if pause is None:
                what = service or "the server"
                heard = heard or connection.obstacle() or "no server answered"
                raise DeadlineExceeded(f"{what} was not ready within {timeout} s: {heard}") from error
        sleep(pause)
