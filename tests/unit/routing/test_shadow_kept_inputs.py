"""The kept inputs of disagreements take a bounded amount of memory, and the worst disagreements have theirs."""

from datetime import UTC, datetime

import numpy as np
import pytest

from turnout.registry.manifest.manifest import Tolerance
from turnout.routing.shadow.compare import AnswerComparison, OutputRule, compare
from turnout.routing.shadow.ledger import Disagreement, Ledger
from turnout.serving.sessions.tensor import Array
from turnout.telemetry.metrics.shadow import ShadowRecorder

MIB = 1 << 20
RULES = {"y": OutputRule(Tolerance(1e-5, 1e-3))}
ONE = np.ones(1, np.float32)


def comparison(severity: float) -> AnswerComparison:
    return compare({"y": ONE}, {"y": ONE * severity}, RULES)


def ledger_of(sizes: dict[int, Array]) -> Ledger:
    """Returns a ledger that keeps one disagreement for each severity, with its input."""
    ledger = Ledger(ShadowRecorder("m", "2.0.0"), 100)
    for severity, array in sizes.items():
        found = comparison(severity)
        assert ledger.compare(found, 1, 0.0)
        ledger.keep(Disagreement(str(severity), datetime(2026, 1, 1, tzinfo=UTC), found, {"x": array}))
    return ledger


@pytest.mark.parametrize("order", [1, -1], ids=["rising", "falling"])
def test_the_worst_disagreements_keep_their_inputs(order: int) -> None:
    ledger = ledger_of({severity: np.zeros(5 * MIB, np.uint8) for severity in range(2, 22)[::order]})
    assert [one.request_id for one in ledger.worst] == [str(n) for n in range(21, 1, -1)]
    assert [bool(one.inputs) for one in ledger.worst] == [True] * 6 + [False] * 14


def test_an_input_without_room_leaves_it_to_smaller_ones() -> None:
    ledger = ledger_of({3: np.zeros(33 * MIB, np.uint8), 2: np.zeros(4 * MIB, np.uint8)})
    assert [bool(one.inputs) for one in ledger.worst] == [False, True]


def test_strings_count_with_their_characters() -> None:
    ledger = ledger_of({n: np.array(["x" * 20 * MIB], object) for n in (2, 3)})
    assert [bool(one.inputs) for one in ledger.worst] == [True, False]
