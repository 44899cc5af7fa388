"""Which versions are loaded follows from what exists, what was declared, configured and asked for."""

from semver import Version

from turnout.config import LoadAll, LoadLatest, LoadSelectors
from turnout.registry.standing import Declarations, Standing
from turnout.routing.configured import named
from turnout.serving.lifecycle import LifecycleState
from turnout.serving.load_policy import Moves, Wish, moves, wanted

V = [Version.parse(text) for text in ("1.0.0", "1.9.0", "1.10.0", "2.0.0-rc.1")]
YANKED = Declarations({V[1]: Standing.YANKED})
NOTHING = Declarations()


def test_all_means_all_but_what_was_yanked() -> None:
    assert wanted(Wish(LoadAll(), {}), V, YANKED, named) == {V[0], V[2], V[3]}


def test_the_latest_are_the_highest_by_precedence_not_by_text() -> None:
    assert wanted(Wish(LoadLatest(2), {}), V, NOTHING, named) == {V[2], V[3]}


def test_selectors_name_one_version_each_and_ranges_released_ones_only() -> None:
    released = Declarations({V[0]: Standing.RELEASED, V[1]: Standing.RELEASED})
    assert wanted(Wish(LoadSelectors(("^1", "2.0.0-rc.1", "^7")), {}), V, released, named) == {V[1], V[3]}


def test_what_an_operator_asks_for_goes_before_the_configuration() -> None:
    asked = {V[0]: False, V[1]: True, Version(9): True}
    assert wanted(Wish(LoadLatest(1), asked), V, YANKED, named) == {V[1], V[3]}


def test_only_settled_versions_move_and_the_highest_first() -> None:
    states = dict(
        zip(V, (LifecycleState.NEW, LifecycleState.READY, LifecycleState.UNLOADED, LifecycleState.LOADING), strict=True)
    )
    assert moves({V[0], V[2], V[3]}, states) == Moves(load=(V[2], V[0]), unload=(V[1],))


def test_a_failed_load_is_not_tried_again_by_itself() -> None:
    assert moves({V[0]}, {V[0]: LifecycleState.FAILED}) == Moves()


def test_yanked_versions_are_kept_for_pins_where_that_is_wanted_and_take_no_other_s_place() -> None:
    assert wanted(Wish(LoadAll(), {}, yanked=True), V, YANKED, named) == set(V)
    highest = Declarations({V[3]: Standing.YANKED})
    assert wanted(Wish(LoadLatest(1), {}), V, highest, named) == {V[2]}
    assert wanted(Wish(LoadLatest(1), {}, yanked=True), V, highest, named) == {V[2], V[3]}
    assert wanted(Wish(LoadLatest(1), {}, yanked=True), V, YANKED, named) == {V[3]}
    pinned = Wish(LoadSelectors(("1.9.0", "^1")), {}, yanked=True)
    released = Declarations({V[0]: Standing.RELEASED, V[1]: Standing.YANKED})
    assert wanted(pinned, V, released, named) == {V[0], V[1]}
