"""Clients that send real files at a steady pace, and what each of them got."""

import asyncio
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from turnout_client import AsyncClient, TurnoutClientError

USERS = 500
"""Half of the requests have the routing key of one of so many users; the others have none."""

UNANSWERED = "UNANSWERED"
"""Stands for the status of a request that still waited when the load had ended."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that clients send.

    Attributes:
        features: Of the file, as the models take them.
        labels: Number of the right label, by the version that answers; "" stands for every other version.
    """

    features: NDArray[np.int32]
    labels: Mapping[str, int]

    def right(self, version: str) -> int:
        """Returns the label that `version` has to answer."""
        return self.labels.get(version, self.labels[""])


@dataclass(frozen=True, slots=True)
class Got:
    """What came of one request.

    Attributes:
        version: That answered; "" where none did.
        seconds: From the call to its end.
        error: Name of the status, or `UNANSWERED`; "" where there was an answer.
        wrong: The answer was not the right one.
    """

    version: str
    seconds: float
    error: str = ""
    wrong: bool = False


class Load:
    """Sends requests from a thread of its own for as long as the context is entered.

    Leaving it waits for what is under way, and gives up on what has no answer after some seconds.

    Attributes:
        got: What came of the requests, in the order in which they ended.
    """

    def __init__(
        self,
        address: str,
        uploads: Sequence[Upload],
        rate: float,
        in_flight: int = 8,
        patience: float = 10.0,
        grace: float = 5.0,
    ) -> None:
        """Prepares the clients.

        Args:
            address: Of the server's data listener.
            uploads: Of which each request sends one, drawn by a fixed seed.
            rate: Requests a second, where the machine can keep up.
            in_flight: Most requests under way; beyond that the clients wait, so that a busy machine is not flooded.
            patience: Seconds that a client waits for an answer.
            grace: Seconds that those under way are waited for at the end.
        """
        self.got: list[Got] = []
        self._address, self._uploads = address, uploads
        self._rate, self._in_flight, self._timeout, self._grace = rate, in_flight, patience, grace
        self._draw = random.Random(0)  # noqa: S311 - nobody is to be kept from guessing it
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def wait(self, count: int, limit: float = 90.0) -> None:
        """Waits until `count` requests have ended.

        Raises:
            TimeoutError: They have not within `limit` seconds.
        """
        end = time.monotonic() + limit
        while len(self.got) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"only {len(self.got)} of {count} requests ended within {limit:.0f} s")
            time.sleep(0.02)

    async def _run(self) -> None:
        free = asyncio.Semaphore(self._in_flight)
        tasks: set[asyncio.Task[None]] = set()
        async with AsyncClient(self._address, timeout=self._timeout, retries=0) as client:
            due = time.monotonic()
            while True:
                await free.acquire()
                due = max(due + 1 / self._rate, time.monotonic() - 0.1)  # what a pause left out is not made up for
                await asyncio.sleep(due - time.monotonic())
                if self._stop.is_set():
                    break
                task = asyncio.create_task(self._send(client, free))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            if tasks:
                _, late = await asyncio.wait(tasks, timeout=self._grace)
                for task in late:
                    task.cancel()
                await asyncio.gather(*late, return_exceptions=True)

    async def _send(self, client: AsyncClient, free: asyncio.Semaphore) -> None:
        upload = self._draw.choice(self._uploads)
        key = f"user-{self._draw.randrange(USERS)}" if self._draw.random() < 0.5 else ""
        began = time.perf_counter()
        try:
            answer = await client.predict("magika", {"bytes": upload.features}, routing_key=key)
            took = time.perf_counter() - began
            wrong = int(np.argmax(answer["target_label"][0])) != upload.right(answer.version)
            self.got.append(Got(answer.version, took, wrong=wrong))
        except TurnoutClientError as error:
            self.got.append(Got("", time.perf_counter() - began, error.code.name))
        except asyncio.CancelledError:
            self.got.append(Got("", time.perf_counter() - began, UNANSWERED))
            raise
        finally:
            free.release()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
