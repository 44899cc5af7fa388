"""The assignment of routing keys to versions: 65,536 slots, each with one owner. Pure.

docs/decisions/0009-slots-are-claimed-in-runs.md states the guarantees.

A key hashes to a slot: `H64(salt || 0x00 || key) mod 65536`. This assignment stays the same for the life of a model, so
the history of a slot is known when a trial begins. A trial draws an *order* of the slots, and owners claim *positions*
in it: growing takes the first free ones, and shrinking gives back the ones taken last. So

    5 -> 25 %        keeps every key of the 5 %, and 25 -> 5 % restores exactly the first set
    raising B        never moves A: a slot changes hands only between an owner and the unclaimed rest, the baseline's
    another order    draws its slots independently

A request without a key takes the next position of a low-discrepancy sequence instead (`turnout.routing.split.Cursor`),
so that even 1 % is exact over a few hundred requests. Only the salt, the order and each owner's runs of positions are
stored, which are a few numbers; the table is derived from them.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from turnout.registry.manifest.json_form import JsonForm
from turnout.serving.counting import keyed_outcomes
from turnout.serving.counting.keyed_outcomes import SlotFinder

SLOTS = keyed_outcomes.SLOTS

ORDER_BYTES = 16

KEY_SALT = b""
"""The salt that keys are hashed with, unless a table of an earlier release has another: the same on all servers, and
before a model has any policy. It is not a secret: which slots a trial takes follows from the trial's own order."""

GOLDEN = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio. Its multiples modulo 2**64 fill the range more evenly than those of any other."""

Run = tuple[int, int]
"""A range of positions: the first, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Claim(JsonForm):
    """The positions of one owner.

    Attributes:
        runs: Runs in the order in which they were taken. None is empty, and no two claims of a table overlap.
    """

    owner: str
    runs: tuple[Run, ...]

    @property
    def slots(self) -> int:
        """Number of positions."""
        return sum(stop - start for start, stop in self.runs)


@dataclass(frozen=True, slots=True)
class SlotTable(JsonForm):
    """The owner of each slot. Slots that are not claimed are the baseline's.

    Attributes:
        salt: Determines the slot of each key.
        claims: Claims in the order in which their owners first claimed.
        order: Seed of the order in which slots are taken; empty to use the salt, as in tables of earlier releases.
    """

    salt: bytes = KEY_SALT
    claims: tuple[Claim, ...] = ()
    order: bytes = b""

    ADDED = ("order",)

    def __post_init__(self) -> None:
        runs = sorted(run for claim in self.claims for run in claim.runs)
        bounds = [bound for run in runs for bound in run]
        if any(start >= stop for start, stop in runs) or bounds != sorted(bounds):
            raise ValueError("claims overlap, or a run is empty")
        if bounds and not 0 <= bounds[0] < bounds[-1] <= SLOTS:
            raise ValueError(f"a claim leaves the {SLOTS} slots")
        if len({claim.owner for claim in self.claims}) < len(self.claims):
            raise ValueError("an owner has two claims")

    def slots_of(self, owner: str) -> int:
        """Returns the number of slots of `owner`."""
        return sum(claim.slots for claim in self.claims if claim.owner == owner)

    def arranged(self, wanted: Mapping[str, int], newcomers: Mapping[str, Sequence[Run]] | None = None) -> Self:
        """Returns the table in which each owner has the number of slots in `wanted`, and other owners have none.

        `newcomers` begin at the end of the order, and take the given positions only if no others are free.

        Owners that shrink give back their slots first, so that there is room for those that grow. If more slots are
        wanted than exist, the last owner to grow gets fewer.
        """
        claims = {claim.owner: claim.runs for claim in self.claims if wanted.get(claim.owner)}
        for owner, runs in claims.items():
            claims[owner] = _first(runs, wanted[owner])
        for owner, slots in wanted.items():
            have = claims.get(owner, ())
            lacking = slots - sum(stop - start for start, stop in have)
            if lacking > 0:
                free = list(_free(claims))
                if newcomers is not None and owner in newcomers:
                    claims[owner] = _joined(have, _last(free, lacking, newcomers[owner]))
                else:
                    claims[owner] = _joined(have, _first(free, lacking))
        return replace(self, claims=tuple(Claim(owner, runs) for owner, runs in claims.items() if runs))

    def balanced(self, owner: str, against: str, traffic: NDArray[Any]) -> Self:
        """Returns the table in which `owner` has as many slots as before, with traffic similar to another owner's.

        `traffic` are the requests by slot, shape (SLOTS,).

        Traffic is compared per slot. The slots are not changed if they carry at least half and at most twice the
        traffic wanted, or if no others come twice as close to it by ratio (any traffic is closer than none). Only
        traffic is considered, so that the choice reveals nothing about outcomes.
        """
        claims = {claim.owner: claim.runs for claim in self.claims}
        if owner not in claims or against not in claims:
            return self
        sums = np.concatenate([[0.0], np.cumsum(traffic[_order(self.order or self.salt)], dtype=np.float64)])
        held, aim = (sum(sums[stop] - sums[start] for start, stop in claims[name]) for name in (owner, against))
        count = self.slots_of(owner)
        aim *= min(count / self.slots_of(against), 1.0)
        if not aim or aim / 2 <= held <= 2 * aim:
            return self
        free = list(_free({name: runs for name, runs in claims.items() if name != owner}))
        positions = np.concatenate([np.arange(start, stop) for start, stop in free])
        along = np.concatenate([[0.0], np.cumsum(np.diff(sums)[positions])])
        windows = along[count:] - along[:-count]
        with np.errstate(divide="ignore"):
            distances = np.abs(np.log(np.append(windows, held) / aim))
        first = int(np.argmin(distances[:-1]))
        if not 2 * distances[first] < distances[-1]:
            return self
        claims[owner] = _runs(positions[first : first + count])
        return replace(self, claims=tuple(Claim(name, runs) for name, runs in claims.items()))


@dataclass(frozen=True, slots=True, eq=False)
class Owners:
    """A table laid out for look-up.

    Attributes:
        names: Owners by number. Number 0 is the baseline, whose name is "".
        by_slot: Number of the owner of each slot.
        by_position: Number of the owner of each position in the order.
        slot: The method `finder.slot`, to save one attribute look-up per request.
    """

    salt: bytes
    names: tuple[str, ...]
    by_slot: Sequence[int]
    by_position: Sequence[int]
    finder: SlotFinder
    slot: Callable[[str], int]

    @classmethod
    def of(cls, table: SlotTable) -> Self:
        """Lays out `table`."""
        by_position = np.zeros(SLOTS, np.uint8 if len(table.claims) < 256 else np.uint16)
        for number, claim in enumerate(table.claims, start=1):
            for start, stop in claim.runs:
                by_position[start:stop] = number
        by_slot = np.empty_like(by_position)
        by_slot[_order(table.order or table.salt)] = by_position
        names = ("", *(claim.owner for claim in table.claims))
        finder = SlotFinder(table.salt)
        return cls(table.salt, names, _indexable(by_slot), _indexable(by_position), finder, finder.slot)

    @classmethod
    def without_claims(cls) -> Self:
        """Returns the owners of a table without claims, which is cheaper than to lay one out."""
        finder = SlotFinder(KEY_SALT)
        return cls(KEY_SALT, ("",), bytes(SLOTS), bytes(SLOTS), finder, finder.slot)

    def owned(self, name: str) -> NDArray[np.bool_]:
        """Returns whether `name` ("" for the baseline) owns each slot, shape (SLOTS,)."""
        if name not in self.names:
            return np.zeros(SLOTS, np.bool_)
        by_slot = np.frombuffer(self.by_slot, np.uint8) if isinstance(self.by_slot, bytes) else np.array(self.by_slot)
        owned: NDArray[np.bool_] = by_slot == self.names.index(name)
        return owned


@functools.lru_cache(maxsize=256)
def _order(seed_bytes: bytes) -> NDArray[np.intp]:
    """Returns the slots in the order in which they are taken.

    Implemented with integers, since NumPy's generators may give another permutation in another release. Each slot gets
    64 bits by the finalizer of SplitMix64 (Steele, Lea & Flood 2014), seeded by the order, and the slots are sorted by
    them.
    """
    seed = int.from_bytes(blake2b(seed_bytes, digest_size=8, person=b"turnout order").digest(), "little")
    bits = np.arange(1, SLOTS + 1, dtype=np.uint64) * np.uint64(GOLDEN) + np.uint64(seed)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(bits ^ (bits >> np.uint64(31)), kind="stable")


def _indexable(numbers: NDArray[Any]) -> Sequence[int]:
    """Returns the numbers in the form that Python indexes fastest."""
    if numbers.dtype == np.uint8:
        return numbers.tobytes()
    listed: list[int] = numbers.tolist()
    return listed


def _free(claims: Mapping[str, Sequence[Run]]) -> Iterator[Run]:
    start = 0
    for taken in sorted(run for runs in claims.values() for run in runs):
        if start < taken[0]:
            yield start, taken[0]
        start = taken[1]
    if start < SLOTS:
        yield start, SLOTS


def _first(runs: Iterable[Run], count: int) -> tuple[Run, ...]:
    """Returns the first `count` positions of `runs`, or all if there are fewer."""
    taken: list[Run] = []
    for start, stop in runs:
        if count <= 0:
            break
        taken.append((start, min(stop, start + count)))
        count -= taken[-1][1] - start
    return tuple(taken)


def _joined(runs: Sequence[Run], more: Sequence[Run]) -> tuple[Run, ...]:
    """Returns `runs` followed by `more`, with adjacent runs joined."""
    joined = list(runs)
    for start, stop in more:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return tuple(joined)


def _last(free: Sequence[Run], count: int, shunned: Sequence[Run]) -> tuple[Run, ...]:
    """Returns `count` positions of `free` from the end; those in `shunned` only if there are no others."""
    shun = np.zeros(SLOTS, np.bool_)
    for start, stop in shunned:
        shun[start:stop] = True
    positions = np.concatenate([np.arange(start, stop) for start, stop in free] or [np.arange(0)])[::-1]
    return _runs(np.sort(positions[np.argsort(shun[positions], kind="stable")][:count]))


def _runs(positions: NDArray[np.intp]) -> tuple[Run, ...]:
    if not positions.size:
        return ()
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    return tuple((int(part[0]), int(part[-1]) + 1) for part in np.split(positions, breaks))
