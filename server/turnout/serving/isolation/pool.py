"""The child processes of one version. Each runs one request at a time and is replaced when it dies.

    runner threads:  take a free child -> run -> put it back
    keeper threads:  start a child -> wait for its end -> back off -> start it again       one thread a child

One child exists from the time of loading; more are started, up to a limit, when all existing children are busy. A
version's children are started one at a time, so that a version whose children keep dying costs at most a core.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from turnout.errors import (
    DigestMismatch,
    ModelCrashed,
    ModelFailure,
    ModelTimedOut,
    NotLoaded,
    TurnoutError,
    UnavailableError,
)
from turnout.serving.isolation.backoff import Backoff
from turnout.serving.isolation.session import ChildGone, GivenUp, IsolatedSession
from turnout.serving.sessions.tensor import Array

_LOOK_SECONDS = 0.1
_START_SECONDS = 600.0
_TRIAL_SECONDS = 60.0
"""Time limit of one run while the version is loading, for proofs and warm-up."""

_TRIAL_DEATHS = 3
"""Number of synthetic inputs that may crash a version while it is loading; each crash costs a start."""

_PATIENCE_SECONDS = 1.0
"""Longest time that a request waits for a child to be restarted; it is refused if the next start is later."""


@dataclass(slots=True)
class Supervision:
    """Shared services for the child processes of a server's versions.

    Attributes:
        start_thread: Runs its argument in a new thread of ordinary priority. Threads and processes inherit the priority
            of the thread that starts them, and it cannot be raised again.
        died: Called from any thread when a child has ended, with the name of the version, how the child ended, the
            seconds until the next start (None if there is none), and whether the server ended the child because its run
            was abandoned or its answer was invalid.
        pools: Pools that have children; their remaining children are killed when the server stops.
        ended: Whether the server is stopping, so that no more pools are opened.
    """

    start_thread: Callable[[Callable[[], None]], None]
    died: Callable[[str, str, float | None, bool], None]
    pools: set["ChildPool"] = field(default_factory=set)
    ended: bool = False

    def kill(self) -> None:
        """Kills all remaining children and prevents further starts."""
        self.ended = True
        for pool in list(self.pools):
            pool.kill()


class ChildPool:
    """Runs a version in child processes, of which `deaths` ended unexpectedly; a `Run`. Thread-safe.

    `warm_inputs` are the inputs and outputs of the first run of each child started from now on.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[int, bool], IsolatedSession],
        processes: int,
        kill_after: float,
        supervision: Supervision,
    ) -> None:
        """Prepares the pool of up to `processes` children; no process is started.

        `make` creates a child without starting it, from its number and whether the version is still loading. A run is
        ended `kill_after` seconds after all its requests have been abandoned.
        """
        self._name = name
        self._make = make
        self._processes = processes
        self._kill_after = kill_after
        self._supervision = supervision
        self._starting = threading.Lock()  # one start at a time
        self._changed = threading.Condition()  # guards everything below
        self._children: list[IsolatedSession] = []
        self._free: list[IsolatedSession] = []
        self._keepers = 0
        self._failure: TurnoutError | None = None
        self._serving = False
        self._closed = False
        self._backoff = Backoff()
        self._next_start = 0.0
        self.deaths = 0
        self.warm_inputs: tuple[Mapping[str, Array], Sequence[str]] | None = None
        self.providers: tuple[str, ...] = ()
        self.device = "cpu"
        self.device_id = 0
        self.tensorrt: Mapping[str, str] = {}

    @property
    def pids(self) -> list[int]:
        """Process ids of the running children."""
        with self._changed:
            return [child.pid for child in self._children]

    @property
    def memory_bytes(self) -> int:
        """Private memory of the children in bytes."""
        with self._changed:
            children = list(self._children)
        return sum(child.memory_bytes for child in children)

    def open(self) -> None:
        """Starts the first child and waits for it.

        Raises:
            ModelFailure, MemoryBudgetExceeded: As `IsolatedSession.start`.
            NotLoaded: The server is stopping.
        """
        self._supervision.pools.add(self)
        if self._supervision.ended:
            raise NotLoaded(f"{self._name} is not loaded: the server is stopping")
        self._keepers = 1
        self._supervision.start_thread(lambda: self._keep(0))
        with self._changed:
            while not self._children and self._failure is None and not self._closed:
                self._changed.wait()
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise NotLoaded(f"{self._name} is being unloaded")
            first = self._children[0]
        self.providers, self.device, self.device_id = first.providers, first.device, first.device_id
        self.tensorrt = first.tensorrt

    def serve(self, warm_inputs: tuple[Mapping[str, Array], Sequence[str]] | None) -> None:
        """Marks the version as loaded: more children are now started on demand. Each runs `warm_inputs` first."""
        self.warm_inputs = warm_inputs
        with self._changed:
            self._serving = True
            self._backoff.answered()

    def __call__(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the model once on behalf of the load rather than of a request.

        Raises:
            TurnoutError: As `run_unless`. Runs are ended after a minute, and refused after several crashes.
        """
        if self.deaths >= _TRIAL_DEATHS:
            raise ModelCrashed(f"it crashed on {self.deaths} inputs: no more are tried")
        until = time.monotonic() + _TRIAL_SECONDS
        return self._run(inputs, outputs, lambda: time.monotonic() > until)

    def run_unless(self, inputs: Mapping[str, Array], outputs: Sequence[str], given_up: GivenUp) -> list[Array]:
        """Runs the model once; waits for a child if none is free.

        The child is killed some time after all callers have stopped waiting, which `given_up` tells.

        Raises:
            TurnoutError: As `Session.run`.
            ModelCrashed: The child died.
            ModelTimedOut: The run was abandoned.
            DigestMismatch: No child is running, and the version's files have changed since it was loaded.
            UnavailableError: No child is running, and the next start is some way off.
        """
        since: float | None = None

        def overdue() -> bool:
            nonlocal since
            if not given_up():
                since = None
                return False
            since = since or time.monotonic()
            return time.monotonic() - since >= self._kill_after

        return self._run(inputs, outputs, overdue, given_up)

    def _run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], overdue: GivenUp, given_up: GivenUp = lambda: False
    ) -> list[Array]:
        while True:
            child = self._take(given_up)
            ended = False
            try:
                return child.run(inputs, outputs, overdue)
            except ChildGone:
                ended = True  # it died before it got the request: another child answers
            except (ModelCrashed, ModelTimedOut):
                ended = True
                raise
            finally:
                if not ended:  # the keeper takes care of a child that ended
                    self._put_back(child)

    def kill(self) -> None:
        """Kills the children and prevents further starts. Runs in progress raise ModelCrashed."""
        with self._changed:
            self._closed = True
            children = list(self._children)
            self._changed.notify_all()
        for child in children:
            child.kill()

    def close(self) -> None:
        """Kills the children and waits until they are gone."""
        self.kill()
        with self._changed:
            while self._keepers:
                self._changed.wait()
        self._supervision.pools.discard(self)

    def _take(self, given_up: GivenUp) -> IsolatedSession:
        with self._changed:
            while not self._free:
                if self._failure is not None and not self._keepers:
                    raise self._failure
                if self._closed:
                    raise ModelCrashed("its process was ended")
                if given_up():
                    raise ModelTimedOut("the run was abandoned before it began")
                away = self._next_start - time.monotonic()
                if not self._children and away > _PATIENCE_SECONDS and self._serving:
                    raise UnavailableError(
                        f"{self._name} crashed repeatedly and will be restarted in {away:.0f} s", retry_after=away
                    )
                if self._serving and len(self._children) == self._keepers < self._processes:
                    self._start_another()  # one at a time, while all others stay busy
                self._changed.wait(_LOOK_SECONDS)
            return self._free.pop()

    def _start_another(self) -> None:
        # Called from threads of runners and keepers, which have ordinary priority.
        number, self._keepers = self._keepers, self._keepers + 1
        threading.Thread(target=self._keep, args=(number,), name=f"keep-{self._name}-{number}", daemon=True).start()

    def _put_back(self, child: IsolatedSession) -> None:
        with self._changed:
            self._backoff.answered()
            if child in self._children:
                self._free.append(child)
                self._changed.notify()

    # The following methods run in the keeper threads.

    def _keep(self, number: int) -> None:
        try:
            with contextlib.closing(self._make(number, not self._serving)) as child:
                while self._started(child):
                    with self._changed:
                        if self._closed:
                            return
                        self._children.append(child)
                        self._free.insert(0, child)  # used after children that are warm
                        self._changed.notify_all()
                    how = child.wait()
                    self._ended(child, how)
        except Exception as error:  # noqa: BLE001 - requests must not wait for a keeper that died
            failure = ModelFailure(f"its process cannot be kept running ({type(error).__name__})")
            failure.__cause__ = error
            with self._changed:
                self._failure = failure
        finally:
            with self._changed:
                self._keepers -= 1
                self._changed.notify_all()

    def _started(self, child: IsolatedSession) -> bool:
        """Starts a child, retrying as necessary; returns False if it must not be started any more."""
        while True:
            with self._starting:
                if not self._wait_for_start():
                    return False
                try:
                    child.start(lambda: self._closed, timeout=_START_SECONDS, verified=not self._serving)
                    self._warm(child)
                    return not self._closed
                except DigestMismatch as error:  # retrying would not restore the published files
                    with self._changed:
                        self._failure = error
                        self.deaths += 1
                        self._changed.notify_all()
                    self._supervision.died(self._name, f"could not be started: {error.message}", None, False)
                    return False
                except TurnoutError as error:
                    if not self._serving:
                        with self._changed:
                            self._failure = error
                            self._changed.notify_all()
                        return False
                    if not self._closed:
                        self._died(f"could not be started: {error.message}", loaded=False)

    def _warm(self, child: IsolatedSession) -> None:
        """Performs the first run of a child. Raises ModelCrashed or ModelTimedOut if the child did not survive it."""
        if self.warm_inputs is None:
            return
        until = time.monotonic() + _TRIAL_SECONDS
        try:
            child.run(*self.warm_inputs, lambda: self._closed or time.monotonic() > until)
        except (ModelCrashed, ModelTimedOut):
            raise
        except TurnoutError:
            return  # requests will get the same error

    def _wait_for_start(self) -> bool:
        """Waits until the next start is due; returns False if the pool was closed."""
        with self._changed:
            while not self._closed and (left := self._next_start - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self._closed

    def _ended(self, child: IsolatedSession, how: str) -> None:
        with self._changed:
            self._children.remove(child)
            if child in self._free:
                self._free.remove(child)
            closed = self._closed
        if not closed:
            self._died(how, loaded=True, ended=child.was_ended)

    def _died(self, how: str, *, loaded: bool, ended: bool = False) -> None:
        with self._changed:
            self.deaths += 1
            self._backoff.died(loaded=loaded)
            delay = self._backoff.delay if self._serving else 0.0
            self._next_start = time.monotonic() + delay
            if self._serving and not self._closed and self._keepers < min(2, self._processes):
                self._start_another()  # so that one is left if the crash happens again
            self._changed.notify_all()
        self._supervision.died(self._name, how, delay, ended)
