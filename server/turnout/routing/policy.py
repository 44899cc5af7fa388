"""A model's traffic policy as a value: one baseline, canaries with weights, shadows with rates. Pure.

Every change derives a new `PolicyState`, of the next epoch, from the previous one. `malformed` and `unfit` return the
reasons why a change is not acceptable. `turnout.routing.traffic` stores policies and puts them into force.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from semver import Version

from turnout.registry.compatibility.compat import refusals
from turnout.registry.manifest.json_form import JsonForm
from turnout.registry.manifest.signature import Signature
from turnout.routing.selection.selector import Default, InRange, Selector
from turnout.routing.slots import SLOTS, Owners, SlotTable
from turnout.state.release_status import ReleaseStatus

UNITS = 10_000
"""Number of units in a whole. Weights and rates are whole numbers of units, so the smallest step is 0.01 %."""

TWIN = "twin"
"""Name of the owner of the baseline twin's slots, and of the lane of its requests. No version can have this name."""

CONTROL = "control"
"""The lane that a twin is compared with if there is no canary. A difference found there is a false alarm."""

_SCHEMA = 2
_READABLE = (1, 2)
"""Schemas that this release reads. Tables of schema 1 use one salt to hash keys and to order slots, so a release that
knows only schema 1 would misroute keys by a table that has an order."""


@dataclass(frozen=True, slots=True)
class Canary(JsonForm):
    """A version that gets a share of the baseline's requests.

    Attributes:
        weight: Share of the requests, 0 to `UNITS`.
    """

    version: Version
    weight: int


@dataclass(frozen=True, slots=True)
class Shadow(JsonForm):
    """A version that gets copies of the baseline's requests.

    Attributes:
        rate: Share of the requests that are copied, 0 to `UNITS`.
    """

    version: Version
    rate: int


@dataclass(frozen=True, slots=True)
class Policy(JsonForm):
    """Determines which versions answer requests that pin no version.

    Attributes:
        baseline: Version that answers all requests that no canary answers.
        canaries: Canaries in the order in which they were named.
        shadows: Shadows in the order in which they were named.
        twin: Share that the baseline answers through a separate queue, 0 to `UNITS`. A canary can be compared fairly
            with this twin, but not with the rest of the baseline: a larger share waits in longer queues and forms
            larger batches.
    """

    baseline: Version
    canaries: tuple[Canary, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    twin: int = 0

    ADDED = ("twin",)

    @property
    def versions(self) -> frozenset[Version]:
        """All versions that the policy names."""
        return frozenset((self.baseline, *(c.version for c in self.canaries), *(s.version for s in self.shadows)))

    def weight(self, version: Version) -> int:
        """Returns the weight of a canary; 0 if `version` is not a canary."""
        return next((c.weight for c in self.canaries if c.version == version), 0)

    def rate(self, version: Version) -> int:
        """Returns the rate of a shadow; 0 if `version` is not a shadow."""
        return next((s.rate for s in self.shadows if s.version == version), 0)


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The policy and slots of one epoch.

    Attributes:
        policy: The policy; None if the highest released version answers.
        frozen: Whether only changes that take traffic back are accepted.
        table: Slots of each canary and of the twin.
    """

    policy: Policy | None = None
    frozen: bool = False
    table: SlotTable = field(default_factory=SlotTable)

    @property
    def baseline(self) -> Version | None:
        """The policy's baseline; None if there is no policy."""
        return None if self.policy is None else self.policy.baseline

    def with_policy(self, policy: Policy, order: bytes, traffic: NDArray[Any] | None = None) -> Self:
        """Returns the state with `policy` in force.

        If the previous baseline becomes a canary (a rollout's holdback), it gets keys that it had before, as long as
        there are any, so that users who met the new baseline stay with it.

        Args:
            policy: The new policy.
            order: Seed of the order of slots. It is used if there was no canary before, so that a new trial meets other
                keys; canaries that continue keep their keys.
            traffic: Known requests by slot, shape (SLOTS,). A twin whose slots carry too little or too much traffic
                gets other slots. None to leave the twin's slots.
        """
        begins = policy.canaries and (self.policy is None or not self.policy.canaries)
        table = SlotTable(self.table.salt, order=order) if begins else self.table
        wanted = {str(c.version): _slots(c.weight) for c in policy.canaries} | {TWIN: _slots(policy.twin)}
        if policy.twin + sum(c.weight for c in policy.canaries) == UNITS:  # rounding must leave the baseline nothing
            last = next((str(c.version) for c in reversed(policy.canaries) if c.weight), TWIN)
            wanted[last] += max(SLOTS - sum(wanted.values()), 0)
        newcomers = {}
        if self.policy is not None and policy.baseline != self.policy.baseline:
            runs = next((claim.runs for claim in self.table.claims if claim.owner == str(policy.baseline)), ())
            newcomers[str(self.policy.baseline)] = runs
            table = table.arranged({name: slots for name, slots in wanted.items() if name != TWIN}, newcomers)
        table = table.arranged(wanted, newcomers)
        if traffic is not None and policy.twin and policy.canaries:
            largest = max(policy.canaries, key=lambda canary: canary.weight)
            table = table.balanced(TWIN, str(largest.version), traffic)
        return replace(self, policy=policy, table=table)

    def with_twin_redrawn(self, traffic: NDArray[Any]) -> Self:
        """Returns the state in which the twin has slots that carry about as much traffic as the canary's.

        `traffic` are the requests by slot, shape (SLOTS,).
        """
        return self if self.policy is None else self.with_policy(self.policy, b"", traffic)

    def with_canary(self, canary: Canary, order: bytes) -> Self:
        """Returns the state in which one canary is new or has another weight. There must be a policy."""
        assert self.policy is not None
        known = self.policy.canaries
        if any(c.version == canary.version for c in known):
            canaries = tuple(canary if c.version == canary.version else c for c in known)
        else:
            canaries = (*known, canary)
        return self.with_policy(replace(self.policy, canaries=canaries), order)

    def cleared(self) -> Self:
        """Returns the state without a policy."""
        return replace(self, policy=None, table=replace(self.table, claims=()))

    def with_frozen(self, frozen: bool) -> Self:
        """Returns the state in which changes are refused, or accepted again."""
        return replace(self, frozen=frozen)

    def reverted(self, earlier: "PolicyState") -> Self:
        """Returns the state with the policy and the exact keys of an earlier one, frozen as before."""
        return replace(self, policy=earlier.policy, table=earlier.table)

    def to_json(self) -> dict[str, Any]:
        """Returns the form in which the state store keeps it.

        It has the earliest schema that means the same. So during an upgrade, servers of earlier releases follow a
        rollback or any other policy without canaries, although they cannot read one that moves keys.
        """
        schema = _SCHEMA if self.table.order and self.table.claims else 1
        policy = None if self.policy is None else self.policy.to_json()
        return {"schema": schema, "policy": policy, "frozen": self.frozen, "slots": self.table.to_json()}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Parses the output of `to_json`.

        Raises:
            ValueError: The document is not in that form, or a later release of Turnout wrote it.
        """
        try:
            if body["schema"] not in _READABLE:
                raise ValueError(f"policy schema {body['schema']!r} is not {_SCHEMA}, the one this release reads")
            policy = None if body["policy"] is None else Policy.from_json(body["policy"])
            return cls(policy, bool(body["frozen"]), SlotTable.from_json(body["slots"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a policy: {type(error).__name__} {error}") from error


def readable(document: Mapping[str, Any]) -> PolicyState | None:
    """Parses a policy document of the state store; returns None if this release cannot read it."""
    try:
        return PolicyState.from_json(document)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class PolicyFact:
    """Facts about a version that a policy change depends on.

    Attributes:
        ready: Whether the version can answer now.
    """

    release_status: ReleaseStatus
    ready: bool
    signature: Signature


def eligible(selector: Selector, policy: Policy) -> frozenset[Version] | None:
    """Returns the canaries that may answer a request; None if the policy does not decide on it.

    The policy decides on the empty selector, and on a range that the baseline satisfies; a range never reaches a canary
    that does not satisfy it. Any other selector names one version, which no policy changes.
    """
    match selector:
        case Default():
            return frozenset(canary.version for canary in policy.canaries)
        case InRange(range=wanted) if wanted.satisfied_by(policy.baseline):
            return frozenset(c.version for c in policy.canaries if wanted.satisfied_by(c.version))
        case _:
            return None


def malformed(policy: Policy) -> list[tuple[str, str]]:
    """Returns what is wrong with a policy, regardless of the state of its versions: fields and reasons."""
    problems: list[tuple[str, str]] = []
    sides = (
        ("canaries", "weight", [(c.version, c.weight) for c in policy.canaries]),
        ("shadows", "rate", [(s.version, s.rate) for s in policy.shadows]),
    )
    for side, share, parts in sides:
        for index, (version, units) in enumerate(parts):
            if not 0 <= units <= UNITS:
                problems.append((f"{side}[{index}].{share}", "expected 0 to 1"))
            if version == policy.baseline:
                problems.append((f"{side}[{index}].version", f"{version} is the baseline"))
    for side, _, parts in sides:
        versions = [version for version, _ in parts]
        problems += [(side, f"{v} is listed twice") for v in dict.fromkeys(versions) if versions.count(v) > 1]
    total = sum(c.weight for c in policy.canaries)
    if total > UNITS:
        problems.append(("canaries", f"their weights sum to {total / UNITS:.4%}, which is more than 100%"))
    elif not 0 <= policy.twin <= UNITS - total:
        problems.append(("twin", f"expected at most what the canaries leave, {(UNITS - total) / UNITS:.4%}"))
    return problems


def unfit(policy: Policy, facts: Mapping[Version, PolicyFact], *, force: bool) -> list[str]:
    """Returns the reasons why a well-formed policy cannot be put into force now, as sentences.

    Each of its versions must have a fact. With `force`, signatures are not checked.
    """
    baseline = facts[policy.baseline]
    problems: list[str] = []
    if baseline.release_status is ReleaseStatus.CANDIDATE:
        problems.append(f"{policy.baseline} is a candidate: release it before it becomes the baseline")
    for version in sorted(policy.versions):
        if facts[version].release_status is ReleaseStatus.YANKED:
            problems.append(f"{version} was yanked")
        if not facts[version].ready:
            problems.append(f"{version} is not ready: load it first")
    if not force:
        parts = [("canary", c.version) for c in policy.canaries] + [("shadow", s.version) for s in policy.shadows]
        for part, version in parts:
            if reasons := refusals(baseline.signature, facts[version].signature):
                problems.append(f"{part} {version} does not fit the baseline's clients: {', '.join(reasons)}")
    return problems


def takes_back(before: PolicyState, after: PolicyState, earlier_baselines: Iterable[Version]) -> bool:
    """Returns whether a change only takes traffic back, which is allowed while changes are frozen.

    No canary or shadow may gain, nor meet other keys with the same weight, and the baseline must stay, or be one of an
    earlier epoch. Removing the policy does not take traffic back: the version that was released last would get
    everything.
    """
    if after.policy is None:
        return before.policy is None
    if before.policy is None:
        return False
    old, new = before.policy, after.policy
    return (
        (new.baseline == old.baseline or new.baseline in set(earlier_baselines))
        and all(c.weight <= old.weight(c.version) for c in new.canaries)
        and all(s.rate <= old.rate(s.version) for s in new.shadows)
        and not _meets_other_keys(new, before.table, after.table)
    )


def _meets_other_keys(policy: Policy, before: SlotTable, after: SlotTable) -> bool:
    """Returns whether a canary has a slot that it did not have before, as after a return to an earlier epoch."""
    if before == after:
        return False
    had, has = Owners.of(before), Owners.of(after)
    names = [str(canary.version) for canary in policy.canaries]
    return any(np.any(has.owned(name) & ~had.owned(name)) for name in names)


def _slots(weight: int) -> int:
    """Returns the number of slots nearest to a weight; at least one, so that no canary is silently without traffic."""
    return max(round(weight * SLOTS / UNITS), 1) if weight else 0
