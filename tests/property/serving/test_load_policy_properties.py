"""Whatever answered before an event answers after it, unless the operator asked it to go.

A model's life is played with the pure decisions alone: events come in any order, loads end or fail at any time, and
after every step each selector that was answered before has to be answered still.
"""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from semver import Version

from turnout.config import Load, LoadAll, LoadLatest, LoadSelectors
from turnout.errors import VersionNotFound
from turnout.routing.selection.resolution import VersionIndex, named, resolve
from turnout.routing.selection.selector import parse
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.serving.versions.load_policy import CurrentServing, DesiredServing, moves, tags_in_force, wanted
from turnout.state.release_status import ModelReleaseState, ReleaseStatus

S = LifecycleState
NUMBERS = [Version.parse(v) for v in ("1.0.0", "1.1.0", "2.0.0-rc.1", "2.0.0", "3.0.0")]
TAGS = ("stable", "next")
HIGHEST = ("", "latest", ">=1")
PROMISED: list[tuple[Load, tuple[str, ...]]] = [
    (LoadAll(), (*HIGHEST, "^1", *TAGS)),
    (LoadLatest(1), (*HIGHEST, *TAGS)),
    (LoadLatest(2), (*HIGHEST, *TAGS)),
    (LoadSelectors(("latest",)), HIGHEST),
    (LoadSelectors(("^1", "stable")), ("^1", "stable")),
    (LoadSelectors(("latest", "next", "~2")), (*HIGHEST, "next")),
]
"""Settings, and the selectors that each of them keeps answered."""


class Life(RuleBasedStateMachine):
    """One model in one server."""

    @initialize(setting=st.sampled_from(PROMISED))
    def begin(self, setting: tuple[Load, tuple[str, ...]]) -> None:
        self.load, self.promised = setting
        self.states: dict[Version, LifecycleState] = {}
        self.release_state = ModelReleaseState()
        self.tags: dict[str, Version] = {}
        self.answered: dict[str, Version] = {}

    # What happens.

    @rule(version=st.sampled_from(NUMBERS))
    def publish(self, version: Version) -> None:
        before = dict(self.states)
        self.states.setdefault(version, S.NEW)
        self._settle()
        assert all(self.states[v] is S.READY for v, s in before.items() if s is S.READY), "a publish unloaded a version"

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        candidates = [v for v in self.states if self.release_state.release_status(v) is ReleaseStatus.CANDIDATE]
        if candidates:
            self._declare(data.draw(st.sampled_from(sorted(candidates))), ReleaseStatus.RELEASED)
            self._settle()

    @rule(version=st.sampled_from(NUMBERS))
    def publish_and_release(self, version: Version) -> None:
        if version not in self.states:
            self.states[version] = S.NEW
            self._declare(version, ReleaseStatus.RELEASED)
            self._settle()

    @rule()
    def end_all_loads_well(self) -> None:
        while loading := [v for v, s in self.states.items() if s is S.LOADING]:
            self.states |= dict.fromkeys(loading, S.READY)
            self._settle()

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def yank(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.states)))
        if version in self.release_state.tags.values():
            return  # it is refused
        self._declare(version, ReleaseStatus.YANKED)
        # The operator asked for it: what only this version answered has to wait for another.
        self.answered = {selector: v for selector, v in self.answered.items() if v != version}
        self._settle()

    @precondition(lambda self: self.states)
    @rule(tag=st.sampled_from(TAGS), data=st.data())
    def tag(self, tag: str, data: st.DataObject) -> None:
        target = data.draw(st.sampled_from(sorted(self.states)))
        if self.release_state.release_status(target) is ReleaseStatus.YANKED:
            return  # it is refused
        self.release_state = replace(self.release_state, tags={**self.release_state.tags, tag: target})
        if target not in self._wanted():
            self.answered.pop(tag, None)  # a tag was sent to what the operator does not have loaded
        self._settle()

    @precondition(lambda self: any(s is S.LOADING for s in self.states.values()))
    @rule(data=st.data(), works=st.booleans())
    def end_a_load(self, data: st.DataObject, works: bool) -> None:
        version = data.draw(st.sampled_from(sorted(v for v, s in self.states.items() if s is S.LOADING)))
        self.states[version] = S.READY if works else S.FAILED
        self._settle()

    # What has to hold.

    @invariant()
    def what_answered_answers(self) -> None:
        if not hasattr(self, "states"):
            return
        now = {selector: version for selector in self.promised if (version := self._answer(selector)) is not None}
        lost = self.answered.keys() - now.keys()
        assert not lost, f"{sorted(lost)} answered before, with {[str(self.answered[s]) for s in lost]}"
        self.answered = now

    @invariant()
    def nothing_that_failed_or_is_gone_is_kept_for_nothing(self) -> None:
        if not hasattr(self, "states"):
            return
        chosen = self._wanted()
        if all(self.states[version] is S.READY for version in chosen):
            ready = {v for v, s in self.states.items() if s is S.READY}
            assert ready == chosen, "once all is loaded, what is loaded is what is wanted"

    # The manager, in short.

    def _declare(self, version: Version, release_status: ReleaseStatus) -> None:
        self.release_state = replace(
            self.release_state, release_statuses={**self.release_state.release_statuses, version: release_status}
        )

    def _loaded(self) -> CurrentServing:
        return CurrentServing(self.states, self.tags)

    def _wanted(self) -> set[Version]:
        return wanted(DesiredServing(self.load, {}), list(self.states), self.release_state, named, self._loaded())

    def _settle(self) -> None:
        self.tags = tags_in_force(self.release_state.tags, self._loaded(), self._wanted())
        due = moves(self._wanted(), self.states)
        self.states |= dict.fromkeys(due.load, S.LOADING) | dict.fromkeys(due.unload, S.UNLOADED)

    def _answer(self, selector: str) -> Version | None:
        ready = [v for v, s in self.states.items() if s is S.READY]
        release_statuses = {v: self.release_state.release_status(v) for v in self.states}
        index = VersionIndex.of("m", release_statuses, tags=self.tags, ready=ready)
        try:
            found = resolve(parse(selector), index)
        except VersionNotFound:
            return None
        return found if found in ready and release_statuses[found] is not ReleaseStatus.YANKED else None


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=50, stateful_step_count=25)


@given(st.permutations(NUMBERS), st.sets(st.sampled_from(NUMBERS), min_size=1))
def test_the_order_of_publishing_makes_no_difference(order: list[Version], released: set[Version]) -> None:
    declared = ModelReleaseState(dict.fromkeys(released, ReleaseStatus.RELEASED))
    for load, _ in PROMISED:
        desired = DesiredServing(load, {})
        assert wanted(desired, order, declared, named) == wanted(desired, NUMBERS, declared, named)
