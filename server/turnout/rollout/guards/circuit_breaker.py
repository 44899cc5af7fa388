"""The circuit breaker: a slot that did well on the baseline and fails on the candidate rolls it back at once. Pure.

The evidence asks whether all of the candidate's traffic does worse than it may. It cannot say so of one routing key
that fails entirely, since one unit is no sample. This is for that case, and outside of alpha: it makes no promise about
how often it is wrong. It compares a slot with itself: what changed for it is the version that answers, unless
everybody else on the baseline fails in the same ticks too.

Failures are compared with failures first, and only then everything bad with everything bad. A busy machine stalls some
requests of every slot, the baseline's as well; three stalls of 200 must not hide that all of a tenant's requests fail.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Breaker:
    """When it trips.

    Attributes:
        on: It is looked at.
        requests: Of a slot on the candidate, at least.
        bad: Share of them that failed, stalled or were answered with invalid outputs, at least.
        known: Of the slot's latest 200 requests on the baseline, that have to be known at least.
        bad_before: Share of those that were bad, at most; one of fewer than 1 / `bad_before` is no more than that.
        bad_elsewhere: Share of bad ones among everything else on the baseline in the same ticks, below this.
    """

    on: bool = True
    requests: int = 20
    bad: float = 0.5
    known: int = 20
    bad_before: float = 0.01
    bad_elsewhere: float = 0.05


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How requests ended.

    Attributes:
        requests: All of them.
        failed: Errors and invalid outputs.
        bad: Those, and stalls.
    """

    requests: int = 0
    failed: int = 0
    bad: int = 0

    def __add__(self, other: "Outcomes") -> "Outcomes":
        return Outcomes(self.requests + other.requests, self.failed + other.failed, self.bad + other.bad)


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """What one slot's requests came to on one server.

    Attributes:
        server: The server's name.
        candidate: Its latest requests on the candidate, at most 200.
        before: Its latest requests on the baseline before it met the candidate, at most 200.
        elsewhere: Everything else on the server's baseline, in the ticks of `candidate`.
    """

    server: str
    slot: int
    candidate: Outcomes
    before: Outcomes
    elsewhere: Outcomes


def tripped(breaker: Breaker, records: Iterable[SlotRecord]) -> SlotRecord | None:
    """Returns the slot that harms most among those that trip the breaker; None if none does."""
    found = [record for record in records if breaker.on and _trips(breaker, record)]
    return max(found, key=lambda record: record.candidate.bad, default=None)


def trip_text(record: SlotRecord) -> str:
    """Returns why the candidate is rolled back, in words and numbers."""
    where = f" on {record.server}" if record.server else ""
    met, before, elsewhere = record.candidate, record.before, record.elsewhere
    return (
        f"circuit breaker: of {met.requests} requests of slot {record.slot}{where} {_went(met)} on the candidate; "
        f"of {before.requests} before on the baseline {_went(before)}; "
        f"of {elsewhere.requests} of everybody else's there meanwhile {_went(elsewhere)}"
    )


def _trips(breaker: Breaker, record: SlotRecord) -> bool:
    met, before, elsewhere = record.candidate, record.before, record.elsewhere
    if met.requests < breaker.requests or before.requests < breaker.known:
        return False

    def worse(now: int, past: int, others: int) -> bool:
        return (
            now >= breaker.bad * met.requests
            and past <= math.ceil(breaker.bad_before * before.requests - 1e-9)  # 7 of 100 are 7.000000000000001
            # Where nobody else asks the baseline anything, its own past is all that there is to go by.
            and (elsewhere.requests == 0 or others < breaker.bad_elsewhere * elsewhere.requests)
        )

    return worse(met.failed, before.failed, elsewhere.failed) or worse(met.bad, before.bad, elsewhere.bad)


def _went(outcomes: Outcomes) -> str:
    return f"{outcomes.failed} failed and {outcomes.bad - outcomes.failed} stalled"
