"""The scrape says what was recorded, in the text format."""

import itertools

import pytest
from prometheus_client.parser import text_string_to_metric_families

from turnout.telemetry.exposition import Family, render
from turnout.telemetry.histogram import LATENCY_BOUNDS, Histogram, geometric_bounds


def test_latency_buckets_reach_from_250_us_to_30_s_in_steps_of_at_most_one_half() -> None:
    assert LATENCY_BOUNDS[0] == 250e-6
    assert LATENCY_BOUNDS[-1] == 30.0
    assert all(1.0 < high / low <= 1.5 for low, high in itertools.pairwise(LATENCY_BOUNDS))


def test_bounds_are_as_few_as_the_ratio_allows() -> None:
    assert geometric_bounds(1.0, 8.0, 2.0) == (1.0, 2.0, 4.0, 8.0)


async def test_a_histogram_is_read_back_as_it_was_observed() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 99.0):
        histogram.observe(value)
    text = (await render([Family("t_seconds", "histogram", "Times.", [({"a": "b"}, histogram)])])).decode()
    (family,) = text_string_to_metric_families(text)
    samples = {(s.name, s.labels.get("le")): s.value for s in family.samples}
    assert samples == {
        ("t_seconds_bucket", "1.0"): 2,
        ("t_seconds_bucket", "2.0"): 3,
        ("t_seconds_bucket", "+Inf"): 4,
        ("t_seconds_count", None): 4,
        ("t_seconds_sum", None): 102,
    }


@pytest.mark.parametrize("label", ['quo"te', "back\\slash", "new\nline", "grün"])
async def test_labels_are_escaped(label: str) -> None:
    text = (await render([Family("t", "gauge", "A\\ thing.\nTwo lines.", [({"l": label}, 1.5)])])).decode()
    (family,) = text_string_to_metric_families(text)
    assert family.samples[0].labels == {"l": label}
