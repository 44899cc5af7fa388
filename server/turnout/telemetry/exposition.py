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
from itertools import accumulate
from typing import cast

from prometheus_client import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

from turnout.telemetry.families import Family, Kind, Labels, Value
from turnout.telemetry.histogram import Histogram
from turnout.telemetry.ratios import Ratio, ShadowAgreement

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

    async def render(self, families: Iterable[Family], content_type: str) -> AsyncIterator[bytes]:
        """Yields the text of all metrics in blocks, and yields to the event loop every half millisecond.

        Families may be created during iteration. `content_type` comes from `negotiate`.
        """
        media_type = content_type.partition(";")[0]  # the parameters come from the scraper and may be of any length
        writer = _Writer(content_type, self._templates.get(media_type, {}))
        block: list[str] = []
        size = 0
        begun = time.perf_counter()
        for family in families:
            for piece in writer.write(family):
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

    def write(self, family: Family) -> Iterator[str]:
        """Yields the heading of a family, then the lines of each series."""
        name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
        last = name.rpartition("_")[2]
        metric = Metric(name, family.help, family.kind, last if last in _UNITS else "")
        heading = self._encode(metric, [])
        yield heading
        for labels, value in family.series:
            bounds = tuple(value.bounds) if isinstance(value, Histogram) else None
            key = f"{family.name}{labels}{'' if bounds is None else _bound_texts(bounds)}"
            template = self._known.get(key)
            if template is None:
                text = self._encode(metric, list(_zeros(family.name, labels, bounds)), heading)
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


def _zeros(name: str, labels: Labels, bounds: tuple[float, ...] | None) -> Iterator[Sample]:
    """Yields the samples of a series with the value 0: of a histogram if there are `bounds`."""
    if bounds is None:
        yield Sample(name, dict(labels), 0.0)
        return
    for bound in _bound_texts(bounds):
        yield Sample(f"{name}_bucket", {**labels, "le": bound}, 0.0)
    yield Sample(f"{name}_count", dict(labels), 0.0)
    yield Sample(f"{name}_sum", dict(labels), 0.0)


def _number(value: float | Ratio | ShadowAgreement) -> float:
    return value.value if isinstance(value, Ratio | ShadowAgreement) else value


@lru_cache
def _bound_texts(bounds: tuple[float, ...]) -> list[str]:
    return [*map(repr, bounds), "+Inf"]


_count_text = lru_cache(maxsize=16_384)(_number_text)
"""A count as the library writes it. Cached, since most buckets have the same count as their neighbour."""
