"""What needs a version, and the command that ends it. Pure.

`unload`, `yank` and `prune` refuse versions that are needed. Each piece of advice is a command that works at that
moment, so that following one after the other leads to the goal.
"""

from collections.abc import Sequence

from semver import Version

from turnout.routing.policy import UNITS, Policy, PolicyState
from turnout.serving.versions.hold import Hold


def policy_holds(model: str, state: PolicyState, epoch: int) -> dict[Version, Hold]:
    """Returns the versions that the policy of an epoch needs: its baseline, canaries and shadows."""
    policy = state.policy
    if policy is None:
        return {}
    pinned_versions: dict[Version, Hold] = {}
    parts = (("a shadow", policy.shadows), ("a canary", policy.canaries))
    for what, versions in parts:
        for part in versions:
            advice = f"take it out of the policy first: `{_without(model, policy, part.version)}`"
            pinned_versions[part.version] = Hold(f"it is {what} in the policy in force (epoch {epoch})", advice)
    thaw = f"`turnout traffic freeze {model} --off`, then " if state.frozen else ""
    advice = (
        f"take it out of the policy first: {thaw}`turnout traffic set {model} --baseline OTHER`, another released "
        f"version, or `turnout traffic clear {model}`"
    )
    pinned_versions[policy.baseline] = Hold(f"it is the baseline in the policy in force (epoch {epoch})", advice)
    return pinned_versions


def rollout_holds(model: str, attempt: int, candidate: Version, previous: Version) -> dict[Version, Hold]:
    """Returns the versions that a running rollout needs: its candidate, and the version that it would return to."""
    advice = f"abort the rollout, or wait for its end: `turnout rollout abort {model} --attempt {attempt}`"
    return {
        previous: Hold(f"rollout {attempt} may have to go back to it", advice),
        candidate: Hold(f"rollout {attempt} is to make it the baseline", advice),
    }


def diversion_hold(model: str) -> Hold:
    """Returns the hold of a rollback that is in force but not recorded yet on the version that it returns to."""
    return Hold(
        "a rollback that the state store has not recorded yet sends everything to it",
        f"wait until it is recorded: `turnout traffic show {model}` shows that",
    )


def tag_hold(model: str, tag: str) -> Hold:
    """Returns the hold of a tag on the version that it refers to."""
    return Hold(
        f"the tag {tag} names it",
        f"move or delete the tag first: `turnout tag {model} {tag} OTHER` or `turnout tag {model} {tag} --delete`",
    )


def _without(model: str, policy: Policy, version: Version) -> str:
    """Returns the command that sets the policy without one of its canaries or shadows."""
    canaries = _options("--canary", [(c.version, c.weight) for c in policy.canaries if c.version != version])
    shadows = _options("--shadow", [(s.version, s.rate) for s in policy.shadows if s.version != version])
    return " ".join(["turnout traffic set", model, *canaries, *shadows])


def _options(name: str, parts: Sequence[tuple[Version, int]]) -> list[str]:
    return [f"{name} {version}={100 * share / UNITS:g}%" for version, share in parts]
