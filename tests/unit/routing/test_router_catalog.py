"""The router answers by the catalog's current snapshot: who answers, in which role, or why nobody does."""

import pytest

from ready import digest_of, entry, put
from turnout.errors import (
    DigestMismatch,
    InvalidSelector,
    ModelFailure,
    ModelNotFound,
    NotLoaded,
    StoreUnavailable,
    TurnoutError,
    UnavailableError,
    VersionLoading,
    VersionNotFound,
)
from turnout.routing.active_policies import Policies
from turnout.routing.router import MAX_ROUTES, PolicyRouter
from turnout.serving.data_plane.inference import Router, ServingRole
from turnout.serving.versions.catalog import Catalog
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.state.release_status import ReleaseStatus

READY, FAILED = LifecycleState.READY, LifecycleState.FAILED


@pytest.fixture
def catalog() -> Catalog:
    return Catalog()


@pytest.fixture
def router(catalog: Catalog) -> Router:
    return PolicyRouter(catalog, Policies())


def answered(router: Router, selector: str) -> str:
    return str(router.route("magika", selector, "").entry.version)


@pytest.mark.parametrize(
    ("selector", "version", "role"),
    [
        ("", "3.2.0", ServingRole.BASELINE),
        ("latest", "3.2.0", ServingRole.PINNED),
        ("^1", "1.10.0", ServingRole.PINNED),
        ("3", "3.2.0", ServingRole.PINNED),
        ("3.3.0", "3.3.0", ServingRole.PINNED),
        ("v1.9.0", "1.9.0", ServingRole.PINNED),
        ("champion", "3.3.0", ServingRole.PINNED),
        (digest_of("1.9.0"), "1.9.0", ServingRole.PINNED),
    ],
)
def test_each_selector_meets_its_version_in_its_role(
    catalog: Catalog, router: Router, selector: str, version: str, role: ServingRole
) -> None:
    candidate = entry("3.3.0", release_status=ReleaseStatus.CANDIDATE)
    put(catalog, entry("1.9.0"), entry("1.10.0"), entry("3.2.0"), candidate, tags={"champion": "3.3.0"})
    for _ in range(2):  # worked out, then remembered
        route = router.route("magika", selector, "")
        assert (str(route.entry.version), route.role, route.epoch) == (version, role, 0)
        assert router.describe("magika", selector) is route.entry


def test_a_release_a_tag_and_a_load_are_seen_by_the_next_request(catalog: Catalog, router: Router) -> None:
    candidate = entry("3.3.0", release_status=ReleaseStatus.CANDIDATE)
    put(catalog, entry("3.2.0"), candidate, tags={"stable": "3.2.0"})
    assert [answered(router, selector) for selector in ("", "^3", "stable")] == ["3.2.0"] * 3
    put(catalog, entry("3.2.0"), entry("3.3.0"), tags={"stable": "3.3.0"})
    assert [answered(router, selector) for selector in ("", "^3", "stable")] == ["3.3.0"] * 3
    put(catalog, entry("3.2.0"), entry("3.3.0", LifecycleState.DRAINING), tags={"stable": "3.3.0"})
    assert [answered(router, selector) for selector in ("", "^3")] == ["3.2.0"] * 2
    with pytest.raises(NotLoaded):
        answered(router, "stable")


def test_a_released_version_that_loads_or_fails_leaves_what_served_before(catalog: Catalog, router: Router) -> None:
    for state in (LifecycleState.NEW, LifecycleState.LOADING, LifecycleState.WARMING, FAILED):
        put(catalog, entry("3.2.0"), entry("3.3.0", state))
        assert [answered(router, selector) for selector in ("", "^3", "latest", "*")] == ["3.2.0"] * 4
        assert router.describe("magika", "^3").state is state


@pytest.mark.parametrize("selector", ["3.3.0", "^3", "", "latest", "stable", digest_of("3.3.0")])
@pytest.mark.parametrize(
    ("state", "reason", "error", "message"),
    [
        (LifecycleState.NEW, "", NotLoaded, "magika 3.3.0 is published but not loaded"),
        (
            LifecycleState.NEW,
            "left out by load",
            NotLoaded,
            "magika 3.3.0 is published but not loaded: left out by load",
        ),
        (LifecycleState.LOADING, "", VersionLoading, "magika 3.3.0 is loading"),
        (LifecycleState.WARMING, "", VersionLoading, "magika 3.3.0 is warming"),
        (LifecycleState.DRAINING, "", NotLoaded, "magika 3.3.0 is being unloaded"),
        (LifecycleState.UNLOADED, "", NotLoaded, "magika 3.3.0 was unloaded"),
        (FAILED, "bad opset", NotLoaded, "magika 3.3.0 could not be loaded: bad opset"),
        (FAILED, "", NotLoaded, "magika 3.3.0 could not be loaded: no reason is known"),
    ],
)
def test_what_is_known_but_cannot_answer_says_why(
    catalog: Catalog,
    router: Router,
    selector: str,
    state: LifecycleState,
    reason: str,
    error: type[TurnoutError],
    message: str,
) -> None:
    put(catalog, entry("3.3.0", state, reason=reason), tags={"stable": "3.3.0"})
    with pytest.raises(error) as caught:
        router.route("magika", selector, "")
    assert type(caught.value) is error
    assert caught.value.message == message
    assert caught.value.retry_after == (1.0 if error is VersionLoading else None)
    assert router.describe("magika", selector).state is state


def test_a_version_whose_bytes_changed_is_refused_with_the_mismatch_anew_each_time(
    catalog: Catalog, router: Router
) -> None:
    mismatch = DigestMismatch("model.onnx of magika 3.3.0 is not what was published")
    put(catalog, entry("3.3.0", FAILED, reason=mismatch.message, failure=mismatch))
    caught = []
    for _ in range(2):
        with pytest.raises(DigestMismatch) as info:
            router.route("magika", "3.3.0", "")
        caught.append(info.value)
    assert [error.message for error in caught] == [mismatch.message] * 2
    assert len({id(error) for error in [*caught, mismatch]}) == 3


def test_a_load_that_failed_for_the_moment_only_may_be_asked_for_again(catalog: Catalog, router: Router) -> None:
    failure = StoreUnavailable("magika 3.3.0 cannot be fetched: the store does not answer", retry_after=5.0)
    put(catalog, entry("3.3.0", FAILED, reason=failure.message, failure=failure))
    with pytest.raises(UnavailableError, match=r"could not be loaded: .* the store does not answer") as caught:
        router.route("magika", "3.3.0", "")
    assert caught.value.retry_after == 5.0


def test_another_failure_of_a_load_is_no_failure_of_the_request(catalog: Catalog, router: Router) -> None:
    failure = ModelFailure("it cannot be loaded (Fail)")
    put(catalog, entry("3.3.0", FAILED, reason=failure.message, failure=failure))
    with pytest.raises(NotLoaded, match=r"magika 3\.3\.0 could not be loaded: it cannot be loaded"):
        router.route("magika", "3.3.0", "")


def test_while_one_version_loads_a_failed_one_above_it_does_not_end_the_wait(catalog: Catalog, router: Router) -> None:
    put(catalog, entry("3.2.0", LifecycleState.LOADING), entry("3.3.0", FAILED, reason="bad opset"))
    with pytest.raises(VersionLoading, match=r"magika 3\.2\.0 is loading"):
        router.route("magika", "^3", "")


def test_what_does_not_exist_is_not_found_and_what_is_malformed_is_refused(catalog: Catalog, router: Router) -> None:
    put(catalog, entry("3.2.0"))
    for ask in (lambda m, s: router.route(m, s, ""), router.describe):
        with pytest.raises(ModelNotFound, match="there are: magika"):
            ask("magica", "")
        with pytest.raises(VersionNotFound, match="nearest: 3"):
            ask("magika", "3.3.0")
        with pytest.raises(InvalidSelector):
            ask("magika", "03")


def test_an_empty_catalog_knows_no_model(router: Router) -> None:
    with pytest.raises(ModelNotFound, match="there are no models"):
        router.route("magika", "", "")


def test_an_error_is_not_remembered_as_an_answer(catalog: Catalog, router: Router) -> None:
    put(catalog, entry("3.2.0", LifecycleState.LOADING))
    for _ in range(2):
        with pytest.raises(VersionLoading):
            router.route("magika", "^3", "")
    put(catalog, entry("3.2.0"))
    assert answered(router, "^3") == "3.2.0"


def test_more_selectors_than_are_remembered_are_still_answered(catalog: Catalog, router: Router) -> None:
    put(catalog, entry("3.2.0"))
    for major in range(MAX_ROUTES + 2):
        assert answered(router, f"<{major + 4}") == "3.2.0"
    assert answered(router, "<4") == "3.2.0"


def test_a_known_route_is_not_worked_out_again(catalog: Catalog, router: Router) -> None:
    put(catalog, entry("3.2.0"))
    assert router.route("magika", "^3", "a") is router.route("magika", "^3", "b")
