# Generated from _async/readiness.py by client/unasync.py: change that one.
"""Waiting until a server, or a model on it, is ready."""

from grpc_health.v1.health_pb2 import HealthCheckResponse

from turnout_client._sync.connection import Connection, sleep
from turnout_client.errors import DeadlineExceeded, Unavailable
from turnout_client.retry import RetryAttempts, RetryPolicy

PATIENT = RetryPolicy(retries=2**63, first_backoff=0.05, max_backoff=1.0)
"""A server that is yet to come is waited for as long as the caller says."""


def wait_until_serving(connection: Connection, service: str, timeout: float | None) -> None:
    """Returns once the health service says that `service` is SERVING.

    Raises:
        DeadlineExceeded: It did not say so within `timeout` seconds; the message tells what it said last.
        TurnoutClientError: The server has no health service, or refuses this caller.
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
