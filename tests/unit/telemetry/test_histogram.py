"""Quantiles of what was counted by bucket."""

from hypothesis import given
from hypothesis import strategies as st

from turnout.telemetry.histogram import LATENCY_BOUNDS, quantile


@given(st.lists(st.floats(0, 60), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_in_the_bucket_that_the_true_one_is_in(seconds: list[float], q: float) -> None:
    counts = [0] * (len(LATENCY_BOUNDS) + 1)

    def bucket(value: float) -> int:
        return next((i for i, bound in enumerate(LATENCY_BOUNDS) if value <= bound), len(LATENCY_BOUNDS))

    for value in seconds:
        counts[bucket(value)] += 1
    rank = next(i for i in range(1, len(seconds) + 1) if i >= q * len(seconds))
    true = bucket(sorted(seconds)[rank - 1])
    found = quantile(LATENCY_BOUNDS, counts, q)
    assert found is not None
    assert bucket(found) == min(true, len(LATENCY_BOUNDS) - 1)


def test_of_nothing_there_is_no_quantile() -> None:
    assert quantile(LATENCY_BOUNDS, [0] * (len(LATENCY_BOUNDS) + 1), 0.5) is None
