"""The batch plan in force for a version: the proved plan, until a run contradicts it. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from turnout.serving.batching.batch import BatchSizeMismatch, Line
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.sessions.tensor import Array, identical

_MOST_VALUES = 256
"""Maximum number of values kept; the oldest are dropped first."""

_MOST_BYTES = 65_536
"""Maximum size of one kept value in bytes."""


@dataclass(slots=True)
class PlanInForce:
    """The batch plan shared by all lanes of a version. Safe to use from several threads."""

    plan: BatchPlan
    _shared: dict[tuple[Line, str], Array] = field(default_factory=dict)

    def demote(self, fault: str) -> None:
        """Stops batching requests. Idempotent."""
        self.plan = replace(self.plan, max_rows=0, reason=f"unbatched: demoted at run time: {fault}")

    def may_join(self, line: Line, outputs: Iterable[str]) -> bool:
        """Returns whether requests of a line may share a run.

        Outputs without a batch axis go to every request whole, so their values must be known first. Until they are,
        requests run alone and `check` records the values.
        """
        whole = (name for name in outputs if name not in self.plan.output_axes)
        return self.plan.max_rows >= 2 and all((line, name) in self._shared for name in whole)

    def check(self, line: Line, outputs: Mapping[str, Array]) -> None:
        """Compares the outputs of a run that have no batch axis with their values in earlier runs of the same line.

        Such an output may depend only on what the line's requests have in common, such as a sampling rate. It must
        therefore be the same in every run of the line, whether of one request or of many.

        Raises:
            BatchSizeMismatch: An output differs from its earlier value.
        """
        for name in outputs.keys() - self.plan.output_axes.keys():
            value = outputs[name]
            known = self._shared.get((line, name))
            if known is None:
                if value.nbytes <= _MOST_BYTES:
                    self._shared[line, name] = value
                while len(self._shared) > _MOST_VALUES:
                    self._shared.pop(next(iter(list(self._shared))), None)  # a copy: other threads add to it
            elif not identical(known, value):
                raise BatchSizeMismatch(f"output {name}, given to all requests of a run, is not always the same")
