"""What `turnout rollback` does to a model. Pure.

All plain requests go to a version that had them before, rollouts and canaries end, and what was gone back from is a
candidate again, so that ranges and `latest` leave it too. A second rollback goes further back; none ever goes forward.
"""

from semver import Version

from turnout.errors import ChangeRefused, InvalidRequest
from turnout.rollout.changes.model_snapshot import ChangeOutcome, Situation
from turnout.rollout.machine.attempt import Rollout, RolloutState
from turnout.rollout.machine.overrides import end_now
from turnout.routing.policy import Policy
from turnout.routing.rollback import default_version, rollback_targets
from turnout.state.release_status import ReleaseStatus

_S = RolloutState


def rollback(
    situation: Situation, to: Version | None, order: bytes, *, keep_released: bool, actor: str, reason: str
) -> ChangeOutcome:
    """Returns what a rollback comes to.

    Args:
        situation: The model.
        to: What to go back to; None: what a rollout goes back to, or else the nearest that answered before.
        order: As of `PolicyState.with_policy`.
        keep_released: What was gone back from stays released.
        actor: Who asks.
        reason: Why.

    Raises:
        ChangeRefused: There is nothing to go back to, or it cannot answer; the message says what there is.
    """
    model, present, policy = situation.model, situation.answering, situation.state.policy
    target = _target(situation, to)
    if why := situation.trouble(target):
        raise ChangeRefused(f"{target} cannot answer: {why}")
    if situation.state.frozen and target not in (*situation.history, *(r.previous for r in situation.rollouts)):
        raise ChangeRefused(f"traffic of {model} is frozen, and {target} never answered plain requests of it")
    text = f"{target} has all of the traffic"
    endings = tuple(
        end_now(rollout, reason, _S.ROLLED_BACK, text, kind="rollback", actor=actor) for rollout in situation.rollouts
    )
    left = [r.candidate for r in situation.rollouts if r.state is not _S.PENDING]
    left += [present] if present is not None else []
    statuses = {
        version: ReleaseStatus.CANDIDATE
        for version in left
        if version != target and situation.status(version) is ReleaseStatus.RELEASED and not keep_released
    }
    default = default_version({**situation.statuses, **statuses})
    state = None
    if policy is not None or default != target:
        wanted = situation.state.with_policy(Policy(target), order)
        state = None if wanted == situation.state else wanted
    if not (state or statuses or endings or situation.unreadable):
        raise ChangeRefused(f"{target} answers all plain requests of {model} already; nothing was changed")
    gone = f"{model} went back to {target}"
    if statuses:
        gone += f"; {', '.join(map(str, statuses))} is released no more"
    return ChangeOutcome(gone, state, "rollback", statuses, endings, situation.unreadable)


def _target(situation: Situation, to: Version | None) -> Version:
    """Returns what to go back to.

    Raises:
        ChangeRefused: There is nothing, or `to` is not fit for it.
    """
    model = situation.model
    targets = rollback_targets(situation.history, situation.statuses, situation.signatures.keys())
    if situation.rollouts:
        back = _before(situation.rollouts, situation)
        if to is not None and to != back:
            raise ChangeRefused(f"a rollout of {model} runs, and goes back to {back}: abort it first")
        if back in situation.signatures and situation.status(back) is ReleaseStatus.RELEASED:
            return back
        targets = tuple(target for target in targets if target != back)
    elif to is not None:
        if to not in situation.signatures:
            raise InvalidRequest.at("version", f"{model} has no version {to}")
        if situation.status(to) is not ReleaseStatus.RELEASED:
            raise ChangeRefused(f"{to} is {_status(situation, to)}: release it before it becomes the baseline")
        return to
    if targets:
        return targets[0]
    present, policy = situation.answering, situation.state.policy
    if present is not None and policy is not None and policy.canaries:
        return present  # nothing answered before it, and there are canaries to take back
    raise ChangeRefused(_nothing(situation))


def _before(rollouts: tuple[Rollout, ...], situation: Situation) -> Version:
    """Returns what the rollouts of a model go back to: the baseline, or what it was before one of them changed it."""
    present = situation.answering
    changed = (r.previous for r in rollouts if r.candidate == present)
    return next(changed, present if present is not None else rollouts[0].previous)


def _nothing(situation: Situation) -> str:
    """Says that there is nothing to go back to, why, and what can be done."""
    model, present = situation.model, situation.answering
    earlier = [v for v in dict.fromkeys(reversed(situation.history)) if v != present]
    why = f"no other version was the baseline of {model} before"
    if earlier:
        parts = (f"{version} is {_status(situation, version)}" for version in earlier)
        why = f"there is nothing to go back to: of what answered plain requests of {model} before, {', '.join(parts)}"
    others = [v for v, s in situation.statuses.items() if s is ReleaseStatus.RELEASED and v != present]
    if others:
        return (
            f"{why}; `--to VERSION` gives all of the traffic to a released one ({', '.join(map(str, sorted(others)))})"
        )
    return f"{why}; `turnout release {model}@VERSION` has another one answer"


def _status(situation: Situation, version: Version) -> str:
    if version not in situation.signatures:
        return "gone from the repository"
    status = situation.status(version)
    return {ReleaseStatus.CANDIDATE: "a candidate", ReleaseStatus.YANKED: "yanked"}.get(
        status, "what was gone back from"
    )
