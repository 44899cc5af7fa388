"""Sequences of what operators do to a model, on the pure decisions: what the release rule promises."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from semver import Version

from rollout_values import PLAN
from turnout.errors import ChangeRefused, InvalidRequest
from turnout.registry.manifest.signature import Signature
from turnout.rollout.changes.model_snapshot import ChangeOutcome, ModelSnapshot
from turnout.rollout.changes.release import release, state_without, withdraw
from turnout.rollout.changes.rollback import rollback
from turnout.rollout.machine.attempt import Rollout, RolloutState
from turnout.rollout.machine.overrides import end_now
from turnout.routing.default_answers import answers_of
from turnout.routing.policy import UNITS, Canary, Policy, malformed
from turnout.routing.rollback import rollback_targets
from turnout.state.release_status import ReleaseStatus

S = RolloutState
VERSIONS = [Version.parse(text) for text in ("0.9.0", "1.0.0", "1.0.1", "1.1.0", "1.2.0", "2.0.0", "2.1.0-rc.1")]
SALT = b"0123456789abcdef"

versions = st.sampled_from(VERSIONS)


class ReleaseRule(RuleBasedStateMachine):
    """One model under releases, withdrawals, yanks, rollbacks, policies set by hand, and rollouts."""

    def __init__(self) -> None:
        super().__init__()
        self.now = ModelSnapshot("m", dict.fromkeys(VERSIONS, Signature((), ())), {})
        self.gone_back_from: set[Version] = set()
        self.kept: set[Version] = set()
        self.attempts = 0

    def take(self, outcome: ChangeOutcome) -> ModelSnapshot:
        """Records an outcome; returns how it was before."""
        before = self.now
        after = before.after(outcome)
        assert outcome.changes == (
            (before.state, before.statuses, before.rollouts) != (after.state, after.statuses, after.rollouts)
        ), "what says that it changes something does, and nothing else"
        if after.state.policy is not None:
            assert not malformed(after.state.policy)
        self.now = after
        return before

    @rule(version=versions, traffic=st.booleans(), supersede=st.booleans())
    def released(self, version, traffic, supersede) -> None:
        before = self.now
        try:
            outcome = release(before, version, SALT, traffic=traffic, supersede=supersede, actor="ann", reason="")
        except (ChangeRefused, InvalidRequest):
            return
        self.take(outcome)
        self.gone_back_from.discard(version)
        assert self.now.status(version) is ReleaseStatus.RELEASED
        higher = version.prerelease is None and (before.answering is None or version > before.answering)
        if traffic and higher:
            assert self.now.answering == version, "that is what a release means"
        else:
            assert self.now.answering == before.answering
        if self.now.answering != before.answering and before.rollouts:
            assert supersede, "a rollout is not superseded without a word"
            assert not self.now.rollouts
            assert all(r.state in (S.SUPERSEDED, r.end) for r, _ in outcome.endings)
        else:
            assert self.now.rollouts == before.rollouts
        if not outcome.changes:
            assert "nothing changed" in outcome.sentence

    @rule(version=versions)
    def withdrawn(self, version) -> None:
        try:
            outcome = withdraw(self.now, version)
        except ChangeRefused:
            return
        self.take(outcome)
        assert self.now.status(version) is not ReleaseStatus.RELEASED

    @rule(version=versions)
    def yanked(self, version) -> None:
        policy = self.now.state.policy
        needed = {v for r in self.now.rollouts for v in (r.candidate, r.previous)}
        if version in needed or (policy is not None and version in policy.versions):
            return
        self.now = replace(self.now, statuses={**self.now.statuses, version: ReleaseStatus.YANKED})
        self.note()

    def note(self) -> None:
        """Notes who answers, where something else than an outcome may have changed it."""
        answering = self.now.answering
        if answering is not None and answering not in self.now.history[-1:]:
            self.now = replace(self.now, history=(*self.now.history, answering))

    @rule(to=st.none() | versions, keep=st.sampled_from([False, False, False, True]))
    def rolled_back(self, to, keep) -> None:
        before = self.now
        targets = rollback_targets(before.history, before.statuses, before.signatures.keys())
        try:
            outcome = rollback(before, to, SALT, keep_released=keep, actor="ann", reason="bad")
        except (ChangeRefused, InvalidRequest):
            return
        self.take(outcome)
        target = self.now.answering
        assert target is not None
        assert before.status(target) is ReleaseStatus.RELEASED
        assert [part.version for part in self.now.answers.plain] == [target], "all of the traffic, and no canary"
        assert not self.now.rollouts
        assert outcome.changes
        if to is None:
            assert target not in self.gone_back_from - self.kept, "never to what was gone back from"
            if not before.rollouts:
                assert target in targets or target == before.answering
                assert target != before.answering or before.state.policy.canaries  # type: ignore[union-attr]
            after = rollback_targets(self.now.history, self.now.statuses, self.now.signatures.keys())
            assert len(after) < max(len(targets), 1) or target == before.answering, "each goes further back"
        left = {r.candidate for r in before.rollouts if r.state is not S.PENDING} | {before.answering}
        for version in left - {target, None}:
            if keep:
                self.kept.add(version)
            else:
                self.gone_back_from.add(version)
                self.kept.discard(version)

    @rule(baseline=versions, canary=st.none() | versions, weight=st.sampled_from([500, 2500]))
    def set_by_hand(self, baseline, canary, weight) -> None:
        if self.now.status(baseline) is not ReleaseStatus.RELEASED or self.now.rollouts or canary == baseline:
            return
        if canary is not None and self.now.status(canary) is ReleaseStatus.YANKED:
            return
        canaries = () if canary is None else (Canary(canary, weight),)
        self.now = replace(self.now, state=self.now.state.with_policy(Policy(baseline, canaries), SALT))
        self.note()

    @rule()
    def cleared(self) -> None:
        if not self.now.rollouts:
            self.now = replace(self.now, state=self.now.state.cleared())
            self.note()

    @rule(candidate=versions, state=st.sampled_from([S.PENDING, S.VALIDATING, S.SOAKING, S.WATCHING]))
    def rollout_begun(self, candidate, state) -> None:
        """As a rollout and its enforcement would have left it in that state."""
        previous = self.now.answering
        if previous in (None, candidate) or self.now.rollouts or self.now.status(candidate) is ReleaseStatus.YANKED:
            return
        self.attempts += 1
        begun = Rollout.start("m", candidate, previous, self.attempts, PLAN, "ann", "")
        was_released = self.now.status(candidate) is ReleaseStatus.RELEASED
        rollout = replace(begun, state=state, was_released=was_released, released=state is S.WATCHING)
        statuses, policy = self.now.statuses, self.now.state
        if state is S.SOAKING:
            policy = policy.with_policy(Policy(previous, (Canary(candidate, UNITS // 4),)), SALT)
        if state is S.WATCHING:
            policy = policy.with_policy(Policy(candidate, (Canary(previous, 500),)), SALT)
            statuses = {**statuses, candidate: ReleaseStatus.RELEASED}
            self.gone_back_from.discard(candidate)
        self.now = replace(self.now, rollouts=(rollout,), state=policy, statuses=statuses)
        self.note()

    @rule(finished=st.booleans())
    def rollout_ended(self, finished) -> None:
        for rollout in self.now.rollouts:
            state = state_without(self.now.state, (rollout,), SALT)
            if finished or rollout.state is not S.WATCHING:
                self.now = replace(self.now, rollouts=(), state=state)
            else:
                ended, _ = end_now(rollout, "worse", S.ROLLED_BACK, "back", kind="verdict", actor="")
                assert ended.state is S.ROLLED_BACK
                self.gone_back_from.add(rollout.candidate)
                statuses = {**self.now.statuses, rollout.candidate: ReleaseStatus.CANDIDATE}
                back = state.with_policy(Policy(rollout.previous), SALT)
                self.now = replace(self.now, rollouts=(), state=back, statuses=statuses)
            self.note()

    @invariant()
    def what_was_gone_back_from_is_met_by_pins_alone(self) -> None:
        """Until it is released again, or has its share by hand or by a rollout."""
        policy = self.now.state.policy
        by_hand = set() if policy is None else policy.versions
        for one in self.now.answers.selectors:
            for part in one.parts:
                assert part.version not in self.gone_back_from - self.kept - by_hand, one

    @invariant()
    def whoever_answers_is_released_or_a_canary(self) -> None:
        for one in answers_of(self.now.state.policy, self.now.statuses).selectors:
            assert sum(part.weight for part in one.parts) in (0, UNITS)
            for part in one.parts:
                assert part.canary or self.now.status(part.version) is ReleaseStatus.RELEASED


ReleaseRule.TestCase.settings = settings(max_examples=100, stateful_step_count=25)
test_the_release_rule_holds_whatever_operators_do = ReleaseRule.TestCase
