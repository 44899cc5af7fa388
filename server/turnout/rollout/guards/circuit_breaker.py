"""The circuit breaker: a slot that did well on the baseline and fails on the candidate rolls it back at once. Pure.

The evidence tests whether all of the candidate's traffic is worse than allowed. It cannot detect a single routing key
whose requests all fail, since one unit is not a sample. The circuit breaker covers that case. It is not covered by
alpha: there is no guarantee about how often it is wrong. It compares a slot with itself: only the version that answers
has changed for it, unless the rest of the baseline's traffic fails in the same ticks too.

Failures are compared with failures first, and then all bad requests with all bad requests. A busy machine stalls some
requests of every slot, including the baseline's, and three stalls in 200 requests must not hide that all requests of a
tenant fail.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Breaker:
    """When the circuit breaker trips.

    Attributes:
        on: Whether it is enabled.
        requests: Minimum number of requests of a slot on the candidate.
        bad: Minimum share of them that failed, stalled or were answered with invalid outputs.
        known: Minimum number of known requests among the slot's latest 200 on the baseline.
        bad_before: Maximum share of those that were bad. One bad request in fewer than 1 / `bad_before` is allowed.
        bad_elsewhere: Limit that the share of bad requests in the rest of the baseline's traffic, in the same ticks,
            must stay below.
    """

    on: bool = True
    requests: int = 20
    bad: float = 0.5
    known: int = 20
    bad_before: float = 0.01
    bad_elsewhere: float = 0.05


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The outcomes of requests.

    Attributes:
        failed: Number of errors and invalid outputs.
        bad: Number of errors, invalid outputs and stalls.
    """

    requests: int = 0
    failed: int = 0
    bad: int = 0

    def __add__(self, other: "Outcomes") -> "Outcomes":
        return Outcomes(self.requests + other.requests, self.failed + other.failed, self.bad + other.bad)


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """The outcomes of one slot's requests on one server.

    Attributes:
        candidate: Its latest requests on the candidate: at most 200, or those of five seconds.
        before: Its latest requests on the baseline before the candidate answered it, at most 200.
        elsewhere: All other requests of the server's baseline in the ticks of `candidate`.
    """

    server: str
    slot: int
    candidate: Outcomes
    before: Outcomes
    elsewhere: Outcomes


def tripped(breaker: Breaker, records: Iterable[SlotRecord]) -> SlotRecord | None:
    """Returns the slot with the most bad requests among those that trip the breaker; None if none does."""
    found = [record for record in records if breaker.on and _trips(breaker, record)]
    return max(found, key=lambda record: record.candidate.bad, default=None)


def trip_text(record: SlotRecord) -> str:
    """Returns why the candidate is rolled back, in words and numbers."""
    where = f" on {record.server}" if record.server else ""
    met, before, elsewhere = record.candidate, record.before, record.elsewhere
    return (
        f"circuit breaker: of {met.requests} requests of slot {record.slot}{where} {_went(met)} on the candidate; "
        f"of {before.requests} before on the baseline {_went(before)}; "
        f"of {elsewhere.requests} others there in the same time {_went(elsewhere)}"
    )


def _trips(breaker: Breaker, record: SlotRecord) -> bool:
    met, before, elsewhere = record.candidate, record.before, record.elsewhere
    if met.requests < breaker.requests or before.requests < breaker.known:
        return False

    def worse(now: int, past: int, others: int) -> bool:
        return (
            now >= breaker.bad * met.requests
            and past <= math.ceil(breaker.bad_before * before.requests - 1e-9)  # 7 of 100 are 7.000000000000001
            # If the baseline gets no other requests, the slot's own past is the only comparison.
            and (elsewhere.requests == 0 or others < breaker.bad_elsewhere * elsewhere.requests)
        )

    return worse(met.failed, before.failed, elsewhere.failed) or worse(met.bad, before.bad, elsewhere.bad)


def _went(outcomes: Outcomes) -> str:
    return f"{outcomes.failed} failed and {outcomes.bad - outcomes.failed} stalled"
