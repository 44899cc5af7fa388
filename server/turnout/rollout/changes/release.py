"""The effects of `turnout release` and `turnout withdraw` on a model. Pure.

release     releases the version and, if it is higher than the one that answers plain requests, makes it answer them
withdraw    makes the version a candidate again
"""

from dataclasses import replace

from semver import Version

from turnout.errors import ChangeRefused, InvalidRequest
from turnout.registry.compatibility.compat import refusals
from turnout.registry.manifest.versions import precedence
from turnout.rollout.changes.model_snapshot import ChangeOutcome, ModelSnapshot, running_text
from turnout.rollout.machine.attempt import Moved, Rollout, RolloutState
from turnout.rollout.machine.overrides import end_now
from turnout.routing.policy import Policy, PolicyState
from turnout.routing.rollback import default_version
from turnout.state.release_status import ReleaseStatus

_S = RolloutState


def release(
    snapshot: ModelSnapshot, version: Version, order: bytes, *, traffic: bool, supersede: bool, actor: str, reason: str
) -> ChangeOutcome:
    """Decides what releasing a version that exists changes. Arguments and errors as of `Operations.release`.

    `order` is as in `PolicyState.with_policy`.
    """
    model, before = snapshot.model, snapshot.answering
    if snapshot.status(version) is ReleaseStatus.YANKED:
        raise InvalidRequest.at("version", f"{version} of {model} is yanked, and is never used again")
    after = _answering(snapshot, version) if traffic else before
    moves = after != before
    keeps = not traffic and snapshot.state.policy is None and _answering(snapshot, version) != before
    if snapshot.status(version) is ReleaseStatus.RELEASED and not moves:
        return ChangeOutcome(f"{model} {version} was released before; nothing changed")
    if why := snapshot.trouble(version):
        raise ChangeRefused(f"{version} cannot answer: {why}")
    if snapshot.state.frozen:
        raise ChangeRefused(
            f"traffic of {model} is frozen, and a release changes who answers: `turnout traffic freeze {model} --off` "
            "first"
        )
    if keeps and before is None:
        raise ChangeRefused(
            f"nothing answers plain requests of {model} yet, so that the first release does: leave --no-traffic out"
        )
    if moves and (snapshot.rollouts or snapshot.unreadable) and not supersede:
        raise ChangeRefused(_in_the_way(snapshot, version))
    endings: tuple[Moved, ...] = ()
    state = snapshot.state
    if moves and supersede:
        text = f"{version} answers plain requests"
        why = f"{version} was released{f': {reason}' if reason else ''}"
        endings = tuple(end_now(r, why, _S.SUPERSEDED, text, kind="superseded", actor=actor) for r in snapshot.rollouts)
        state = state_without(state, snapshot.rollouts, order)
    if moves and state.policy is not None:
        state = _moved(snapshot, state, version, order)
    elif keeps and before is not None:
        state = state.with_policy(Policy(before), order)
    statuses = {version: ReleaseStatus.RELEASED}
    for rollout in snapshot.rollouts if endings else ():
        if rollout.state is _S.ABORTING and rollout.released and rollout.candidate != version:
            statuses[rollout.candidate] = ReleaseStatus.CANDIDATE
    return ChangeOutcome(
        _text(snapshot, version, moves=moves),
        state=None if state == snapshot.state else state,
        action="release",
        statuses=statuses,
        endings=endings,
        discards=snapshot.unreadable if moves and supersede else (),
    )


def withdraw(snapshot: ModelSnapshot, version: Version) -> ChangeOutcome:
    """Decides what withdrawing a release changes.

    Raises:
        ChangeRefused: The version answers plain requests, or a rollout needs it; the message says what to do.
    """
    model, policy = snapshot.model, snapshot.state.policy
    if snapshot.status(version) is not ReleaseStatus.RELEASED:
        return ChangeOutcome(f"{model} {version} was not released; nothing changed")
    if policy is not None and policy.baseline == version:
        raise ChangeRefused(
            f"{version} is the baseline of {model}: `turnout rollback {model}` goes back from it and takes its release "
            "back, or release another one first"
        )
    for rollout in snapshot.rollouts:
        if version in (rollout.candidate, rollout.previous):
            raise ChangeRefused(
                f"rollout {rollout.attempt} of {model} needs {version}: `turnout rollout abort {model}` first"
            )
    if snapshot.unreadable:
        raise ChangeRefused(snapshot.unreadable[0].sentence)
    return ChangeOutcome(f"{model} {version} is a candidate again", statuses={version: ReleaseStatus.CANDIDATE})


def state_without(state: PolicyState, rollouts: tuple[Rollout, ...], order: bytes) -> PolicyState:
    """Returns the policy without the parts of rollouts: their candidates, and the shares of previous versions."""
    if state.policy is None:
        return state
    own = {r.candidate for r in rollouts} | {r.previous for r in rollouts if r.promoted or r.state is _S.ABORTING}
    canaries = tuple(c for c in state.policy.canaries if c.version not in own)
    shadows = tuple(s for s in state.policy.shadows if s.version not in own)
    return state.with_policy(_fitting(replace(state.policy, canaries=canaries, shadows=shadows)), order)


def _answering(snapshot: ModelSnapshot, version: Version) -> Version | None:
    """Returns the version that answers plain requests after `version` is released and the policy is adapted."""
    policy = snapshot.state.policy
    if policy is None:
        return default_version({**snapshot.statuses, version: ReleaseStatus.RELEASED})
    higher = version.prerelease is None and precedence(version) > precedence(policy.baseline)
    return version if higher else policy.baseline


def _moved(snapshot: ModelSnapshot, state: PolicyState, version: Version, order: bytes) -> PolicyState:
    """Returns the policy with `version` as its baseline. Other canaries and shadows keep their shares."""
    policy = state.policy
    assert policy is not None
    canaries = tuple(c for c in policy.canaries if c.version != version)
    shadows = tuple(s for s in policy.shadows if s.version != version)
    signature = snapshot.signatures[version]
    for part in (*(c.version for c in canaries), *(s.version for s in shadows)):
        other = snapshot.signatures.get(part)
        if other is not None and (reasons := refusals(signature, other)):
            raise ChangeRefused(
                f"{part}, which has a part in the traffic of {snapshot.model}, does not fit the clients of {version} "
                f"({', '.join(reasons)}): take it out with `turnout traffic set`, or release with --no-traffic"
            )
    return state.with_policy(_fitting(replace(policy, baseline=version, canaries=canaries, shadows=shadows)), order)


def _fitting(policy: Policy) -> Policy:
    return policy if policy.canaries else replace(policy, twin=0)


def _in_the_way(snapshot: ModelSnapshot, version: Version) -> str:
    model = snapshot.model
    message = (
        f"{version} of {model} is not released: a rollout runs ({running_text(snapshot)}), and {version} would take "
        f"plain requests over from {snapshot.answering or 'no version'} meanwhile"
    )
    ways = [f"`turnout rollout abort {model}` first"]
    if snapshot.unreadable:
        ways = [f"`turnout rollout abort {model} --discard` first"]
    if any(rollout.candidate == version for rollout in snapshot.rollouts):
        ways.append(f"`turnout rollout promote {model} --full`")
    ways.append(f"`turnout release {model}@{version} --supersede`, which ends the rollout")
    ways.append("or the same with --no-traffic, for ranges and `latest` alone")
    return f"{message}; {', '.join(ways)}"


def _text(snapshot: ModelSnapshot, version: Version, *, moves: bool) -> str:
    model, before = snapshot.model, snapshot.answering
    message = f"{model} {version} is released"
    if moves:
        return message if before is None else f"{message}, and answers plain requests in place of {before}"
    return f"{message} for ranges; plain requests stay with {before}" if before is not None else message
