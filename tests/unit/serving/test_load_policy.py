"""Which versions are loaded follows from what exists, what was declared, configured and asked for."""

from semver import Version

from turnout.config import LoadAll, LoadLatest, LoadOnDemand, LoadSelectors
from turnout.routing.selection.resolution import named
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.serving.versions.load_policy import (
    CurrentServing,
    DesiredServing,
    Fallbacks,
    Moves,
    kept_below,
    moves,
    on_demand,
    tags_in_force,
    wanted,
)
from turnout.state.release_status import ModelReleaseState, ReleaseStatus

V = [Version.parse(text) for text in ("1.0.0", "1.9.0", "1.10.0", "2.0.0-rc.1")]
YANKED = ModelReleaseState({V[1]: ReleaseStatus.YANKED})
NOTHING = ModelReleaseState()
S = LifecycleState


def _released(*versions: Version) -> ModelReleaseState:
    return ModelReleaseState(dict.fromkeys(versions, ReleaseStatus.RELEASED))


def test_all_means_all_but_what_was_yanked() -> None:
    assert wanted(DesiredServing(LoadAll(), {}), V, YANKED, named) == {V[0], V[2], V[3]}


def test_the_latest_are_the_highest_releases_by_precedence_not_by_text() -> None:
    released = _released(V[0], V[1], V[2])
    assert wanted(DesiredServing(LoadLatest(2), {}), V[:3], released, named) == {V[1], V[2]}


def test_a_candidate_is_loaded_beside_the_latest_releases_and_takes_no_place() -> None:
    hotfix = Version.parse("1.9.1")
    assert wanted(DesiredServing(LoadLatest(1), {}), [*V, hotfix], _released(*V[:3]), named) == {V[2], V[3]}


def test_a_released_prerelease_is_no_latest_release_and_stays_beside_it() -> None:
    assert wanted(DesiredServing(LoadLatest(1), {}), V, _released(*V), named) == {V[2], V[3]}
    assert wanted(DesiredServing(LoadLatest(1), {}), V[3:], _released(V[3]), named) == {V[3]}


def test_what_answers_next_without_a_policy_stays_loaded_and_is_not_loaded_for_that() -> None:
    desired, released = DesiredServing(LoadLatest(1), {}, fallbacks=Fallbacks(spare=[V[1]])), _released(*V[:3])
    assert wanted(desired, V[:3], released, named) == {V[2]}
    assert wanted(desired, V[:3], released, named, CurrentServing({V[1]: S.READY})) == {V[1], V[2]}
    assert wanted(desired, V[:3], released, named, CurrentServing({V[1]: S.FAILED})) == {V[2]}
    assert V[1] not in wanted(desired, V[:3], YANKED, named, CurrentServing({V[1]: S.READY}))


def test_where_nothing_is_released_every_candidate_is_newer() -> None:
    assert wanted(DesiredServing(LoadLatest(1), {}), V, NOTHING, named) == set(V)


def test_what_a_tag_names_and_what_a_rollback_goes_back_to_stays_beside_the_latest() -> None:
    tagged = ModelReleaseState(_released(*V[:3]).release_statuses, {"stable": V[0]})
    assert wanted(DesiredServing(LoadLatest(1), {}, fallbacks=Fallbacks([V[1]])), V[:3], tagged, named) == {
        V[0],
        V[1],
        V[2],
    }
    assert wanted(DesiredServing(LoadSelectors(("^1",)), {}, fallbacks=Fallbacks([V[1]])), V[:3], tagged, named) == {
        V[1],
        V[2],
    }
    assert wanted(DesiredServing(LoadLatest(1), {}, fallbacks=Fallbacks([V[1]])), V[:3], YANKED, named) >= {V[2]}
    assert V[1] not in wanted(DesiredServing(LoadLatest(1), {}, fallbacks=Fallbacks([V[1]])), V[:3], YANKED, named)


def test_what_answered_stays_until_what_replaces_it_is_ready_and_where_that_fails() -> None:
    both = _released(V[0], V[2])
    for load in (LoadLatest(1), LoadSelectors(("latest",)), LoadSelectors(("^1",))):
        for state in (S.NEW, S.LOADING, S.WARMING, S.FAILED, S.DRAINING):
            assert wanted(
                DesiredServing(load, {}), [V[0], V[2]], both, named, CurrentServing({V[0]: S.READY, V[2]: state})
            ) == {
                V[0],
                V[2],
            }
        assert wanted(
            DesiredServing(load, {}), [V[0], V[2]], both, named, CurrentServing({V[0]: S.READY, V[2]: S.READY})
        ) == {V[2]}


def test_a_release_unloads_the_candidates_below_it_only_once_it_is_ready() -> None:
    two = Version(2)
    released = _released(V[0], two)
    for state, kept in ((S.LOADING, {V[0], V[2], two}), (S.FAILED, {V[0], V[2], two}), (S.READY, {two})):
        loaded = CurrentServing({V[0]: S.READY, V[2]: S.READY, two: state})
        assert wanted(DesiredServing(LoadLatest(1), {}), [V[0], V[2], two], released, named, loaded) == kept


def test_a_version_that_failed_takes_nobody_s_place_after_a_restart_either() -> None:
    both = _released(V[0], V[2])
    for load in (LoadLatest(1), LoadSelectors(("latest",)), LoadSelectors(("^1",))):
        assert V[0] in wanted(
            DesiredServing(load, {}), [V[0], V[2]], both, named, CurrentServing({V[0]: S.NEW, V[2]: S.FAILED})
        )


def test_a_tag_that_moved_answers_with_what_it_named_until_the_new_version_is_ready() -> None:
    before, moved = {"stable": V[0]}, {"stable": V[2]}
    for state in (S.NEW, S.UNLOADED, S.LOADING, S.WARMING, S.FAILED):
        loaded = CurrentServing({V[0]: S.READY, V[2]: state}, before)
        assert tags_in_force(moved, loaded, {V[2]}) == before
        assert wanted(
            DesiredServing(LoadSelectors(("stable",)), {}), [V[0], V[2]], ModelReleaseState(tags=moved), named, loaded
        ) == {
            V[0],
            V[2],
        }
    assert tags_in_force(moved, CurrentServing({V[0]: S.READY, V[2]: S.READY}, before), {V[2]}) == moved
    assert tags_in_force(moved, CurrentServing({V[0]: S.READY, V[2]: S.NEW}, before), {}) == moved, "it will never come"
    assert tags_in_force(moved, CurrentServing({V[0]: S.DRAINING, V[2]: S.NEW}, before), {V[2]}) == moved
    assert tags_in_force({}, CurrentServing({V[0]: S.READY}, before), {}) == {}


def test_a_pruned_version_is_never_wanted() -> None:
    pruned = ModelReleaseState({V[1]: ReleaseStatus.YANKED}, pruned=frozenset({V[1]}))
    for load in (LoadAll(), LoadLatest(3), LoadSelectors(("1.9.0",))):
        assert V[1] not in wanted(
            DesiredServing(load, {V[1]: True}, yanked=True, fallbacks=Fallbacks([V[1]])), V, pruned, named
        )


def test_selectors_name_one_version_each_and_ranges_released_ones_only() -> None:
    released = ModelReleaseState({V[0]: ReleaseStatus.RELEASED, V[1]: ReleaseStatus.RELEASED})
    assert wanted(DesiredServing(LoadSelectors(("^1", "2.0.0-rc.1", "^7")), {}), V, released, named) == {V[1], V[3]}


def test_what_an_operator_asks_for_goes_before_the_configuration() -> None:
    asked = {V[0]: False, V[1]: True, Version(9): True}
    released = ModelReleaseState({**_released(*V).release_statuses, V[1]: ReleaseStatus.YANKED})
    assert wanted(DesiredServing(LoadLatest(1), asked), V, released, named) == {V[1], V[2], V[3]}


def test_only_settled_versions_move_and_the_highest_first() -> None:
    states = dict(
        zip(V, (LifecycleState.NEW, LifecycleState.READY, LifecycleState.UNLOADED, LifecycleState.LOADING), strict=True)
    )
    assert moves({V[0], V[2], V[3]}, states) == Moves(load=(V[2], V[0]), unload=(V[1],))


def test_a_failed_load_is_not_tried_again_by_itself() -> None:
    assert moves({V[0]}, {V[0]: LifecycleState.FAILED}) == Moves()


def test_yanked_versions_are_kept_for_pins_where_that_is_wanted_and_take_no_other_s_place() -> None:
    assert wanted(DesiredServing(LoadAll(), {}, yanked=True), V, YANKED, named) == set(V)
    highest = ModelReleaseState({**_released(*V[:2]).release_statuses, V[2]: ReleaseStatus.YANKED})
    assert wanted(DesiredServing(LoadLatest(1), {}), V[:3], highest, named) == {V[1]}
    assert wanted(DesiredServing(LoadLatest(1), {}, yanked=True), V[:3], highest, named) == {V[1], V[2]}
    lower = ModelReleaseState({**_released(V[0], V[2]).release_statuses, V[1]: ReleaseStatus.YANKED})
    assert wanted(DesiredServing(LoadLatest(1), {}, yanked=True), V[:3], lower, named) == {V[2]}
    pinned = DesiredServing(LoadSelectors(("1.9.0", "^1")), {}, yanked=True)
    released = ModelReleaseState({V[0]: ReleaseStatus.RELEASED, V[1]: ReleaseStatus.YANKED})
    assert wanted(pinned, V, released, named) == {V[0], V[1]}


def test_on_demand_needs_what_answers_by_default_and_what_tags_name() -> None:
    tagged = ModelReleaseState(_released(*V[:3]).release_statuses, {"old": V[0]})
    assert wanted(DesiredServing(LoadOnDemand(), {}), V, tagged, named) == {V[0], V[2]}
    assert wanted(DesiredServing(LoadOnDemand(), {}), V, NOTHING, named) == set()
    loading = CurrentServing({V[1]: S.READY, V[2]: S.LOADING})
    assert wanted(DesiredServing(LoadOnDemand(), {}), V[:3], _released(*V[:3]), named, loading) == {V[1], V[2]}


def test_requests_decide_about_the_rest_but_for_what_was_withdrawn_pruned_or_unloaded() -> None:
    desired = DesiredServing(LoadOnDemand(), {V[0]: False})
    assert on_demand(desired, V, NOTHING, set()) == {V[1], V[2], V[3]}
    assert on_demand(desired, V, YANKED, {V[2]}) == {V[3]}
    assert on_demand(DesiredServing(LoadOnDemand(), {}, yanked=True), V, YANKED, {V[2]}) == {V[0], V[1], V[3]}
    assert on_demand(DesiredServing(LoadOnDemand(), {}), V, ModelReleaseState(pruned={V[3]}), set()) == {
        V[0],
        V[1],
        V[2],
    }
    assert on_demand(DesiredServing(LoadAll(), {}), V, NOTHING, set()) == set()


def test_the_version_below_a_release_is_kept_before_fallbacks_are_found_anew() -> None:
    released = ModelReleaseState(dict.fromkeys((V[0], V[1], V[2]), ReleaseStatus.RELEASED), {})
    assert kept_below(Fallbacks(), released).spare == {V[1]}
    policy = Fallbacks(needed=(V[0],))
    assert kept_below(policy, released) == policy
