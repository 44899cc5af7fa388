"""Writes the metrics for a scrape with prometheus-client's encoders, without blocking the event loop.

An encoder takes about 7 us per sample and writes a whole registry at once: the 30,000 samples of 100 busy versions
blocked the loop for 0.2 s. This module encodes each series separately and yields to the loop in between. Later scrapes
reuse the text of a series and only insert new values (docs/decisions/0069, 0077).
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import lru_cache
from itertools import accumulate, islice
from typing import cast

from prometheus_client import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

from turnout.telemetry.families import Family, Kind, Labels, Value
from turnout.telemetry.histogram import Histogram
from turnout.telemetry.ratios import Ratio, ShadowAgreement

_SAMPLES_PER_PIECE = 32
"""Number of samples that are encoded in one step. This takes about 0.3 ms of one core, including their creation."""

_PIECES_SECONDS = 0.0005
"""Seconds after which to yield to the event loop."""

_BLOCK_BYTES = 64 * 1024
"""Maximum size of a block of a response. 3 MB in one block stalled the loop for 20 ms, since it is copied when sent."""

_UNITS = ("seconds", "bytes", "ratio")

_number_text: Callable[[float], str] = floatToGoString

_ESCAPING = re.compile(r";\s*escaping=[^;,]*")

_Templates = dict[str, str]
"""The text of each series, with `%s` for each value. The key is its name, its labels and, for a histogram, its bounds.
Keys are strings because the garbage collector ignores those: tuples kept between scrapes made it run for 3 to 30 ms."""


def negotiate(accept: str) -> str:
    """Returns the content type of the response to a scraper's Accept header; "" for none.

    The escaping of names is not negotiated, since every Prometheus release accepts the names that Turnout uses.
    """
    try:
        return choose_encoder(_ESCAPING.sub("", accept.lower()))[1]
    except TypeError:  # the library compares the version with a number, even if it is not one
        return CONTENT_TYPE_PLAIN_0_0_4


class Exposition:
    """Writes metrics for scrapes, and caches the text of each series between scrapes."""

    def __init__(self) -> None:
        self._templates: dict[str, _Templates] = {}

    async def render(self, registry: Collector, content_type: str) -> AsyncIterator[bytes]:
        """Yields the text of all metrics in blocks, and yields to the event loop every half millisecond.

        Samples may be created during iteration. `content_type` comes from `negotiate`.
        """
        media_type = content_type.partition(";")[0]  # the parameters come from the scraper and may be of any length
        writer = _Writer(content_type, self._templates.get(media_type, {}))
        block: list[str] = []
        size = 0
        begun = time.perf_counter()
        for metric in registry.collect():
            for piece in writer.write(metric):
                block.append(piece)
                size += len(piece)
                if size >= _BLOCK_BYTES:
                    yield "".join(block).encode()
                    block, size = [], 0
                if time.perf_counter() - begun > _PIECES_SECONDS:
                    await asyncio.sleep(0)
                    begun = time.perf_counter()
        self._templates[media_type] = writer.used
        yield "".join([*block, writer.end]).encode()


async def in_blocks(text: bytes) -> AsyncIterator[bytes]:
    """Yields `text` in blocks, as `Exposition.render` does."""
    for start in range(0, len(text), _BLOCK_BYTES):
        yield text[start : start + _BLOCK_BYTES]


class FamilyCollector:
    """A prometheus-client collector for metric families."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        """Creates the collector of the families that `families` returns for each scrape."""
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yields each family as a metric, whose samples are created during iteration."""
        for family in self._families():
            name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
            last = name.rpartition("_")[2]
            metric = Metric(name, family.help, family.kind, last if last in _UNITS else "")
            metric.samples = cast(list[Sample], _FamilySamples(family))
            yield metric


def own_families(metrics: Iterable[Metric]) -> Iterator[Family]:
    """Returns metrics of prometheus-client's own collectors, such as those of the process, as families."""
    for metric in metrics:
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        series = [(sample.labels, sample.value) for sample in metric.samples if sample.name == name]
        yield Family(name, cast(Kind, metric.type), metric.documentation, series)


class _Writer:
    """Writes the metrics of one scrape.

    Attributes:
        end: The text after the last metric.
        used: Templates of all series written, for the next scrape.
    """

    def __init__(self, content_type: str, known: _Templates) -> None:
        # With any other escaping, the library checks every character of each name, which costs 5 us per sample.
        self._encoder, _ = choose_encoder(f"{content_type.partition('; escaping=')[0]}; escaping=allow-utf-8")
        self._known = known
        self.used: _Templates = {}
        self.end = self._encoder(_Only([])).decode()
        self._exemplar = self._exemplar_template()

    def write(self, metric: Metric) -> Iterator[str]:
        """Yields the heading of a metric, then its lines in small groups."""
        heading = self._encode(metric, [])
        yield heading
        if isinstance(metric.samples, _FamilySamples):
            yield from self._family(metric, metric.samples.family, heading)
        else:
            samples = iter(metric.samples)
            while some := list(islice(samples, _SAMPLES_PER_PIECE)):
                yield self._encode(metric, some, heading)

    def _family(self, metric: Metric, family: Family, heading: str) -> Iterator[str]:
        for labels, value in family.series:
            key = f"{family.name}{labels}"
            if isinstance(value, Histogram):
                key += str(_bound_texts(tuple(value.bounds)))
            template = self._known.get(key)
            if template is None:
                zero = Histogram(value.bounds) if isinstance(value, Histogram) else 0.0
                text = self._encode(metric, list(_samples(family.name, labels, zero)), heading)
                template = text.replace("%", "%%").replace(" 0.0\n", " %s\n")  # newlines in labels are escaped
            self.used[key] = template
            yield template % self._values(value)

    def _values(self, value: Value) -> tuple[str, ...]:
        """Returns the values of a series, one for each of its lines."""
        if not isinstance(value, Histogram):
            return (_number_text(_number(value)),)
        texts = [*map(_count_text, accumulate(value.counts))]
        count = texts[-1]
        if self._exemplar and value.exemplars:
            for index, one in value.exemplars.items():
                texts[index] += self._exemplar % (one.trace_id, _number_text(one.value), round(one.time, 3))
        return (*texts, count, _number_text(value.total))

    def _exemplar_template(self) -> str:
        """Returns the text of an exemplar, with `%s` for its trace, value and time; "" if the format has none."""
        metric = Metric("h", "", "histogram")
        sample = Sample("h_bucket", {}, 0.0, None, Exemplar({"trace_id": "0"}, 0.0, 0.0))
        line = self._encode(metric, [sample], self._encode(metric, []))
        return line.rstrip().partition(" 0.0")[2].replace('"0"', '"%s"').replace(" 0.0", " %s")

    def _encode(self, metric: Metric, samples: list[Sample], heading: str = "") -> str:
        """Returns the encoded text of some samples of a metric, without the heading and the end."""
        piece = Metric(metric.name, metric.documentation, metric.type, metric.unit)
        piece.samples = samples
        return self._encoder(_Only([piece])).decode().removesuffix(self.end).removeprefix(heading)


class _Only:
    """A minimal registry with the given metrics."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class _FamilySamples:
    def __init__(self, family: Family) -> None:
        self.family = family

    def __iter__(self) -> Iterator[Sample]:
        for labels, value in self.family.series:
            yield from _samples(self.family.name, labels, value)


def _samples(name: str, labels: Labels, value: Value) -> Iterator[Sample]:
    if not isinstance(value, Histogram):
        yield Sample(name, dict(labels), _number(value))
        return
    counts, total, known = list(value.counts), value.total, dict(value.exemplars or {})
    bucket, cumulative = f"{name}_bucket", 0
    for index, (bound, count) in enumerate(zip(_bound_texts(tuple(value.bounds)), counts, strict=True)):
        cumulative += count
        one = known.get(index)
        exemplar = one and Exemplar({"trace_id": one.trace_id}, one.value, round(one.time, 3))
        yield Sample(bucket, {**labels, "le": bound}, cumulative, None, exemplar)
    yield Sample(f"{name}_count", dict(labels), cumulative)
    yield Sample(f"{name}_sum", dict(labels), total)


def _number(value: float | Ratio | ShadowAgreement) -> float:
    return value.value if isinstance(value, Ratio | ShadowAgreement) else value


@lru_cache
def _bound_texts(bounds: tuple[float, ...]) -> list[str]:
    return [*map(repr, bounds), "+Inf"]


_count_text = lru_cache(maxsize=16_384)(_number_text)
"""A count as the library writes it. Cached, since most buckets have the same count as their neighbour."""
