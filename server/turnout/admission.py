"""Which requests a server takes: so many at once, and none once it stops.

One count holds for all that the server listens on, gRPC and HTTP alike. Probes, scrapes and health checks are no part
of it: whoever looks after a server needs answers most when it is full.
"""

from turnout.errors import Draining, Exhausted, TurnoutError

_RETRY_SECONDS = 1.0


class Admission:
    """Counts the requests under way.

    Attributes:
        begun: Requests that were taken, all in all.
        under_way: Those of them that have not ended.
        refusal: Why no request is taken now; None while they are.
        refused_full, refused_draining: Requests that were not taken, by why.
    """

    __slots__ = ("_limit", "begun", "refusal", "refused_draining", "refused_full", "under_way")

    def __init__(self, limit: int) -> None:
        """Prepares.

        Args:
            limit: Most requests at once.
        """
        self._limit = limit
        self.begun = 0
        self.under_way = 0
        self.refused_full = 0
        self.refused_draining = 0
        self.refusal: TurnoutError | None = None

    def check(self) -> None:
        """Passes if one more request may begin.

        Raises:
            Draining: The server stops.
            Exhausted: As many are under way as may be.
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
        """Has every request refused from now on."""
        self.refusal = Draining("the server is stopping", retry_after=_RETRY_SECONDS)


class ReceiveBudget:
    """Bounds the bytes of all the bodies and messages together that have come in part.

    Attributes:
        held: Bytes of them.
        refused: Of them, those that would have been too much.
    """

    __slots__ = ("_limit", "held", "refused")

    def __init__(self, limit: int) -> None:
        """Prepares.

        Args:
            limit: Most bytes.
        """
        self._limit = limit
        self.held = 0
        self.refused = 0

    def reserve(self, size: int) -> None:
        """Counts what came of a body that is not whole.

        Raises:
            Exhausted: That would be more than the limit; nothing is counted then.
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
        """Counts bytes off: their body is whole, or nobody goes on with it."""
        self.held -= size
