"""How a version's requests are batched now: as proved, until a run shows otherwise. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from turnout.serving.batching.batch import BatchSizeMismatch, Line
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.sessions.tensor import Array

_MOST_VALUES = 256
"""Values that are kept, the oldest forgotten first."""

_MOST_BYTES = 65_536
"""Of one value that is kept."""


@dataclass(slots=True)
class PlanInForce:
    """The plan of all lanes of a version. May be used by several threads.

    Attributes:
        plan: By which runs are joined and split.
    """

    plan: BatchPlan
    _shared: dict[tuple[Line, str], Array] = field(default_factory=dict)

    def demote(self, fault: str) -> None:
        """Batches no requests from now on. May be called twice."""
        self.plan = replace(self.plan, max_rows=0, reason=f"unbatched: demoted at run time: {fault}")

    def may_join(self, line: Line, outputs: Iterable[str]) -> bool:
        """Tells whether requests of a line may share a run: outputs that all would get whole are known by now.

        Until then they run by themselves, and `check` learns it.
        """
        whole = (name for name in outputs if name not in self.plan.output_axes)
        return self.plan.max_rows >= 2 and all((line, name) in self._shared for name in whole)

    def check(self, line: Line, outputs: Mapping[str, Array]) -> None:
        """Compares the outputs that every request of a run gets whole with those of earlier runs of its line.

        Such an output may depend on what the line's requests have in common, such as a sampling rate, and on nothing
        else. So it is the same in each of the line's runs, of one request or of many.

        Args:
            line: Of the run's requests.
            outputs: Of the run, by name.

        Raises:
            BatchSizeMismatch: One is another than it was.
        """
        for name in outputs.keys() - self.plan.output_axes.keys():
            value = outputs[name]
            known = self._shared.get((line, name))
            if known is None:
                if value.nbytes <= _MOST_BYTES:
                    self._shared[line, name] = value
                while len(self._shared) > _MOST_VALUES:
                    self._shared.pop(next(iter(list(self._shared))), None)  # a copy: other threads add to it
            elif not _same(known, value):
                raise BatchSizeMismatch(f"output {name}, given to all requests of a run, is not always the same")


def _same(one: Array, other: Array) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(one.tolist() == other.tolist()) if one.dtype == object else one.tobytes() == other.tobytes()
