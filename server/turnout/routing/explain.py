"""Explains step by step how a request would be routed, without running or counting it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from semver import Version

from turnout.errors import TurnoutError
from turnout.routing.active_policies import AppliedPolicy, Policies
from turnout.routing.policy import TWIN, UNITS, Policy, eligible
from turnout.routing.router import PolicyRouter
from turnout.routing.selection.selector import ByDigest, ByTag, Default, Exact, InRange, Latest, Selector, parse
from turnout.routing.slots import SLOTS
from turnout.routing.split import Split
from turnout.serving.data_plane.inference import Route
from turnout.serving.versions.catalog import Catalog, ModelEntry
from turnout.text.shares import share_text


@dataclass(frozen=True, slots=True)
class ExplanationStep:
    """One step of a decision: what was examined, and what was found."""

    subject: str
    finding: str


@dataclass(frozen=True, slots=True)
class RouteExplanation:
    """How a request would be routed.

    Attributes:
        chances: Probability of each version that may answer; empty if none does.
        refusal: Why no version answers; None if one does.
        slot: Slot of the routing key; None if no slot decides.
    """

    steps: tuple[ExplanationStep, ...]
    chances: Mapping[Route, float]
    refusal: TurnoutError | None
    slot: int | None


class Explainer:
    """Explains routes. The result itself comes from the router, so that the two cannot differ."""

    def __init__(self, router: PolicyRouter, catalog: Catalog, policies: Policies) -> None:
        self._router = router
        self._catalog = catalog
        self._policies = policies

    def explain(self, model: str, selector: str, routing_key: str, *, baseline_only: bool) -> RouteExplanation:
        """Explains how such a request would be routed.

        Raises:
            InvalidSelector: The selector cannot be parsed.
            ModelNotFound: The model does not exist.
        """
        known = self._catalog.snapshot.model(model)
        parsed = parse(selector)
        applied = self._policies.of(model)
        steps = [ExplanationStep("selector", _meaning(parsed))]
        canaries = None
        if applied.policy is None:
            steps.append(ExplanationStep("policy", "this model has no policy: releases alone decide"))
        else:
            canaries = eligible(parsed, applied.policy)
            steps += _policy_steps(applied, applied.policy, parsed, canaries)
        if (to := self._policies.diverted.get(model)) is not None:
            message = f"in force but not recorded yet: {to} answers in place of the policy"
            gone = ", ".join(map(str, sorted(self._policies.withdrawn[model])))
            steps.append(ExplanationStep("rollback", f"{message}{f'; {gone} counts as not released' if gone else ''}"))
            canaries = None
        slot = None
        if canaries:
            for version in sorted(canaries):
                steps.append(_readiness(known, applied, version))
            if baseline_only:
                steps.append(ExplanationStep("role", "the caller asks for the baseline only: no canary answers"))
            elif routing_key:
                slot = applied.owners.slot(routing_key)
                steps += _slot_steps(applied, slot)
            else:
                steps.append(ExplanationStep("key", "no routing key: an even sequence picks the version, by weight"))
        try:
            target = self._router.target(model, selector)
        except TurnoutError as error:
            return RouteExplanation((*steps, ExplanationStep("answer", error.message)), {}, error, slot)
        chances = (
            target.chances(routing_key, baseline_only=baseline_only) if isinstance(target, Split) else {target: 1.0}
        )
        return RouteExplanation((*steps, *_answers(chances)), chances, None, slot)


def _meaning(selector: Selector) -> str:
    match selector:
        case Default():
            return "empty: the policy decides; without one, the highest released version answers"
        case Latest():
            return "latest: the highest released version that is not a prerelease"
        case Exact(version=version):
            return f"exactly {version}: a pin, which no policy changes"
        case ByDigest(digest=digest):
            return f"the version whose digest is {digest}: a pin, which no policy changes"
        case ByTag(name=name):
            return f"the tag {name}: a pin, which no policy changes"
        case InRange(range=wanted):
            return f"the range {wanted}: released versions only"


def _policy_steps(
    applied: AppliedPolicy, policy: Policy, selector: Selector, canaries: frozenset[Version] | None
) -> Iterator[ExplanationStep]:
    shares = "".join(f", canary {c.version} at {share_text(c.weight / UNITS)}" for c in policy.canaries)
    shadows = "".join(f", shadow {s.version} at {share_text(s.rate / UNITS)}" for s in policy.shadows)
    yield ExplanationStep("policy", f"epoch {applied.epoch}: baseline {policy.baseline}{shares}{shadows}")
    if isinstance(selector, InRange):
        if canaries is None:
            yield ExplanationStep(
                "range",
                f"the baseline {policy.baseline} is not in the range: the highest released version in it answers",
            )
        else:
            yield ExplanationStep("range", f"the baseline {policy.baseline} is in the range: the policy decides")
            for canary in policy.canaries:
                if canary.version not in canaries:
                    yield ExplanationStep(
                        "range", f"the canary {canary.version} is not in the range: its share goes to the baseline"
                    )
    elif canaries is None:
        yield ExplanationStep("policy", "the selector names one version: the policy does not apply")


def _readiness(known: ModelEntry, applied: AppliedPolicy, version: Version) -> ExplanationStep:
    entry = known.versions.get(version)
    slots = applied.state.table.slots_of(str(version))
    if entry is None or not entry.ready:
        state = "not in the repository" if entry is None else str(entry.state)
        return ExplanationStep("readiness", f"the canary {version} is {state}: its share goes to the baseline")
    return ExplanationStep("readiness", f"the canary {version} is Ready and owns {slots} of {SLOTS} slots")


def _slot_steps(applied: AppliedPolicy, slot: int) -> Iterator[ExplanationStep]:
    yield ExplanationStep("slot", f"the key's hash under the policy's salt is slot {slot}")
    owner = applied.owners.names[applied.owners.by_slot[slot]]
    whose = {"": "the baseline", TWIN: "the baseline's twin, which has a queue of its own"}
    yield ExplanationStep("owner", f"slot {slot} is owned by {whose.get(owner, f'the canary {owner}')}")


def _answers(chances: Mapping[Route, float]) -> Iterator[ExplanationStep]:
    for route, chance in sorted(chances.items(), key=lambda item: -item[1]):
        likely = "" if chance == 1 else f", {share_text(chance)} of requests"
        yield ExplanationStep("answer", f"{route.entry.version_text} as {route.role}{likely}")
