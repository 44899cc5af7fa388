"""When a child process that died is started again."""

import threading
from collections.abc import Callable

import pytest

from turnout.errors import ModelFailure, NotLoaded
from turnout.serving.isolation.backoff import Backoff
from turnout.serving.isolation.pool import ChildPool, Supervision
from turnout.serving.isolation.session import IsolatedSession


def test_the_first_deaths_are_followed_by_a_start_at_once_and_the_next_by_longer_and_longer_waits() -> None:
    backoff = Backoff()
    delays = []
    for _ in range(40):
        backoff.died(loaded=False)
        delays.append(backoff.delay)
    assert delays[:6] == [0.0, 0.0, 0.1, 0.2, 0.4, 0.8]
    assert delays == sorted(delays)
    assert max(delays) == 30.0


def test_what_loads_is_back_within_half_a_second_however_often_requests_end_it() -> None:
    backoff = Backoff()
    for _ in range(40):
        backoff.died(loaded=True)
        assert backoff.delay <= 0.5
    backoff.died(loaded=False)
    assert backoff.delay == 30.0


def test_an_answer_ends_the_wait() -> None:
    backoff = Backoff()
    for _ in range(8):
        backoff.died(loaded=False)
    assert backoff.delay > 1
    backoff.answered()
    assert backoff.delay == 0.0
    backoff.died(loaded=True)
    assert backoff.delay == 0.0


def test_a_keeper_that_dies_of_what_nobody_foresaw_leaves_nobody_waiting() -> None:
    def make(number: int, first: bool) -> IsolatedSession:
        raise ZeroDivisionError

    started: list[threading.Thread] = []

    def start_thread(work: Callable[[], None]) -> None:
        started.append(threading.Thread(target=work))
        started[-1].start()

    pool = ChildPool("m@1.0.0", make, 1, 1.0, Supervision(start_thread, lambda *_: None))
    with pytest.raises(ModelFailure, match="ZeroDivisionError"):
        pool.open()
    with pytest.raises(ModelFailure, match="ZeroDivisionError"):
        pool({}, [])
    pool.close()
    started[0].join(60)
    assert not started[0].is_alive()


def test_a_pool_that_would_open_while_the_server_ends_is_refused() -> None:
    supervision = Supervision(lambda work: work(), lambda *_: None)
    supervision.kill()
    with pytest.raises(NotLoaded):
        ChildPool("m@1.0.0", lambda *_: pytest.fail("a child is made"), 1, 1.0, supervision).open()
