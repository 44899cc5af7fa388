"""Converts one arm's requests of one tick to the evidence's counts: unkeyed sums, and units by slot group. Pure."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from turnout.rollout.evidence import ERRORS, GROUPS, INVALID, Count, Units
from turnout.rollout.evidence.serial import InSequence
from turnout.serving.counting.keyed_outcomes import ERROR, UNTIMED
from turnout.serving.counting.keyed_outcomes import INVALID as INVALID_MARK
from turnout.serving.counting.run_lengths import RunLengths
from turnout.serving.counting.tick_counts import KeyedCounts, TickCounts

Shares = Mapping[str, NDArray[np.float64]]
"""By metric, the expected share of bad events of each group; shape (GROUPS,). For a metric without an entry, all groups
are expected to have the same share."""


def keyed_units(keyed: KeyedCounts, names: Sequence[str], shares: Shares) -> dict[str, Units]:
    """Counts one arm's requests with a key in a tick, by metric. `names` are those of the thresholds, in order."""
    if not len(keyed.admitted):
        return {}
    ended, blamed = keyed.ended, keyed.blamed
    admitted = keyed.admitted.count(modulus=GROUPS)
    under_way = admitted - ended.count(modulus=GROUPS)  # not ended when the tick was closed, so late
    timed = admitted - ended.count(ended.marked(UNTIMED), GROUPS)
    failed = ended.count(ended.marked(ERROR), GROUPS) + blamed.count(modulus=GROUPS) + under_way
    counts = {ERRORS: (admitted, failed), INVALID: (admitted, ended.count(ended.marked(INVALID_MARK), GROUPS))}
    for name, seconds in zip(names, keyed.rules.thresholds, strict=True):
        counts[name] = timed, ended.count(ended.slower(seconds), GROUPS) + under_way
    return {name: Units(n, x, n * shares.get(name, 1.0)) for name, (n, x) in counts.items()}


def unkeyed_counts(counts: TickCounts, keyed: Mapping[str, Units], names: Sequence[str]) -> dict[str, Count]:
    """Counts one arm's requests without a key in a tick, by metric. Arguments as of `keyed_units`."""
    totals = {ERRORS: Count(counts.admitted, counts.errors), INVALID: Count(counts.admitted, counts.invalid)}
    totals |= {name: Count(counts.timed, counts.slow(index)) for index, name in enumerate(names)}
    return {name: _without(total, keyed[name].total) if keyed else total for name, total in totals.items()}


def sequences_of(counts: TickCounts, names: Sequence[str]) -> dict[str, InSequence]:
    """Returns one arm's requests of a closed tick in the order in which they ended, by metric, keyed or not."""
    found = {
        ERRORS: _in_sequence(counts.admitted, counts.errors, counts.error_runs),
        INVALID: _in_sequence(counts.admitted, counts.invalid, counts.invalid_runs),
    }
    for index, (name, runs) in enumerate(zip(names, counts.slow_runs, strict=False)):  # no names: nobody looks yet
        found[name] = _in_sequence(counts.timed, counts.slow(index), runs)
    return found


def _in_sequence(requests: int, bad: int, runs: RunLengths) -> InSequence:
    return InSequence(requests, bad, runs.begun, runs.squares)


def _without(total: Count, part: Count) -> Count:
    return Count(total.requests - part.requests, total.bad - part.bad)
