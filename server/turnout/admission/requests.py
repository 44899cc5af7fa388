"""Limits the number of concurrent requests, and rejects all requests once the server stops.

One limit applies to all listeners together, gRPC and HTTP. Probes, scrapes and health checks do not count, because
operators need them most when a server is overloaded.
"""

from turnout.errors import Draining, Exhausted, TurnoutError

_RETRY_SECONDS = 1.0


class Admission:
    """Counts the requests in progress, and decides whether another may start.

    Attributes:
        begun: Total number of requests that were admitted.
        under_way: Number of admitted requests that have not ended.
        refusal: Error for new requests; None while the server accepts them.
        refused_full: Number of requests rejected because of the limit.
        refused_draining: Number of requests rejected because the server is stopping.
    """

    __slots__ = ("_limit", "begun", "refusal", "refused_draining", "refused_full", "under_way")

    def __init__(self, limit: int) -> None:
        """Initializes the counters.

        Args:
            limit: Maximum number of concurrent requests.
        """
        self._limit = limit
        self.begun = 0
        self.under_way = 0
        self.refused_full = 0
        self.refused_draining = 0
        self.refusal: TurnoutError | None = None

    def check(self) -> None:
        """Checks that another request may start.

        Raises:
            Draining: The server is stopping.
            Exhausted: The maximum number of requests is in progress.
        """
        if self.refusal is not None:
            self.refused_draining += 1
            raise self.refusal
        if self.under_way >= self._limit:
            self.refused_full += 1
            raise Exhausted(
                f"{self._limit} requests are under way on this server, which is as many as may be "
                "(limits.max_requests)",
                retry_after=_RETRY_SECONDS,
            )

    def stop(self) -> None:
        """Rejects every request from now on."""
        self.refusal = Draining("the server is stopping", retry_after=_RETRY_SECONDS)


class ReceiveBudget:
    """Limits the total size of all incompletely received bodies and messages.

    Attributes:
        held: Current total size in bytes.
        refused: Number of requests rejected because of the limit.
    """

    __slots__ = ("_limit", "held", "refused")

    def __init__(self, limit: int) -> None:
        """Initializes the budget.

        Args:
            limit: Maximum total size in bytes.
        """
        self._limit = limit
        self.held = 0
        self.refused = 0

    def reserve(self, size: int) -> None:
        """Reserves `size` bytes for an incomplete body.

        Raises:
            Exhausted: The limit would be exceeded. Nothing is reserved then.
        """
        if self.held + size > self._limit:
            self.refused += 1
            raise Exhausted(
                f"unfinished requests hold {self.held} bytes, and may hold at most {self._limit} "
                "(limits.max_unfinished_bytes)",
                retry_after=_RETRY_SECONDS,
            )
        self.held += size

    def release(self, size: int) -> None:
        """Releases `size` bytes, because their body is complete or was given up."""
        self.held -= size
