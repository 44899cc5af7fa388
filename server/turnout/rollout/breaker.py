"""The circuit breaker: a slot that did well on the baseline, and fails on the candidate, takes it back at once. Pure.

The evidence asks whether all of the candidate's traffic does worse than it may. It cannot say so of one routing key
that fails entirely, since one unit is no sample. This is for that case, and outside of alpha: it makes no promise about
how often it is wrong. It compares a slot with itself: what changed for it is the version that answers, unless
everybody else on the baseline fails in the same ticks too.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from turnout.rollout.evidence import Count


@dataclass(frozen=True, slots=True)
class Breaker:
    """When it trips.

    Attributes:
        on: It is looked at.
        requests: Of a slot on the candidate, at least.
        bad: Share of them that failed, stalled or were answered with invalid outputs, at least.
        known: Of the slot's latest 200 requests on the baseline, that have to be known at least.
        bad_before: Share of those that were bad, at most.
        bad_elsewhere: Share of bad ones among everything else on the baseline in the same ticks, below this.
    """

    on: bool = True
    requests: int = 20
    bad: float = 0.5
    known: int = 20
    bad_before: float = 0.01
    bad_elsewhere: float = 0.05


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """What one slot's requests came to on one server. Bad is an error, a stall or an invalid output.

    Attributes:
        server: The server's name.
        slot: Its number.
        candidate: Its latest requests on the candidate, at most 200.
        before: Its latest requests on the baseline before it met the candidate, at most 200.
        elsewhere: Everything else on the server's baseline, in the ticks of `candidate`.
    """

    server: str
    slot: int
    candidate: Count
    before: Count
    elsewhere: Count


def tripped(breaker: Breaker, records: Iterable[SlotRecord]) -> SlotRecord | None:
    """Returns the slot that harms most among those that trip the breaker; None where none does."""
    found = [record for record in records if breaker.on and _trips(breaker, record)]
    return max(found, key=lambda record: record.candidate.bad, default=None)


def trip_text(record: SlotRecord) -> str:
    """Returns why the candidate is taken back, in words and numbers."""
    where = f" on {record.server}" if record.server else ""
    return (
        f"circuit breaker: {_of(record.candidate)} requests of slot {record.slot}{where} went wrong on the candidate, "
        f"{_of(record.before)} before on the baseline, and {_of(record.elsewhere)} of everybody else's there meanwhile"
    )


def _trips(breaker: Breaker, record: SlotRecord) -> bool:
    met, before, elsewhere = record.candidate, record.before, record.elsewhere
    return (
        met.requests >= breaker.requests
        and met.bad >= breaker.bad * met.requests
        and before.requests >= breaker.known
        and before.bad <= breaker.bad_before * before.requests
        # Where nobody else asks the baseline anything, its own past is all that there is to go by.
        and (elsewhere.requests == 0 or elsewhere.bad < breaker.bad_elsewhere * elsewhere.requests)
    )


def _of(count: Count) -> str:
    return f"{count.bad} of {count.requests}"
