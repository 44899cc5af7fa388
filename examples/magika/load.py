"""Clients that send real files at a steady rate, and record the results."""

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
"""Number of users. Half of the requests have the routing key of one of them; the others have none."""

UNANSWERED = "UNANSWERED"
"""The status of a request that was still pending when the load ended."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that clients send.

    Attributes:
        features: Features of the file: the model's input.
        labels: Index of the right label by version; the key "" is for all other versions.
    """

    features: NDArray[np.int32]
    labels: Mapping[str, int]

    def right(self, version: str) -> int:
        """Returns the index of the label that `version` should return."""
        return self.labels.get(version, self.labels[""])


@dataclass(frozen=True, slots=True)
class Got:
    """The result of one request.

    Attributes:
        version: The version that answered; "" if there was no answer.
        seconds: Duration of the call.
        error: Name of the status, or `UNANSWERED`; "" if there was an answer.
        wrong: Whether the answer was not the right one.
    """

    version: str
    seconds: float
    error: str = ""
    wrong: bool = False


class Load:
    """Sends requests from a separate thread while its context is active.

    On exit it waits a few seconds for pending requests, and cancels those that have no answer by then.

    Attributes:
        got: The results, in the order in which the requests ended.
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
        """Creates the load.

        Args:
            address: Address of the server's data listener.
            uploads: Files to send. Each request sends a random one, drawn with a fixed seed.
            rate: Requests per second, if the machine can keep up.
            in_flight: Maximum number of concurrent requests, so that a busy machine is not flooded.
            patience: Timeout of a request, in seconds.
            grace: Seconds to wait for pending requests on exit.
        """
        self.got: list[Got] = []
        self._address, self._uploads = address, uploads
        self._rate, self._in_flight, self._timeout, self._grace = rate, in_flight, patience, grace
        self._draw = random.Random(0)  # noqa: S311 - not a secret
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def wait(self, count: int, limit: float = 90.0) -> None:
        """Waits until `count` requests have ended.

        Raises:
            TimeoutError: They have not ended within `limit` seconds.
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
                due = max(
                    due + 1 / self._rate, time.monotonic() - 0.1
                )  # requests missed during a pause are not made up for
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
