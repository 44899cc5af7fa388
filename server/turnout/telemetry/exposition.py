"""Answers scrapes with prometheus-client's encoders, a few samples at a time, so that the serving loop never stalls.

An encoder takes about 7 us a sample and writes all of a registry in one go: the 30,000 samples of 100 busy versions
held the loop for 0.2 s (docs/decisions/0069-metrics-are-a-collector.md).
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import cast

from prometheus_client import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

from turnout.telemetry.families import Family, Labels
from turnout.telemetry.histogram import Histogram
from turnout.telemetry.ratios import Ratio, ShadowAgreement

_SAMPLES_PER_PIECE = 32
"""About 0.3 ms of one core, with making them."""

_PIECES_SECONDS = 0.0005
"""After which the event loop is given back."""

_BLOCK_BYTES = 64 * 1024
"""Of one part of an answer: 3 MB in one piece held the loop for 20 ms, since it is copied on its way out."""

_UNITS = ("seconds", "bytes", "ratio")

_ESCAPING = re.compile(r";\s*escaping=[^;,]*")


def negotiate(accept: str) -> str:
    """Returns the content type that a scraper gets.

    How names are escaped is not negotiated: every name here is one that Prometheus has always taken.

    Args:
        accept: The Accept header as it came; "" for none.
    """
    try:
        return choose_encoder(_ESCAPING.sub("", accept.lower()))[1]
    except TypeError:  # the version is not a number; the library compares it with one all the same
        return CONTENT_TYPE_PLAIN_0_0_4


async def render(registry: Collector, content_type: str) -> AsyncIterator[bytes]:
    """Yields what `registry` collects, block by block, giving the event loop back every half a millisecond.

    Args:
        registry: The metrics. Their samples may be made as they are iterated over.
        content_type: One that `negotiate` returned.
    """
    # The library looks at every letter of a name that it may have to escape: with this it does not, 0.16 s less in all.
    encode, _ = choose_encoder(f"{content_type.partition('; escaping=')[0]}; escaping=allow-utf-8")
    end = encode(_Only([]))
    block: list[bytes] = []
    size = 0
    begun = time.perf_counter()
    for metric in registry.collect():
        piece = Metric(metric.name, metric.documentation, metric.type, metric.unit)
        heading = encode(_Only([piece])).removesuffix(end)
        block.append(heading)
        samples = iter(metric.samples)
        while some := list(islice(samples, _SAMPLES_PER_PIECE)):
            piece.samples = some
            block.append(encode(_Only([piece])).removesuffix(end).removeprefix(heading))
            size += len(block[-1])
            if size >= _BLOCK_BYTES:
                yield b"".join(block)
                block, size = [], 0
            if time.perf_counter() - begun > _PIECES_SECONDS:
                await asyncio.sleep(0)
                begun = time.perf_counter()
    yield b"".join([*block, end])


async def in_blocks(text: bytes) -> AsyncIterator[bytes]:
    """Yields a text that is there as `render` would."""
    for start in range(0, len(text), _BLOCK_BYTES):
        yield text[start : start + _BLOCK_BYTES]


class FamilyCollector:
    """Puts families into a registry of prometheus-client."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        """Prepares.

        Args:
            families: Returns them as they are at a scrape.
        """
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yields each family; its samples are made as they are iterated over."""
        for family in self._families():
            name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
            last = name.rpartition("_")[2]
            metric = Metric(name, family.help, family.kind, last if last in _UNITS else "")
            metric.samples = cast(list[Sample], _FamilySamples(family))
            yield metric


class _Only:
    """Collects some metrics and no others."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class _FamilySamples:
    """The samples of a family."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def __iter__(self) -> Iterator[Sample]:
        name = self._family.name
        for labels, value in self._family.series:
            if isinstance(value, Histogram):
                yield from _histogram_samples(name, labels, value)
            else:
                yield Sample(name, dict(labels), value.value if isinstance(value, Ratio | ShadowAgreement) else value)


def _histogram_samples(name: str, labels: Labels, histogram: Histogram) -> Iterator[Sample]:
    counts, total, known = list(histogram.counts), histogram.total, dict(histogram.exemplars or {})
    bucket, cumulative = f"{name}_bucket", 0
    for index, (bound, count) in enumerate(zip(_bound_texts(tuple(histogram.bounds)), counts, strict=True)):
        cumulative += count
        one = known.get(index)
        exemplar = one and Exemplar({"trace_id": one.trace_id}, one.value, round(one.time, 3))
        yield Sample(bucket, {**labels, "le": bound}, cumulative, None, exemplar)
    yield Sample(f"{name}_count", dict(labels), cumulative)
    yield Sample(f"{name}_sum", dict(labels), total)


@lru_cache
def _bound_texts(bounds: tuple[float, ...]) -> list[str]:
    return [*map(repr, bounds), "+Inf"]
