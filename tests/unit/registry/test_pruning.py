"""What a prune lets go, and why everything else stays."""

from datetime import UTC, datetime, timedelta

from semver import Version

from turnout.releases.prune_plan import Keep, VersionFacts, prune_plan
from turnout.state.release_status import ModelReleaseState, ReleaseStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD = NOW - timedelta(days=400)
V = [Version(major) for major in range(1, 7)]
RELEASED = dict.fromkeys(V, ReleaseStatus.RELEASED)
KEEP = Keep(2, timedelta(days=30))


def _plan(
    model_releases: ModelReleaseState, targets=(), **facts: VersionFacts
) -> dict[int, tuple[bool, tuple[str, ...]]]:
    known = {v: facts.get(f"v{v.major}", VersionFacts(10, OLD)) for v in V}
    return {d.version.major: (d.goes, d.reasons) for d in prune_plan(known, model_releases, targets, KEEP, NOW)}


def test_old_versions_below_the_latest_releases_go_and_say_what_they_are() -> None:
    plan = _plan(ModelReleaseState(RELEASED))
    assert [major for major, (goes, _) in plan.items() if goes] == [4, 3, 2, 1]
    assert plan[1] == (True, ("released, published 2024-11-27",))
    assert plan[6][1] == ("`latest` gets it", "it is among the 2 latest releases")


def test_whatever_holds_a_version_is_named() -> None:
    plan = _plan(
        ModelReleaseState(RELEASED),
        targets=[V[2], V[1]],
        v1=VersionFacts(10, OLD, ["it is the baseline in the policy in force (epoch 3)", "the tag stable names it"]),
        v4=VersionFacts(10, OLD, pinned=True),
    )
    assert plan[1] == (
        False, ("it is the baseline in the policy in force (epoch 3)", "the tag stable names it"),
    )  # fmt: skip
    assert plan[2][0], "only the nearest version that a rollback goes back to stays for it"
    assert plan[3] == (False, ("a rollback goes back to it",))
    assert plan[4] == (False, ("the load setting names it",))


def test_what_is_new_or_of_unknown_age_stays_and_old_candidates_and_yanked_ones_go() -> None:
    release_statuses = {V[5]: ReleaseStatus.RELEASED, V[1]: ReleaseStatus.YANKED}
    plan = _plan(
        ModelReleaseState(release_statuses), v3=VersionFacts(10, NOW - timedelta(days=29)), v4=VersionFacts(10, None)
    )
    assert plan[1] == (True, ("candidate, published 2024-11-27",))
    assert plan[2] == (True, ("yanked, published 2024-11-27",))
    assert plan[3] == (False, ("it was published less than 30 days ago",))
    assert plan[4][0] is False


def test_what_a_prune_recorded_and_did_not_remove_goes_next_time() -> None:
    plan = _plan(
        ModelReleaseState({**RELEASED, V[0]: ReleaseStatus.YANKED}, pruned=frozenset({V[0]})), v1=VersionFacts(10, NOW)
    )
    assert plan[1] == (True, ("pruned before, and its files are still here",))
