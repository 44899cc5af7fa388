"""Chooses which settings of a version are tried, and in which order. Pure.

One group of settings is tried after another, each combined with the best of the groups before: threads and runners
together, since they share the cores; then the batch size; then how long a runner waits for a fuller batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from turnout.config import ModelSettings
from turnout.serving.inputs.rows import doubled_up_to

_ROWS = (4, 8, 16, 32, 64, 128)
_DELAYS_MS = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class Tuned:
    """The settings that are tuned.

    Attributes:
        threads: `runtime.intra_op_threads`.
        runners: `runtime.runners`.
        max_rows: `batching.max_rows`; 0 if batching is off.
        delay_ms: `batching.max_delay_ms`.
        cuda_graphs: `runtime.cuda_graphs`.
    """

    threads: int
    runners: int
    max_rows: int
    delay_ms: float
    cuda_graphs: str = "off"

    @classmethod
    def of(cls, settings: ModelSettings) -> Self:
        """Extracts the tuned settings from a model's settings."""
        batching, runtime = settings.batching, settings.runtime
        rows = batching.most_rows
        return cls(
            runtime.intra_op_threads, runtime.runners, rows, batching.max_delay_ms, cuda_graphs=runtime.cuda_graphs
        )

    def over(self, settings: ModelSettings) -> ModelSettings:
        """Returns a model's settings with these applied."""
        runtime = settings.runtime.model_copy(update=self.tables()["runtime"])
        return replace(
            settings, runtime=runtime, batching=settings.batching.model_copy(update=self.tables()["batching"])
        )

    def tables(self) -> dict[str, dict[str, Any]]:
        """Returns the settings by table and key; settings without effect are left out."""
        batching: dict[str, Any] = {"enabled": bool(self.max_rows)}
        if self.max_rows:
            batching |= {"max_rows": self.max_rows, "max_delay_ms": self.delay_ms}
        runtime = {"intra_op_threads": self.threads, "runners": self.runners, "cuda_graphs": self.cuda_graphs}
        return {"runtime": runtime, "batching": batching}

    def changes(self, before: "Tuned") -> dict[str, dict[str, Any]]:
        """Returns, by table and key, the settings that differ from `before`."""
        old = before.tables()
        changed = {
            table: {key: value for key, value in keys.items() if old[table].get(key) != value}
            for table, keys in self.tables().items()
        }
        return {table: keys for table, keys in changed.items() if keys}

    def __str__(self) -> str:
        runners = "runners by cores" if not self.runners else _counted(self.runners, "runner")
        if self.cuda_graphs != "off":
            runners += " with CUDA graphs"
        threads = "threads by ONNX Runtime" if not self.threads else _counted(self.threads, "thread")
        if not self.max_rows:
            return f"{runners}, {threads}, unbatched"
        delay = f", {self.delay_ms:g} ms delay" if self.delay_ms else ""
        return f"{runners}, {threads}, up to {self.max_rows} rows{delay}"


def threads_and_runners(best: Tuned, cores: int, *, on_gpu: bool) -> Iterator[Tuned]:
    """Yields other ways to share the cores. On a GPU, the number of threads has no effect."""
    if on_gpu:
        yield from (replace(best, runners=runners, cuda_graphs="off") for runners in (1, 2, 3, 4))
        yield replace(best, runners=0, cuda_graphs="auto")
        return
    for threads in doubled_up_to(cores):
        for runners in doubled_up_to(max(cores // threads, 1)):
            yield replace(best, threads=threads, runners=runners)


def batch_sizes(best: Tuned, most_rows: int) -> Iterator[Tuned]:
    """Yields other batch sizes, including no batching, if the manifest and the proof allow 2 rows or more."""
    if most_rows >= 2:
        yield replace(best, max_rows=0)
        yield from (replace(best, max_rows=rows) for rows in _ROWS if rows <= most_rows)


def delays(best: Tuned, most_rows: int) -> Iterator[Tuned]:
    """Yields other times for which a runner waits for a fuller batch."""
    if best.max_rows >= 2 and most_rows >= 2:
        yield from (replace(best, delay_ms=delay) for delay in (0.0, *_DELAYS_MS))


def untried(candidates: Iterator[Tuned], tried: Sequence[Tuned]) -> list[Tuned]:
    """Returns the candidates that have not been tried, without duplicates."""
    return [candidate for candidate in dict.fromkeys(candidates) if candidate not in tried]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
