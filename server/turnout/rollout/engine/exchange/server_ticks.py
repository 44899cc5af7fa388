"""One server's part of one tick, which each server sends to the server that drives the rollout. Pure."""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Self

from turnout.registry.manifest.json_form import JsonForm
from turnout.rollout.evidence import Count, Stratum, Tick
from turnout.rollout.guards.circuit_breaker import Outcomes, SlotRecord


@dataclass(frozen=True, slots=True)
class ShadowTick(JsonForm):
    """One server's copies of requests in one tick of the shadow stage.

    Attributes:
        copies: Copies that were judged, and those that count against the candidate.
        obstacle: Why copies cannot be compared there; "" if they can.
        epoch: Epoch at which the server knew the rollout.
    """

    copies: Count = field(default_factory=Count)
    obstacle: str = ""
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class ServerTick:
    """The counts of one server for one rollout in one tick.

    Attributes:
        number: Number of the tick, by the state store's clock.
        seconds: Active seconds that it covers.
        slots: Outcomes of slots that the candidate answers.
        latency: Number of answers by arm and bucket of latency, for display.
        shadow: The copies; nothing from earlier releases.
        recent: The baseline's latest latencies, as `turnout.rollout.thresholds.recent_buckets` returns them; empty
            while no thresholds are needed, and from earlier releases.
    """

    number: int
    seconds: float
    largest_batch: int
    stratum: Stratum
    slots: tuple[SlotRecord, ...]
    latency: Mapping[str, Mapping[str, int]]
    shadow: ShadowTick = field(default_factory=ShadowTick)
    recent: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the form in which the state store keeps it. The tick's number and server are stored separately."""
        slots = [
            [one.slot, *(part for o in (one.candidate, one.before, one.elsewhere) for part in astuple(o))]
            for one in self.slots
        ]
        return {
            "seconds": self.seconds, "largest_batch": self.largest_batch, "stratum": self.stratum.to_json(),
            "slots": slots, "latency": self.latency, "recent": self.recent, "shadow": self.shadow.to_json(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, number: int, server: str, body: Mapping[str, Any]) -> Self:
        """Parses the output of `to_json`.

        Raises:
            ValueError: The document is not in that form, or a later release of Turnout wrote it.
        """
        try:
            slots = tuple(_slot_record(server, *one) for one in body["slots"])
            latency = {
                arm: {str(bucket): int(count) for bucket, count in body["latency"][arm].items()}
                for arm in ("canary", "baseline")
            }
            stratum = Stratum.from_json({**body["stratum"], "server": server})
            shadow = ShadowTick.from_json(body["shadow"]) if "shadow" in body else ShadowTick()
            recent = {str(bucket): int(count) for bucket, count in body.get("recent", {}).items()}
            seconds, batch = float(body["seconds"]), int(body["largest_batch"])
            return cls(number, seconds, batch, stratum, slots, latency, shadow, recent)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"not what a server counted: {type(error).__name__} {error}") from error


def _slot_record(server: str, slot: int, *counts: int) -> SlotRecord:
    candidate, before, elsewhere = (Outcomes(*map(int, counts[at : at + 3])) for at in range(0, len(counts), 3))
    return SlotRecord(server, int(slot), candidate, before, elsewhere)


@dataclass(frozen=True, slots=True)
class CollectedTicks:
    """The counts that are used in one tick.

    Attributes:
        ticks: Ticks for the evidence, in order, with one stratum for each server.
        latency: For each tick, the number of answers by arm and bucket.
        slots: Outcomes of slots that the candidate answers, as last reported by each server.
        taken: By server, number of the last tick that is used.
        late: Number of server ticks that were too late and are left out.
        copies: Copies that were judged, and those that count against the candidate.
        latest: The last part of each server.
    """

    ticks: Sequence[Tick]
    latency: Sequence[Mapping[str, Mapping[str, int]]]
    slots: Sequence[SlotRecord]
    taken: Mapping[str, int]
    late: int = 0
    copies: Count = field(default_factory=Count)
    latest: Mapping[str, ServerTick] = field(default_factory=dict)


def gather(parts: Iterable[ServerTick], taken: Mapping[str, int], own: str, oldest: int) -> CollectedTicks:
    """Returns the counts to use in this tick.

    A server's ticks are used in order, each once; numbers up to `taken` were used before. No server's ticks wait for
    another's, since each server is compared only with itself. So counts are used as soon as they are known, and a
    silent server delays no other.

    Args:
        parts: Known counts.
        taken: By server, the last number that was used.
        own: Name of the server that drives the rollout; the seconds of its ticks are those of the rollout.
        oldest: Ticks of other servers below this number are too late.
    """
    fresh = [one for one in parts if one.number > taken.get(one.stratum.server, -1)]
    in_time = [one for one in fresh if one.number >= oldest or one.stratum.server == own]
    by_number: dict[int, list[ServerTick]] = {}
    for one in in_time:
        by_number.setdefault(one.number, []).append(one)
    ticks, latency = [], []
    for number in sorted(by_number):
        several = sorted(by_number[number], key=lambda one: one.stratum.server)
        seconds = sum(one.seconds for one in several if one.stratum.server == own)
        batch = max(one.largest_batch for one in several)
        ticks.append(Tick(seconds, tuple(one.stratum for one in several), batch))
        latency.append({arm: _summed([one.latency[arm] for one in several]) for arm in ("canary", "baseline")})
    latest: dict[str, ServerTick] = {}
    for one in fresh:
        name = one.stratum.server
        if name not in latest or latest[name].number < one.number:
            latest[name] = one
    slots = [record for one in latest.values() if one in in_time for record in one.slots]
    copies = functools.reduce(Count.plus, (one.shadow.copies for one in in_time), Count())
    taken_now = {name: one.number for name, one in latest.items()}
    return CollectedTicks(ticks, latency, slots, taken_now, len(fresh) - len(in_time), copies, latest)


def _summed(several: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in several:
        total.update(one)
    return dict(sorted(total.items(), key=lambda item: int(item[0])))
