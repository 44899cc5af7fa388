"""The scrape says what was recorded, in both formats; how they are written is prometheus-client's."""

import asyncio
import itertools
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client import samples as library
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from turnout.telemetry.exposition import Exposition, in_blocks, negotiate
from turnout.telemetry.families import Family
from turnout.telemetry.histogram import LATENCY_BOUNDS, Exemplar, Histogram, geometric_bounds
from turnout.telemetry.metrics.versions import Metrics
from turnout.telemetry.ratios import Ratio, ShadowAgreement

TEXT = negotiate("")
OPENMETRICS = negotiate("application/openmetrics-text")


async def rendered(families: Sequence[Family], content_type: str = TEXT) -> str:
    return b"".join([block async for block in Exposition().render(families, content_type)]).decode()


class Library:
    """Families as metrics of the library."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
            unit = "seconds" if name.endswith("_seconds") else ""
            metric = Metric(name, family.help, family.kind, unit)
            metric.samples = [one for labels, value in family.series for one in samples(family.name, labels, value)]
            yield metric


def samples(name: str, labels: Mapping[str, str], value: float | Ratio | Histogram) -> Iterator[Sample]:
    if not isinstance(value, Histogram):
        yield Sample(name, dict(labels), value.value if isinstance(value, Ratio) else value)
        return
    total = 0
    for index, (bound, count) in enumerate(zip([*map(repr, value.bounds), "+Inf"], value.counts, strict=True)):
        total += count
        one = (value.exemplars or {}).get(index)
        exemplar = one and library.Exemplar({"trace_id": one.trace_id}, one.value, round(one.time, 3))
        yield Sample(f"{name}_bucket", {**labels, "le": bound}, total, None, exemplar)
    yield Sample(f"{name}_count", dict(labels), total)
    yield Sample(f"{name}_sum", dict(labels), value.total)


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
    (family,) = read_text(await rendered([Family("t_seconds", "histogram", "Times.", [({"a": "b"}, histogram)])]))
    samples = {(s.name, s.labels.get("le")): s.value for s in family.samples}
    assert samples == {
        ("t_seconds_bucket", "1.0"): 2,
        ("t_seconds_bucket", "2.0"): 3,
        ("t_seconds_bucket", "+Inf"): 4,
        ("t_seconds_count", None): 4,
        ("t_seconds_sum", None): 102,
    }


@pytest.mark.parametrize("label", ['quo"te', "back\\slash", "new\nline", "grün"])
async def test_labels_and_help_are_escaped(label: str) -> None:
    family = Family("t", "gauge", 'A\\ "thing".\nTwo lines.', [({"l": label}, 1.5)])
    for read, content_type in ((read_text, TEXT), (read_openmetrics, OPENMETRICS)):
        (found,) = read(await rendered([family], content_type))
        assert found.samples[0].labels == {"l": label}
        assert found.documentation == family.help


async def test_a_share_is_shown_as_a_number() -> None:
    series = [
        ({"of": "ratio"}, Ratio(1, 4)),
        ({"of": "agreement"}, ShadowAgreement(1, 2, 0, 0)),
        ({"of": "float"}, 0.125),
    ]
    (family,) = read_text(await rendered([Family("t_ratio", "gauge", "Shares.", series)]))
    assert [sample.value for sample in family.samples] == [0.25, 0.5, 0.125]


PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
TEXT_1 = "text/plain; version=1.0.0; charset=utf-8"
OPENMETRICS_1 = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("text/plain;version=1.0.0", TEXT_1),
        (PROMETHEUS_2_42, OPENMETRICS_1),
        (PROMETHEUS_3, OPENMETRICS_1),
        ("application/openmetrics-text;version=1.0.0", OPENMETRICS_1),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS_1),
        ("Application/OpenMetrics-Text", OPENMETRICS_1),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4", OPENMETRICS_1),
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=words", TEXT),
        ('application/openmetrics-text;version="1.0.0"', TEXT),
        ("application/openmetrics-text;version=1.x", TEXT),
        ("text/plain;version=words", TEXT),
        (f"text/plain;version={'9' * 5000}x", TEXT),
        (";,;=;,", TEXT),
    ],
)
def test_a_scraper_gets_the_format_that_it_asks_for_and_text_where_that_cannot_be_read(
    accept: str, wanted: str
) -> None:
    assert negotiate(accept).removesuffix("; escaping=underscores") == wanted
    assert negotiate(negotiate(accept)).startswith(wanted)  # a worker hands it on to its parent


@pytest.mark.parametrize("version", ["1.0.0", "0.0.4"])
@pytest.mark.parametrize("media", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("escaping", ["allow-utf-8", "underscores", "dots", "values"])
async def test_names_are_the_same_however_a_scraper_would_have_them_escaped(media, version, escaping) -> None:
    family = Family("turnout_t_total", "counter", "", [({"le_ft": "a"}, 1.0)])
    plain = f"{media};version={version}"
    content_type = negotiate(f"{plain};escaping={escaping};q=0.6")
    assert content_type == negotiate(plain)
    assert "escaping=dots" not in content_type
    assert 'turnout_t_total{le_ft="a"} 1.0' in (await rendered([family], content_type)).splitlines()


def exemplified() -> Histogram:
    histogram = Histogram((1.0, 2.0))
    for value, trace in ((1.0, "a"), (1.5, "b"), (1.7, "c"), (99.0, "d")):
        histogram.observe(value)
        histogram.remember(Exemplar(trace, value, 1_700_000_000.2501))
    return histogram


async def test_an_example_stands_at_the_bucket_that_its_value_is_in_and_the_latest_stays() -> None:
    text = await rendered([Family("t_seconds", "histogram", "Times.", [({}, exemplified())])], OPENMETRICS)
    assert text.splitlines() == [
        "# HELP t_seconds Times.",
        "# TYPE t_seconds histogram",
        "# UNIT t_seconds seconds",
        't_seconds_bucket{le="1.0"} 1.0 # {trace_id="a"} 1.0 1700000000.25',
        't_seconds_bucket{le="2.0"} 3.0 # {trace_id="c"} 1.7 1700000000.25',
        't_seconds_bucket{le="+Inf"} 4.0 # {trace_id="d"} 99.0 1700000000.25',
        "t_seconds_count 4.0",
        "t_seconds_sum 103.2",
        "# EOF",
    ]


async def test_a_counters_family_goes_by_its_name_without_total() -> None:
    family = Family("t_seconds_total", "counter", 'Of a "thing".', [({"a": "b"}, 3.0)])
    assert (await rendered([family], OPENMETRICS)).splitlines() == [
        '# HELP t_seconds Of a \\"thing\\".',
        "# TYPE t_seconds counter",
        "# UNIT t_seconds seconds",
        't_seconds_total{a="b"} 3.0',
        "# EOF",
    ]


def at_once(registry: Collector, content_type: str) -> bytes:
    """Returns what the library writes of a registry in one go."""
    return choose_encoder(content_type)[0](registry)


def several(series: int) -> list[Family]:
    return [
        Family("t_seconds", "histogram", "Times.", [({"n": str(n)}, exemplified()) for n in range(series)]),
        Family("t_total", "counter", "Without any.", []),
        Family("u", "gauge", "# HELP and # EOF.\n# TYPE u gauge", [({"n": str(n)}, n) for n in range(series)]),
    ]


@pytest.mark.parametrize("series", [0, 1, 6, 7, 1000])
@pytest.mark.parametrize("content_type", [TEXT, TEXT_1, OPENMETRICS, negotiate(PROMETHEUS_2_42)])
async def test_what_is_written_piece_by_piece_is_what_the_library_writes_at_once(series, content_type) -> None:
    blocks = [block async for block in Exposition().render(several(series), content_type)]
    assert b"".join(blocks) == at_once(Library(several(series)), content_type)
    assert max(map(len, blocks)) < 80_000


TEXTS = st.one_of(st.text(max_size=6), st.sampled_from(["%", "%s", "100 %d", " 0.0", " 0.0\n", "\\n", '"', "grün"]))
NUMBERS = st.one_of(st.integers(0, 2**70), st.floats(), st.sampled_from([-0.0, 0.0, 1e6, 1234567.5, 1e21]))
COUNTS = st.lists(st.integers(0, 2_000_000), min_size=3, max_size=3)
TRACES = st.text("0123456789abcdef", min_size=32, max_size=32)
EXEMPLARS = st.dictionaries(st.integers(0, 2), st.builds(Exemplar, TRACES, st.floats(0, 1e9), st.floats(0, 2e9)))


def histogram_of(counts: list[int], total: float, exemplars: dict[int, Exemplar]) -> Histogram:
    histogram = Histogram((1.0, 2.5))
    histogram.counts, histogram.total, histogram.exemplars = counts, total, exemplars
    return histogram


SCRAPES = st.lists(
    st.fixed_dictionaries(
        {
            "t_seconds": st.dictionaries(TEXTS, st.builds(histogram_of, COUNTS, NUMBERS, EXEMPLARS), max_size=3),
            "t_total": st.dictionaries(TEXTS, NUMBERS, max_size=3),
            "t": st.dictionaries(TEXTS, st.one_of(NUMBERS, st.builds(Ratio, NUMBERS, st.just(4.0))), max_size=3),
        }
    ),
    min_size=2,
    max_size=4,
)
KINDS = {"t_seconds": "histogram", "t_total": "counter", "t": "gauge"}


@settings(max_examples=40)
@given(SCRAPES, st.sampled_from([TEXT, TEXT_1, OPENMETRICS]))
async def test_every_scrape_is_what_the_library_writes_of_the_values_of_then(scrapes, content_type) -> None:
    exposition = Exposition()
    for scrape in scrapes:
        families = [
            Family(name, KINDS[name], "Of %s.", [({"b": "%", "a": text}, value) for text, value in series.items()])
            for name, series in scrape.items()
        ]
        written = b"".join([block async for block in exposition.render(families, content_type)])
        assert written == at_once(Library(families), content_type)


def encoded_samples(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that grows by how many samples the library encodes at each call."""
    from turnout.telemetry import exposition

    encoded: list[int] = []
    original = exposition.choose_encoder

    def counting(accept: str):
        encoder, content_type = original(accept)

        def encode(registry: Collector) -> bytes:
            encoded.append(sum(len(metric.samples) for metric in registry.collect()))
            return encoder(registry)

        return encode, content_type

    monkeypatch.setattr(exposition, "choose_encoder", counting)
    return encoded


async def test_the_library_encodes_a_series_once_and_again_after_it_was_away(monkeypatch) -> None:
    encoded = encoded_samples(monkeypatch)
    exposition = Exposition()

    async def scrape(series: int, accept: str) -> int:
        encoded.clear()
        async for _ in exposition.render(several(series), negotiate(accept)):
            pass
        return sum(encoded) - 1  # how exemplars are written is asked for each time

    assert await scrape(100, "") == 600
    assert await scrape(100, "") == 0
    assert await scrape(100, "application/openmetrics-text;version=1.0.0") == 600, "another format"
    assert await scrape(100, "application/openmetrics-text;version=7.0") == 0, "a version is the scraper's to choose"
    assert await scrape(101, "") == 6
    assert await scrape(1, "") == 0
    assert await scrape(101, "") == 600, "what a scrape does not write is not kept for the next"


async def test_the_loop_runs_on_while_a_scrape_is_written() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    beside = asyncio.create_task(others())
    text = await rendered(several(2000))
    beside.cancel()
    lines = text.count("\n")
    assert lines > 12_000
    assert turns > lines / 32 / 10  # where a series of 5 takes under 8 us, which no machine of today does


async def test_versions_and_roles_that_come_during_a_scrape_do_not_spoil_it() -> None:
    metrics = Metrics()
    for number in range(30):
        metrics.version("m", f"1.{number}.0", "sha256:").role("baseline").answered(0.01, 0.0, 0.01)
    blocks = []
    async for block in metrics.scrape(OPENMETRICS):
        blocks.append(block)
        if len(blocks) > 3:  # each adds to what is left to write
            continue
        for number in range(30):
            version = metrics.version("m", f"1.{number}.0", "sha256:")
            version.role(f"role {len(blocks)}")
            version.role("baseline").failed(f"CODE {len(blocks)}", 0.01)
        metrics.version("m", f"2.{len(blocks)}.0", "sha256:").role("baseline")
        metrics.unrouted("m", f"CODE {len(blocks)}")
    assert len(blocks) > 3
    text = b"".join(blocks)
    assert text.endswith(b"# EOF\n")
    assert b'role="role 1"' in text
    assert b'version="2.' not in text, "it shows the versions that there were when it began"


async def test_a_text_that_is_there_comes_in_blocks_too() -> None:
    text = bytes(range(256)) * 1000
    assert b"".join([block async for block in in_blocks(text)]) == text
    assert [block async for block in in_blocks(b"")] == []
