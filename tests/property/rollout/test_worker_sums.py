"""What several workers count is added up exactly, and no sum falls, whatever they do between two scrapes."""

import asyncio
import math

from hypothesis import given
from hypothesis import strategies as st

from turnout.telemetry.families import Family
from turnout.telemetry.histogram import Exemplar, Histogram
from turnout.telemetry.ratios import Ratio, ShadowAgreement
from turnout.workers.merging import Totals
from turnout.workers.snapshot import decode, encode

WORKERS = st.integers(0, 3)
BOUNDS = (0.1, 1.0, 10.0)

# Each step is what one worker does: counts some, is scraped, forgets a version (and so its counts), or dies.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("count"), WORKERS, st.lists(st.floats(0, 100), min_size=1, max_size=5)),
        st.tuples(st.just("scrape"), WORKERS, st.none()),
        st.tuples(st.just("reload"), WORKERS, st.none()),
        st.tuples(st.just("die"), WORKERS, st.none()),
    ),
    max_size=60,
)
LABELS = {"model": "m", "version": "1.0.0"}


class Counts:
    """A worker's own, and how much of it the parent was told."""

    def __init__(self) -> None:
        self.fresh()

    def fresh(self) -> None:
        self.requests, self.seconds = 0, Histogram(BOUNDS)

    def families(self) -> list[Family]:
        return [
            Family("turnout_requests_total", "counter", "", [(LABELS, float(self.requests))]),
            Family("turnout_request_duration_seconds", "histogram", "", [(LABELS, self.seconds)]),
            Family("turnout_inflight_requests", "gauge", "", [(LABELS, float(self.requests % 7))]),
        ]


def decoded(families: list[Family]) -> list[Family]:
    return decode(asyncio.run(encode(families)))


def value(totals: Totals, name: str):
    found = {f.name: list(f.series) for f in totals.families(complete=False)}
    return found[name][0][1] if found.get(name) else None


@given(STEPS)
def test_the_sum_is_what_all_processes_told_last_and_never_falls(steps) -> None:
    totals, workers = Totals(), [Counts() for _ in range(4)]
    last = dict.fromkeys(range(4), 0)  # what each present count told last
    ended = 0  # what those told last that began anew
    before = 0.0
    for kind, index, observed in steps:
        counts = workers[index]
        if kind == "count":
            counts.requests += len(observed)
            for seconds in observed:
                counts.seconds.observe(seconds)
        elif kind == "scrape":
            totals.update(str(index), decoded(counts.families()))
            last[index] = counts.requests
        elif kind == "reload":
            totals.update(str(index), decoded(counts.families()))  # else a reset is seen only where the count fell
            ended += counts.requests
            counts.fresh()
            totals.update(str(index), decoded(counts.families()))
            last[index] = 0
        else:
            totals.died(str(index))
            ended += last[index]
            last[index] = 0
            counts.fresh()
        whole = value(totals, "turnout_requests_total") or 0.0
        assert whole == ended + sum(last.values())
        assert whole >= before
        before = whole
        seconds = value(totals, "turnout_request_duration_seconds")
        assert (sum(seconds.counts) if seconds else 0) == whole


@given(st.lists(st.lists(st.floats(0, 100), max_size=30), min_size=1, max_size=5))
def test_merged_histograms_are_the_histogram_of_everything(parts) -> None:
    totals, whole = Totals(), Histogram(BOUNDS)
    for index, part in enumerate(parts):
        one = Histogram(BOUNDS)
        for seconds in part:
            one.observe(seconds)
            whole.observe(seconds)
        totals.update(str(index), decoded([Family("turnout_queue_duration_seconds", "histogram", "", [(LABELS, one)])]))
    merged = value(totals, "turnout_queue_duration_seconds")
    assert merged.counts == whole.counts
    assert math.isclose(merged.total, whole.total, abs_tol=1e-9)
    assert merged.bounds == BOUNDS


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=5))
def test_a_share_of_all_is_the_share_that_one_server_would_tell(parts) -> None:
    totals = Totals()
    for index, (part, more) in enumerate(parts):
        series = [(LABELS | {"role": "baseline"}, Ratio(part, part + more))]
        totals.update(str(index), decoded([Family("turnout_traffic_share", "gauge", "", series)]))
    share = value(totals, "turnout_traffic_share")
    assert share.value == sum(p for p, _ in parts) / sum(p + more for p, more in parts)


numbers = st.floats(allow_nan=False)
values = st.one_of(
    numbers,
    st.integers(0, 2**53),
    st.builds(Ratio, st.integers(0, 9), st.integers(1, 9)),
    st.builds(ShadowAgreement, *[st.integers(0, 9)] * 4),
)


@given(st.lists(st.tuples(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), values), max_size=8))
def test_a_snapshot_says_what_was_encoded(series) -> None:
    families = [Family("turnout_x", "gauge", 'a "help"\n', series), Family("turnout_y_total", "counter", "", [])]
    first, second = decoded(families)
    assert [(labels, value) for labels, value in first.series] == series
    assert (first.name, first.kind, first.help) == ("turnout_x", "gauge", 'a "help"\n')
    assert (second.name, list(second.series)) == ("turnout_y_total", [])


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0.2, 0.9)), min_size=1, max_size=4))
def test_a_bucket_shows_the_latest_example(examples) -> None:
    totals = Totals()
    for index, (time, seconds) in enumerate(examples):
        one = Histogram(BOUNDS)
        one.observe(seconds)
        one.remember(Exemplar(f"{index:032x}", seconds, time))
        totals.update(
            str(index), decoded([Family("turnout_request_duration_seconds", "histogram", "", [(LABELS, one)])])
        )
    merged = value(totals, "turnout_request_duration_seconds")
    assert merged.exemplars[1].time == max(time for time, _ in examples)
