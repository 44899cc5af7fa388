"""The scrape says what was recorded, in the text format."""

import itertools

import pytest
from prometheus_client.parser import text_string_to_metric_families

from turnout.telemetry.families import Family, Form, negotiate, render
from turnout.telemetry.histogram import LATENCY_BOUNDS, Exemplar, Histogram, geometric_bounds


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


PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Form.TEXT),
        ("*/*", Form.TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", Form.TEXT),
        (PROMETHEUS_2_42, Form.OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0", Form.OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", Form.OPENMETRICS),
        ("Application/OpenMetrics-Text", Form.OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4", Form.OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", Form.TEXT),
        ("application/openmetrics-text;version=2.0.0,text/plain", Form.TEXT),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.9", Form.TEXT),
        ("application/openmetrics-text;q=0", Form.TEXT),
        ("application/openmetrics-text;q=words", Form.TEXT),
        (";,;=;,", Form.TEXT),
    ],
)
def test_openmetrics_goes_to_who_wants_it_as_much(accept, form) -> None:
    assert negotiate(accept) is form


async def test_an_example_stands_at_the_bucket_that_its_value_is_in_and_the_latest_stays() -> None:
    histogram = Histogram((1.0, 2.0))
    for value, trace in ((1.0, "a"), (1.5, "b"), (1.7, "c"), (99.0, "d")):
        histogram.observe(value)
        histogram.remember(Exemplar(trace, value, 1_700_000_000.25))
    text = (await render([Family("t_seconds", "histogram", "Times.", [({}, histogram)])], Form.OPENMETRICS)).decode()
    assert text.splitlines() == [
        "# TYPE t_seconds histogram",
        "# UNIT t_seconds seconds",
        "# HELP t_seconds Times.",
        't_seconds_bucket{le="1.0"} 1 # {trace_id="a"} 1.0 1700000000.250',
        't_seconds_bucket{le="2.0"} 3 # {trace_id="c"} 1.7 1700000000.250',
        't_seconds_bucket{le="+Inf"} 4 # {trace_id="d"} 99.0 1700000000.250',
        "t_seconds_count{} 4",
        "t_seconds_sum{} 103.2",
    ]


async def test_a_counters_family_goes_by_its_name_without_total() -> None:
    family = Family("t_seconds_total", "counter", 'Of a "thing".', [({"a": "b"}, 3.0)])
    text = (await render([family], Form.OPENMETRICS)).decode()
    assert text.splitlines() == [
        "# TYPE t_seconds counter",
        "# UNIT t_seconds seconds",
        '# HELP t_seconds Of a \\"thing\\".',
        't_seconds_total{a="b"} 3',
    ]
