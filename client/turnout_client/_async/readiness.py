"""Waits until a server, or a model on it, is ready."""

import math

from grpc_health.v1.health_pb2 import HealthCheckResponse

from turnout_client._async.connection import AsyncConnection
from turnout_client.errors import DeadlineExceeded, Unavailable
from turnout_client.retry import RetryAttempts, RetryPolicy

PATIENT = RetryPolicy(retries=2**63, first_backoff=0.05, max_backoff=1.0, max_retry_after=math.inf)
"""Retries without a limit: only the caller's timeout ends the wait for a server that has not started yet."""


_STATUSES = {number: name for name, number in HealthCheckResponse.ServingStatus.items()}


async def wait_until_serving(connection: AsyncConnection, service: str, timeout: float | None) -> None:
    """Waits until the health service reports `service` as SERVING.

    Raises:
        DeadlineExceeded: That did not happen within `timeout` seconds; the message has the last status reported.
        TurnoutClientError: The server has no health service, or denies access to this caller.
    """
    attempts = RetryAttempts(PATIENT, timeout)
    heard = obstacle = ""
    reserve = 0.0 if timeout is None else min(1.0, timeout / 10)  # seconds to find out why no server answers

    def serving(status: int) -> bool:
        nonlocal heard
        name = _STATUSES.get(status, str(status))
        heard = f"the server last said {name}"
        return status == int(HealthCheckResponse.SERVING)

    while True:
        try:
            left = attempts.remaining()
            return await connection.watch_health(service, None if left is None else max(left - reserve, 0.0), serving)
        except (DeadlineExceeded, Unavailable) as error:
            pause = None if isinstance(error, DeadlineExceeded) else attempts.pause_after(error)
            if pause is None and reserve:
                if not heard:
                    obstacle = await connection.obstacle(min(attempts.left() or 0.0, reserve))
                reserve, pause = 0.0, None if obstacle else 0.0
            if pause is None:
                what = service or "the server"
                reason = heard or obstacle or f"no server answered at {connection.target}"
                raise DeadlineExceeded(f"{what} was not ready within {timeout} s: {reason}") from error
        await connection.pause(pause)
