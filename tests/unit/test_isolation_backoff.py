"""When a child process that died is started again."""

from turnout.serving.isolation.backoff import Backoff


def test_the_first_deaths_are_followed_by_a_start_at_once_and_the_next_by_longer_and_longer_waits() -> None:
    backoff = Backoff()
    delays = []
    for _ in range(40):
        backoff.died()
        delays.append(backoff.delay)
    assert delays[:6] == [0.0, 0.0, 0.1, 0.2, 0.4, 0.8]
    assert delays == sorted(delays)
    assert max(delays) == 30.0


def test_an_answer_ends_the_wait() -> None:
    backoff = Backoff()
    for _ in range(8):
        backoff.died()
    assert backoff.delay > 1
    backoff.answered()
    assert backoff.delay == 0.0
    backoff.died()
    assert backoff.delay == 0.0
