"""The outcomes of slots on the baseline before a rollout's first step, and the expectations from them. Pure.

A tenant that was always slow is not evidence. So the exposure of a unit is not the number of its requests, but their
expected bad events: requests x the unit's own share of bad events before, shrunk towards the overall share by two
events' worth. The window is the same for both arms and all steps, and ends before the first step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from turnout.rollout.evidence import ERRORS, GROUPS, INVALID, STALLED
from turnout.rollout.evidence.packing import packed, unpacked
from turnout.serving.counting.keyed_outcomes import ERROR, SLOTS, BySlot, KeyedWindow
from turnout.serving.counting.keyed_outcomes import INVALID as INVALID_MARK

_PRIOR_EVENTS = 2.0
_LEAST_SHARE = 1e-6

PACKED_SLOTS = 1024
"""Number of slots kept over a restart, those with the most requests. The others count as unknown afterwards."""

LATEST = 200
"""Number of latest requests of a slot on the baseline that the circuit breaker uses."""


@dataclass(frozen=True, slots=True, eq=False)
class SlotRecords:
    """Requests and bad requests by slot, in the window before the first step.

    Attributes:
        requests: Number of requests; shape (SLOTS,).
        bad: Number of bad requests by metric; shape (SLOTS,).
    """

    requests: BySlot
    bad: Mapping[str, BySlot] = field(default_factory=dict)

    @classmethod
    def of(cls, window: KeyedWindow, thresholds: Mapping[str, float], late: float) -> Self:
        """Counts the requests in a window by thresholds in seconds. Those that take longer than `late` are errors."""
        entries = window.entries
        bad = {
            ERRORS: entries.count(entries.marked(ERROR) | entries.slower(late)),
            INVALID: entries.count(entries.marked(INVALID_MARK)),
        }
        bad |= {name: entries.count(entries.slower(seconds)) for name, seconds in thresholds.items()}
        return cls(entries.count(), bad)

    def shares(self, metric: str, owned: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Returns the expected share of bad events of each group, over the slots of one arm; shape (GROUPS,).

        Only proportions matter. If no bad event is known, all groups have the same share.
        """
        bad = self.bad.get(metric)
        if bad is None or not (events := int(bad.sum())):
            return np.ones(GROUPS)
        mean = max(events / int(self.requests.sum()), _LEAST_SHARE)
        n, x = (np.where(owned, counts, 0).reshape(-1, GROUPS).sum(axis=0) for counts in (self.requests, bad))
        shares: NDArray[np.float64] = (x + _PRIOR_EVENTS) / (n + _PRIOR_EVENTS / mean)
        return shares

    def latest(self) -> tuple[BySlot, BySlot, BySlot]:
        """Estimates each slot's latest requests for the circuit breaker, after the requests themselves were lost.

        Returns:
            Requests, failed ones and bad ones of each slot, of shape (SLOTS,) each.
        """
        known = np.minimum(self.requests, LATEST)
        scale = known / np.maximum(self.requests, 1)

        def scaled(*names: str) -> BySlot:
            bad = sum((self.bad[name] for name in names if name in self.bad), np.zeros(SLOTS, int))
            return np.ceil(np.minimum(bad, self.requests) * scale).astype(np.int64)

        return known, scaled(ERRORS, INVALID), scaled(ERRORS, INVALID, STALLED)

    def packed(self) -> str:
        """Returns the form that is stored with the rollout, a few kB of text."""
        slots = np.argsort(-self.requests, kind="stable")[:PACKED_SLOTS]
        slots = np.sort(slots[self.requests[slots] > 0])
        columns = (counts[slots] for counts in (self.requests, *self.bad.values()))
        return f"{','.join(self.bad)} {packed(slots, *columns)}"

    @classmethod
    def unpacked(cls, text: str) -> Self:
        """Parses the output of `packed`. Raises ValueError if it is not in that form."""
        if not isinstance(text, str) or " " not in text:
            raise ValueError("expected the names of metrics, and packed columns")
        names, columns = text.split(" ", 1)
        metrics = names.split(",")
        slots, *counts = (one.astype(np.int64) for one in unpacked(columns, "i" * (2 + len(metrics))))
        if (slots >= SLOTS).any():
            raise ValueError(f"expected slots below {SLOTS}")
        found = np.zeros((1 + len(metrics), SLOTS), np.int64)
        found[:, slots] = counts
        return cls(found[0], dict(zip(metrics, found[1:], strict=True)))


NO_RECORDS = SlotRecords(np.zeros(SLOTS, np.int64))
