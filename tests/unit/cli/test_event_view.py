"""`turnout log` says in words what each event changed."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from rich.console import Console
from semver import Version

from turnout.cli.releases.event_view import log_table, what_changed
from turnout.routing.policy import Canary, Policy, PolicyState, Shadow
from turnout.state.event_log.events import Event, EventKind

V1, V2, V3 = (Version(1, minor) for minor in range(3))
SPLIT = PolicyState(Policy(V1, (Canary(V2, 2_000),), (Shadow(V3, 1),), 100), frozen=True)
DIGEST = "sha256:" + "ab" * 32


def event(kind: str, subject: str = "", **payload: object) -> Event:
    return Event(7, datetime(2026, 11, 30, 10, tzinfo=UTC), "fares", kind, subject, "ann", "why", payload)


SENTENCES = {
    "published": (event("published", version="1.0.0", digest=DIGEST), f"1.0.0 published, {DIGEST[:19]}..."),
    "released": (event("released", version="1.0.0"), "1.0.0 released"),
    "withdrawn": (event("withdrawn", version="1.0.0"), "1.0.0 is a candidate again"),
    "unyanked": (event("unyanked", version="1.0.0"), "1.0.0 is a candidate again"),
    "yanked": (event("yanked", version="1.0.0", previous="candidate"), "1.0.0 yanked, it was a candidate"),
    "pruned": (event("pruned", version="1.0.0", digest=DIGEST, bytes=2048), "1.0.0 pruned, 2.0 KiB"),
    "removed": (
        event("removed", ids=[1, 2], before="2026-01-02T03:04:05.000000Z", digest=DIGEST),
        "2 events from before 2026-01-02 removed by the retention",
    ),
    "signed": (event("signed", version="1.0.0", digest=DIGEST, key="39e2"), "1.0.0 signed by 39e2"),
    "tag_set": (event("tag_set", tag="stable", version="1.0.0", previous=None), "tag stable is 1.0.0"),
    "tag_deleted": (event("tag_deleted", tag="stable", previous="1.0.0"), "tag stable removed, it was 1.0.0"),
    "policy_changed": (
        event("policy_changed", epoch=3, action="freeze", document=SPLIT.to_json()),
        "traffic epoch 3, freeze: baseline 1.0.0 80%, canary 1.1.0 20%, shadow 1.2.0 0.01%, twin 1%; frozen",
    ),
    "rollout": (event("rollout", "attempt 2: rolled_back"), "rollout attempt 2: rolled back"),
    "token_created": (
        event("token_created", id="9720", name="ci", roles=["publish", "read"], models=["fares"]),
        "token ci created (9720): publish, read on fares",
    ),
    "token_revoked": (event("token_revoked", id="9720", name="ci"), "token ci revoked (9720)"),
}


def test_each_kind_has_its_sentence() -> None:
    assert SENTENCES.keys() == set(EventKind)


@pytest.mark.parametrize("kind", SENTENCES)
def test_what_changed(kind: str) -> None:
    one, sentence = SENTENCES[kind]
    assert what_changed(one) == sentence


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({}, "traffic epoch 3, clear: no policy"),
        (PolicyState().to_json(), "traffic epoch 3, clear: no policy"),
        ({"schema": 99}, "traffic epoch 3, clear: a policy that this release of Turnout cannot read"),
    ],
)
def test_a_policy_that_is_none_or_from_a_later_release(document: dict[str, object], sentence: str) -> None:
    assert what_changed(event("policy_changed", epoch=3, action="clear", document=document)) == sentence


def test_a_later_kind_is_shown_with_its_subject() -> None:
    assert what_changed(event("moved", "1.0.0")) == "moved 1.0.0"


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
def test_times_are_utc_and_stay_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=60).print(log_table([SENTENCES["policy_changed"][0]]))
    printed = capsys.readouterr().out
    assert "WHEN (UTC)" in printed
    assert "2026-11-30 10:00:00" in printed
