"""A model's live routing as a value: one baseline, canaries with weights, shadows with rates. Pure.

Every change makes a new `PolicyState` of the next epoch out of the one before; `malformed` and `unfit` say why a
change may not be taken. Keeping them and putting them in force is `turnout.routing.traffic`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from numpy.typing import NDArray
from semver import Version

from turnout.registry.compatibility.compat import refusals
from turnout.registry.manifest.json_form import JsonForm
from turnout.registry.manifest.signature import Signature
from turnout.routing.selection.selector import Default, InRange, Selector
from turnout.routing.slots import SLOTS, SlotTable
from turnout.state.release_status import ReleaseStatus

UNITS = 10_000
"""Weights and rates are whole numbers of these: a step is 0.01 %."""

TWIN = "twin"
"""Owner of the baseline twin's slots, and the lane that its requests take; no version can be named so."""

CONTROL = "control"
"""The lane that a twin is compared with if there is no canary: what such a comparison finds is a false alarm."""

_SCHEMA = 2
_READABLE = (1, 2)
"""The first has tables in which one salt hashes keys and orders slots; a release that knows only it would misroute."""


@dataclass(frozen=True, slots=True)
class Canary(JsonForm):
    """A version that gets a share of the baseline's requests.

    Attributes:
        weight: Its share, 0 to `UNITS`.
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
    """Who answers requests that pin no version.

    Attributes:
        baseline: Answers what no canary does.
        canaries: In the order they were named.
        shadows: In the order they were named.
        twin: Share that the baseline answers through a queue of its own, 0 to `UNITS`: what a canary can fairly be
            compared with, since a larger share waits in longer queues and forms larger batches.
    """

    baseline: Version
    canaries: tuple[Canary, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    twin: int = 0

    ADDED = ("twin",)

    @property
    def versions(self) -> frozenset[Version]:
        """Every version that has a part in it."""
        return frozenset((self.baseline, *(c.version for c in self.canaries), *(s.version for s in self.shadows)))

    def weight(self, version: Version) -> int:
        """Returns the weight of a canary; 0 if `version` is not a canary."""
        return next((c.weight for c in self.canaries if c.version == version), 0)

    def rate(self, version: Version) -> int:
        """Returns the rate of a shadow; 0 if `version` is not a shadow."""
        return next((s.rate for s in self.shadows if s.version == version), 0)


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What one epoch holds.

    Attributes:
        policy: None: the highest released version answers.
        frozen: Only changes that take traffic back are accepted.
        table: Which keys each canary has.
    """

    policy: Policy | None = None
    frozen: bool = False
    table: SlotTable = field(default_factory=SlotTable)

    def with_policy(self, policy: Policy, order: bytes, traffic: NDArray[Any] | None = None) -> Self:
        """Returns the state in which `policy` is in force.

        A version that was the baseline and is a canary now (what a rollout holds back) gets keys that it had before,
        as long as there are any: who has met the new baseline stays with it.

        Args:
            policy: The new one.
            order: Of slots; taken if there was no canary before, so that another trial meets other keys; canaries
                that go on keep theirs.
            traffic: Requests by slot, as far as they are known, shape (SLOTS,): a twin whose slots carry too little
                of it, or too much, gets others.
        """
        begins = policy.canaries and (self.policy is None or not self.policy.canaries)
        table = SlotTable(self.table.salt, order=order) if begins else self.table
        wanted = {str(c.version): _slots(c.weight) for c in policy.canaries} | {TWIN: _slots(policy.twin)}
        newcomers = {}
        if self.policy is not None and policy.baseline != self.policy.baseline:
            met = next((claim.runs for claim in self.table.claims if claim.owner == str(policy.baseline)), ())
            newcomers[str(self.policy.baseline)] = met
            table = table.arranged({name: slots for name, slots in wanted.items() if name != TWIN}, newcomers)
        table = table.arranged(wanted, newcomers)
        if traffic is not None and policy.twin and policy.canaries:
            largest = max(policy.canaries, key=lambda canary: canary.weight)
            table = table.balanced(TWIN, str(largest.version), traffic)
        return replace(self, policy=policy, table=table)

    def with_twin_redrawn(self, traffic: NDArray[Any]) -> Self:
        """Returns the state in which the twin has slots that carry about as much traffic as the canary's.

        Args:
            traffic: Requests by slot, shape (SLOTS,).
        """
        return self if self.policy is None else self.with_policy(self.policy, b"", traffic)

    def with_canary(self, canary: Canary, order: bytes) -> Self:
        """Returns the state in which one canary has another weight, or is a new one; needs a policy."""
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
        """Returns the state with the policy, and the very keys, of an earlier one; frozen if it is now."""
        return replace(self, policy=earlier.policy, table=earlier.table)

    def to_json(self) -> dict[str, Any]:
        """Returns the form that the state store holds."""
        policy = None if self.policy is None else self.policy.to_json()
        return {"schema": _SCHEMA, "policy": policy, "frozen": self.frozen, "slots": self.table.to_json()}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: It did not write that, or a later release of Turnout did.
        """
        try:
            if body["schema"] not in _READABLE:
                raise ValueError(f"policy schema {body['schema']!r} is not {_SCHEMA}, the one this release reads")
            policy = None if body["policy"] is None else Policy.from_json(body["policy"])
            return cls(policy, bool(body["frozen"]), SlotTable.from_json(body["slots"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a policy: {type(error).__name__} {error}") from error


def readable(document: Mapping[str, Any]) -> PolicyState | None:
    """Returns what an epoch holds that the state store has as `document`; None if this release cannot read it."""
    try:
        return PolicyState.from_json(document)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class PolicyFact:
    """What is known about a version when a policy is decided on.

    Attributes:
        release_status: What it was declared fit for.
        ready: It can answer now.
        signature: What it takes and gives.
    """

    release_status: ReleaseStatus
    ready: bool
    signature: Signature


def eligible(selector: Selector, policy: Policy) -> frozenset[Version] | None:
    """Returns the canaries that a request may meet; None if the policy does not decide on it.

    The empty selector leaves all to the policy. A range does so where the baseline satisfies it, and is never sent to a
    canary that does not. Whatever else a client writes names one version, and no policy touches that.
    """
    match selector:
        case Default():
            return frozenset(canary.version for canary in policy.canaries)
        case InRange(range=wanted) if wanted.satisfied_by(policy.baseline):
            return frozenset(c.version for c in policy.canaries if wanted.satisfied_by(c.version))
        case _:
            return None


def malformed(policy: Policy) -> list[tuple[str, str]]:
    """Returns what is wrong with a policy, whatever its versions are: fields, and why."""
    problems: list[tuple[str, str]] = []
    for index, canary in enumerate(policy.canaries):
        if not 0 <= canary.weight <= UNITS:
            problems.append((f"canaries[{index}].weight", "expected 0 to 1"))
        if canary.version == policy.baseline:
            problems.append((f"canaries[{index}].version", f"{canary.version} is the baseline"))
    for index, shadow in enumerate(policy.shadows):
        if not 0 <= shadow.rate <= UNITS:
            problems.append((f"shadows[{index}].rate", "expected 0 to 1"))
        if shadow.version == policy.baseline:
            problems.append((f"shadows[{index}].version", f"{shadow.version} is the baseline"))
    for side, versions in (
        ("canaries", [c.version for c in policy.canaries]),
        ("shadows", [s.version for s in policy.shadows]),
    ):
        problems += [(side, f"{v} stands twice") for v in dict.fromkeys(versions) if versions.count(v) > 1]
    total = sum(c.weight for c in policy.canaries)
    if total > UNITS:
        problems.append(("canaries", f"their weights sum to {total / UNITS:.4%}, and the most is 100%"))
    elif not 0 <= policy.twin <= UNITS - total:
        problems.append(("twin", f"expected at most what the canaries leave, {(UNITS - total) / UNITS:.4%}"))
    return problems


def unfit(policy: Policy, facts: Mapping[Version, PolicyFact], *, force: bool) -> list[str]:
    """Returns why `policy` cannot be in force now, in sentences.

    Args:
        policy: Well formed; each of its versions has a fact.
        facts: What is known about the model's versions.
        force: Leave the signatures out.
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
        for canary in policy.canaries:
            problems += _misfits(f"canary {canary.version}", baseline.signature, facts[canary.version].signature)
        for shadow in policy.shadows:
            problems += _misfits(f"shadow {shadow.version}", baseline.signature, facts[shadow.version].signature)
    return problems


def takes_back(before: PolicyState, after: PolicyState, earlier_baselines: Iterable[Version]) -> bool:
    """Tells whether a change only takes traffic back, which is allowed while changes are frozen.

    No canary gains, no shadow does, and the baseline is the one it was or one that was it in an earlier epoch. To end
    the policy is no way back: it lets whatever was released last have everything.
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
    )


def _misfits(who: str, baseline: Signature, other: Signature) -> list[str]:
    reasons = refusals(baseline, other)
    return [f"{who} does not fit the baseline's clients: {', '.join(reasons)}"] if reasons else []


def _slots(weight: int) -> int:
    """Returns the slots that come nearest to a weight; at least one, so that no canary is silently without traffic."""
    return max(round(weight * SLOTS / UNITS), 1) if weight else 0
