"""Connections to PostgreSQL that give up a server which does not answer.

TCP finds out that a peer is gone, not that it stands still: the kernel of a server whose process or disk hangs, and a
proxy whose own server is gone, acknowledge everything. Needs the package psycopg.
"""

import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

T = TypeVar("T")

ANSWER_SECONDS = 30.0
"""Seconds without a byte from the server after which a connection is closed. Other statements than a migration's take
milliseconds, and wait for one another's locks for ten seconds at most."""


class AnsweringConnection(psycopg.Connection[TupleRow]):
    """A connection that is closed if the server does not answer for `ANSWER_SECONDS`.

    Whatever waited raises psycopg.OperationalError then. Whether a commit that waited took place is not known.

    Attributes:
        patient: Whether to wait for as long as an answer takes: a migration builds the index of a long log at once.
    """

    patient = False

    def wait(self, gen: PQGen[T], *arguments: Any, **options: Any) -> T:
        """Waits like `psycopg.Connection.wait`, for whose `gen` the server has to send something now and then."""
        return super().wait(self._answered(gen), *arguments, **options)

    def _answered(self, exchange: PQGen[T]) -> PQGen[T]:
        heard = time.monotonic()
        try:
            wanted = next(exchange)
            while True:
                ready = yield wanted  # psycopg sends nothing ten times a second while the server is silent
                if ready:
                    heard = time.monotonic()
                elif not self.patient and time.monotonic() - heard >= ANSWER_SECONDS:
                    self.pgconn.finish()  # its state is unknown
                    raise psycopg.OperationalError(f"the server has not answered for {ANSWER_SECONDS:g} s")
                wanted = exchange.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result
