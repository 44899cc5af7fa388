"""How long an item was on its way, told from the two clocks of a stream."""

from hypothesis import given
from hypothesis import strategies as st

from turnout.rpc.send_clock import SendClock


@given(st.floats(-1e6, 1e6), st.lists(st.floats(0.0, 30.0), min_size=1, max_size=20))
def test_it_is_what_an_item_took_longer_than_the_quickest(zero: float, delays: list[float]) -> None:
    clock, now = SendClock(), 1e6
    for index, delay in enumerate(delays):
        now += 0.1
        waited = clock.waited(now - delay + zero, now)
        assert abs(waited - (delay - min(delays[: index + 1]))) < 1e-6


def test_clocks_that_drift_apart_are_believed_for_a_minute_or_two() -> None:
    clock = SendClock()
    for second in range(100_000):  # the client's clock is slow by 100 microseconds a second
        assert 0.0 <= clock.waited(second * (1 - 1e-4), second) <= 120 * 1e-4 + 1e-9


def test_after_a_long_silence_the_offset_is_learnt_anew() -> None:
    clock = SendClock()
    clock.waited(0.0, 0.0)
    assert clock.waited(999_000.0, 1_000_000.0) == 0.0
    assert clock.waited(999_000.0, 1_000_005.0) == 5.0
