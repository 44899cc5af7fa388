"""The effects of `turnout rollback` on a model. Pure.

All plain requests go to a version that answered them before. Rollouts and canaries end, and the versions that are
rolled back become candidates again, so that ranges and `latest` no longer reach them either. A second rollback goes
further back; none ever goes forward.
"""

from semver import Version

from turnout.errors import ChangeRefused, InvalidRequest
from turnout.rollout.changes.model_snapshot import ChangeOutcome, ModelSnapshot
from turnout.rollout.machine.attempt import Rollout, RolloutState
from turnout.rollout.machine.overrides import end_now
from turnout.routing.policy import Policy
from turnout.routing.rollback import default_version, rollback_targets
from turnout.state.release_status import ReleaseStatus

_S = RolloutState


def rollback(
    snapshot: ModelSnapshot, to: Version | None, order: bytes, *, keep_released: bool, actor: str, reason: str
) -> ChangeOutcome:
    """Decides what a rollback changes. Arguments as of `Operations.rollback`, and `order` as in
    `PolicyState.with_policy`.

    Raises:
        ChangeRefused: There is no version to go back to, or it cannot answer; the message says which versions exist.
    """
    model, present, policy = snapshot.model, snapshot.answering, snapshot.state.policy
    target = _target(snapshot, to)
    if why := snapshot.trouble(target):
        raise ChangeRefused(f"{target} cannot answer: {why}")
    if snapshot.state.frozen and target not in (*snapshot.history, *(r.previous for r in snapshot.rollouts)):
        raise ChangeRefused(f"traffic of {model} is frozen, and {target} never answered plain requests of it")
    text = f"{target} has all of the traffic"
    endings = tuple(
        end_now(rollout, reason, _S.ROLLED_BACK, text, kind="rollback", actor=actor) for rollout in snapshot.rollouts
    )
    left = [r.candidate for r in snapshot.rollouts if r.state is not _S.PENDING]
    left += [present] if present is not None else []
    statuses = {
        version: ReleaseStatus.CANDIDATE
        for version in left
        if version != target and snapshot.status(version) is ReleaseStatus.RELEASED and not keep_released
    }
    default = default_version({**snapshot.statuses, **statuses})
    state = None
    if policy is not None or default != target:
        wanted = snapshot.state.with_policy(Policy(target), order)
        state = None if wanted == snapshot.state else wanted
    if not (state or statuses or endings or snapshot.unreadable):
        raise ChangeRefused(f"{target} answers all plain requests of {model} already; nothing was changed")
    gone = f"{model} went back to {target}" if target != present else f"all traffic of {model} goes to {target}"
    if statuses:
        gone += f"; {', '.join(map(str, statuses))} is no longer released"
    for rollout in snapshot.rollouts:
        gone += f"; the rollout of {rollout.candidate} (attempt {rollout.attempt}) has ended"
    return ChangeOutcome(gone, state, "rollback", statuses, endings, snapshot.unreadable)


def _target(snapshot: ModelSnapshot, to: Version | None) -> Version:
    """Returns the version to go back to. Raises ChangeRefused if there is none, or `to` is not suitable."""
    model = snapshot.model
    targets = rollback_targets(snapshot.history, snapshot.statuses, snapshot.signatures.keys())
    if snapshot.rollouts:
        back = _before(snapshot.rollouts, snapshot)
        if to is not None and to != back:
            raise ChangeRefused(f"a rollout of {model} runs, and goes back to {back}: abort it first")
        if back in snapshot.signatures and snapshot.status(back) is ReleaseStatus.RELEASED:
            return back
        targets = tuple(target for target in targets if target != back)
    elif to is not None:
        if to not in snapshot.signatures:
            raise InvalidRequest.at("version", f"{model} has no version {to}")
        if snapshot.status(to) is not ReleaseStatus.RELEASED:
            raise ChangeRefused(f"{to} is {_status(snapshot, to)}: release it before it becomes the baseline")
        return to
    if targets:
        return targets[0]
    present, policy = snapshot.answering, snapshot.state.policy
    if present is not None and policy is not None and policy.canaries:
        return present  # no version answered before it, but there are canaries to end
    raise ChangeRefused(_nothing(snapshot))


def _before(rollouts: tuple[Rollout, ...], snapshot: ModelSnapshot) -> Version:
    """Returns the version that rollouts go back to: the baseline, or the previous one if a rollout has changed it."""
    present = snapshot.answering
    changed = (r.previous for r in rollouts if r.candidate == present)
    return next(changed, present if present is not None else rollouts[0].previous)


def _nothing(snapshot: ModelSnapshot) -> str:
    model, present = snapshot.model, snapshot.answering
    earlier = [v for v in dict.fromkeys(reversed(snapshot.history)) if v != present]
    why = f"no other version was the baseline of {model} before"
    if earlier:
        parts = (f"{version} is {_status(snapshot, version)}" for version in earlier)
        why = f"there is nothing to go back to: of what answered plain requests of {model} before, {', '.join(parts)}"
    others = [v for v, s in snapshot.statuses.items() if s is ReleaseStatus.RELEASED and v != present]
    if others:
        return (
            f"{why}; `--to VERSION` gives all of the traffic to a released one ({', '.join(map(str, sorted(others)))})"
        )
    return f"{why}; `turnout release {model}@VERSION` has another one answer"


def _status(snapshot: ModelSnapshot, version: Version) -> str:
    if version not in snapshot.signatures:
        return "gone from the repository"
    status = snapshot.status(version)
    return {ReleaseStatus.CANDIDATE: "a candidate", ReleaseStatus.YANKED: "yanked"}.get(status, "rolled back already")
