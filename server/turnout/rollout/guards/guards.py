"""Absolute guards: limits that a plan sets on the candidate alone, regardless of the baseline. Pure.

The evidence tests whether the candidate is worse than the baseline. A guard tests whether it is good enough: it limits
the share of errors or invalid answers, or the p99 in milliseconds. It trips if the candidate's requests in the step
show that its rate is above the limit, by a binomial e-value of 100. So a limit of 1 % is not violated by the first
error in ten requests, but a limit of 0 is violated by the first error. Guards are not covered by alpha, like the
circuit breaker.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from turnout.rollout.evidence import ERRORS, INVALID, Count
from turnout.rollout.evidence.likelihood import mean_exp, rate_ratio
from turnout.rollout.evidence.serial import shared_fate

LIMIT = "limit"
"""Metric under which ticks count the requests slower than `p99_ms`."""

_P99 = 0.01
_MULTIPLES = (1.5, 2.0, 5.0, 20.0)
_ENOUGH = 100.0


@dataclass(frozen=True, slots=True)
class Guards:
    """Limits on the candidate; None for no limit.

    Attributes:
        error_share: Maximum share of its requests that fail because of the server.
        p99_ms: Time in milliseconds that at most one in a hundred of its requests may exceed.
        invalid_share: Maximum share of its answers with NaN or infinity in an output.
    """

    error_share: float | None = None
    p99_ms: float | None = None
    invalid_share: float | None = None

    def over(self, other: "Guards | None") -> "Guards":
        """Returns these limits, with missing ones taken from `other`."""
        if other is None:
            return self
        missing = {f.name: getattr(other, f.name) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **missing)


def broken(guards: Guards, counts: Mapping[str, Count], excess: Mapping[str, float], phi: int) -> str:
    """Returns which limit the candidate breaks, in words and numbers; "" if it keeps them all.

    `counts` are the candidate's in this step by metric; `LIMIT` counts what was slower than `p99_ms`. `excess` is as of
    `Rollout.step_excess`; `phi` requests share their fate in a batch.
    """
    for name, share, text in _limits(guards, counts):
        dispersion = np.asarray(1.0 + excess.get(name, 0.0) / max(counts[name].bad, 1))
        if _above(counts[name], share, float(shared_fate(dispersion, phi))):
            return text
    return ""


def _limits(guards: Guards, counts: Mapping[str, Count]) -> Iterator[tuple[str, float, str]]:
    wanted = (
        (ERRORS, guards.error_share, "requests failed, where the plan allows {:.3%}"),
        (INVALID, guards.invalid_share, "answers had NaN or infinity in them, where the plan allows {:.3%}"),
        (LIMIT, None if guards.p99_ms is None else _P99, f"requests took longer than the {guards.p99_ms} ms"
         " that the plan sets as p99"),
    )  # fmt: skip
    for name, share, text in wanted:
        if share is not None and name in counts:
            seen = counts[name]
            yield name, share, f"guard: {seen.bad} of {seen.requests} {text.format(share)}"


def _above(count: Count, share: float, phi: float) -> bool:
    if not count.bad or count.bad <= share * count.requests:
        return False
    logs = [rate_ratio(count, share, max(share, 1e-3) * multiple) / phi for multiple in _MULTIPLES]
    return mean_exp(logs) >= _ENOUGH
