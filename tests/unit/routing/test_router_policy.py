"""The router splits traffic as the policy in force says, and by what is ready."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from semver import Version

from ready import entry, put
from turnout.errors import NotLoaded, VersionLoading
from turnout.routing.active_policies import AppliedPolicy, Policies
from turnout.routing.policy import Canary, Policy, PolicyState
from turnout.routing.router import PolicyRouter
from turnout.routing.slots import Owners
from turnout.serving.data_plane.inference import ServingRole
from turnout.serving.versions.catalog import Catalog
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.state.release_status import ReleaseStatus

V = Version.parse
Force = Callable[..., AppliedPolicy]


def about(shares: object) -> object:
    """Equals the counts that 1,000 requests without a key may give: each share is exact up to two requests."""
    return pytest.approx(shares, abs=2)


@pytest.fixture
def catalog() -> Catalog:
    return Catalog()


@pytest.fixture
def policies() -> Policies:
    return Policies()


@pytest.fixture
def router(catalog: Catalog, policies: Policies) -> PolicyRouter:
    return PolicyRouter(catalog, policies)


@pytest.fixture
def force(policies: Policies) -> Force:
    """Puts a policy in force: a baseline, and canaries by version with their weights in units of 0.01 %."""

    def put_in_force(baseline: str, canaries: dict[str, int], epoch: int = 1) -> AppliedPolicy:
        known = policies.current.get("magika")
        before = known.state if known else PolicyState()
        wanted = Policy(V(baseline), tuple(Canary(V(v), weight) for v, weight in canaries.items()))
        state = before.with_policy(wanted, b"salt")
        owners = Owners.of(state.table)
        applied = AppliedPolicy(epoch, state, owners, [0] * len(owners.names), None, datetime.now(UTC), "", "", "set")
        policies.current = {"magika": applied}
        return applied

    return put_in_force


def answers(router: PolicyRouter, selector: str = "", keys: int = 0, **more: bool) -> Counter[tuple[str, ServingRole]]:
    """Who answers 1,000 requests: unkeyed, or of so many keys."""
    routes = (router.route("magika", selector, f"key-{n % keys}" if keys else "", **more) for n in range(1000))
    return Counter((route.entry.version_text, route.role) for route in routes)


def test_traffic_is_split_by_weight(catalog: Catalog, router: PolicyRouter, force: Force) -> None:
    put(
        catalog,
        entry("3.2.0"),
        entry("3.3.0", release_status=ReleaseStatus.CANDIDATE),
        entry("3.4.0", release_status=ReleaseStatus.CANDIDATE),
    )
    force("3.2.0", {"3.3.0": 500, "3.4.0": 1000})
    found = answers(router)
    assert found == about(
        {
            ("3.2.0", ServingRole.BASELINE): 850,
            ("3.3.0", ServingRole.CANARY): 50,
            ("3.4.0", ServingRole.CANARY): 100,
        }
    )


def test_the_first_requests_of_many_short_lived_processes_are_split_by_weight_too(
    catalog: Catalog, policies: Policies, force: Force
) -> None:
    """As of workers that are restarted all the time: no process gets as far as a whole window."""
    put(catalog, entry("3.2.0"), entry("3.3.0"), entry("3.4.0"))
    force("3.2.0", {"3.3.0": 500, "3.4.0": 4500})
    for requests in (1, 3):
        found = Counter(
            router.route("magika", selector).entry.version_text
            for router in (PolicyRouter(catalog, policies) for _ in range(1000))
            for selector in ("", "^3", ">=3.2", "3.x")
            for _ in range(requests)
        )
        for version, share in (("3.2.0", 0.5), ("3.3.0", 0.05), ("3.4.0", 0.45)):
            sigma = (4000 * share * (1 - share)) ** 0.5 * requests
            assert abs(found[version] - 4000 * requests * share) < 6 * sigma, found


def test_a_key_always_meets_the_same_version(catalog: Catalog, router: PolicyRouter, force: Force) -> None:
    put(catalog, entry("3.2.0"), entry("3.3.0"))
    force("3.2.0", {"3.3.0": 5000})
    for key in range(50):
        assert len({router.route("magika", s, str(key)).entry.version_text for s in ("", "^3") for _ in range(5)}) == 1


def test_every_route_names_the_epoch_pins_too(catalog: Catalog, router: PolicyRouter, force: Force) -> None:
    put(catalog, entry("3.2.0"), entry("3.3.0"))
    force("3.2.0", {"3.3.0": 5000}, epoch=7)
    assert {router.route("magika", s).epoch for s in ("", "^3", "3.3.0", "latest")} == {7}
    force("3.2.0", {}, epoch=8)
    assert {router.route("magika", s).epoch for s in ("", "^3", "3.3.0", "latest")} == {8}


def test_the_baseline_answers_although_a_higher_version_is_released(
    catalog: Catalog, router: PolicyRouter, force: Force
) -> None:
    put(catalog, entry("3.2.0"), entry("3.3.0"), entry("4.0.0"))
    force("3.2.0", {})
    assert answers(router) == answers(router, "^3") == {("3.2.0", ServingRole.BASELINE): 1000}
    assert answers(router, "latest") == answers(router, "^4") == {("4.0.0", ServingRole.PINNED): 1000}
    assert router.describe("magika", "").version_text == "3.2.0"


def test_a_canary_outside_the_range_leaves_its_share_to_the_baseline(
    catalog: Catalog, router: PolicyRouter, force: Force
) -> None:
    put(catalog, entry("3.2.0"), entry("3.3.0"), entry("4.0.0"))
    applied = force("3.2.0", {"3.3.0": 1000, "4.0.0": 2000})
    assert answers(router, "^3") == about({("3.2.0", ServingRole.BASELINE): 900, ("3.3.0", ServingRole.CANARY): 100})
    assert sum(applied.tally) == 0  # only requests that every owner might have had are held against the weights
    found = answers(router, ">=3")
    assert found == about({
        ("3.2.0", ServingRole.BASELINE): 700, ("3.3.0", ServingRole.CANARY): 100, ("4.0.0", ServingRole.CANARY): 200
    })  # fmt: skip
    assert applied.tally == [found[v, r] for v, r in (
        ("3.2.0", ServingRole.BASELINE), ("3.3.0", ServingRole.CANARY), ("4.0.0", ServingRole.CANARY)
    )]  # fmt: skip


@pytest.mark.parametrize("state", [LifecycleState.LOADING, LifecycleState.FAILED, LifecycleState.NEW])
def test_a_canary_that_is_not_ready_leaves_its_share_to_the_baseline(
    catalog: Catalog, router: PolicyRouter, force: Force, state: LifecycleState
) -> None:
    put(catalog, entry("3.2.0"), entry("3.3.0", state))
    force("3.2.0", {"3.3.0": 5000})
    assert answers(router) == answers(router, keys=100) == {("3.2.0", ServingRole.BASELINE): 1000}
    put(catalog, entry("3.2.0"), entry("3.3.0"))
    assert answers(router)["3.3.0", ServingRole.CANARY] == about(500)


def test_a_baseline_that_is_not_ready_is_refused_and_no_canary_steps_in(
    catalog: Catalog, router: PolicyRouter, force: Force
) -> None:
    put(catalog, entry("3.2.0", LifecycleState.LOADING), entry("3.3.0"))
    force("3.2.0", {"3.3.0": 5000})
    with pytest.raises(VersionLoading):
        router.route("magika", "", "")
    put(catalog, entry("3.3.0"))
    with pytest.raises(NotLoaded, match=r"3\.2\.0, the baseline"):
        router.route("magika", "", "")
    assert router.route("magika", "3.3.0").role is ServingRole.PINNED


def test_who_asks_for_the_baseline_meets_no_canary(catalog: Catalog, router: PolicyRouter, force: Force) -> None:
    put(catalog, entry("3.2.0"), entry("3.3.0"))
    applied = force("3.2.0", {"3.3.0": 10_000})
    assert answers(router, baseline_only=True) == {("3.2.0", ServingRole.BASELINE): 1000}
    assert sum(applied.tally) == 0
    assert answers(router) == {("3.3.0", ServingRole.CANARY): 1000}


def test_versions_that_come_and_go_do_not_disturb_the_even_sequence(
    catalog: Catalog, router: PolicyRouter, force: Force
) -> None:
    put(catalog, entry("3.2.0"), entry("3.3.0"))
    force("3.2.0", {"3.3.0": 1000})
    hits = 0
    for n in range(1000):
        if n % 3 == 0:
            put(catalog, entry("3.2.0"), entry("3.3.0"), entry("1.0.0"))
        hits += router.route("magika", "").role is ServingRole.CANARY
    assert hits == about(100)


def test_a_change_is_seen_by_the_next_request(catalog: Catalog, router: PolicyRouter, force: Force) -> None:
    put(catalog, entry("3.2.0"), entry("3.3.0"))
    for epoch, weight in enumerate((0, 10_000, 0, 10_000), start=1):
        force("3.2.0", {"3.3.0": weight}, epoch)
        assert {answers(router).most_common(1)[0][0][1]} == {ServingRole.CANARY if weight else ServingRole.BASELINE}
        assert router.route("magika", "").epoch == epoch
