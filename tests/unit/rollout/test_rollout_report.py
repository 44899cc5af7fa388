"""A rollout told in words and as a page, from its ticks alone."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from turnout.errors import InvalidRequest
from turnout.rollout.evidence import Evidence, Tick
from turnout.rollout.plan import Plan
from turnout.telemetry.histogram import LATENCY_BOUNDS
from turnout.web.report.colours import version_colours
from turnout.web.report.explain import explain
from turnout.web.report.page import plots, render
from turnout.web.report.replay import Replay
from turnout_proto.v1 import rollout_pb2 as pb

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NASTY = "</script><img src=x onerror=alert(1)>&\"'"


def tick(canary: tuple[int, int], baseline: tuple[int, int], **more: Any) -> dict[str, Any]:
    """One tick of the metric `errors`."""
    return {
        "seconds": 5.0, "canary": {"errors": list(canary)}, "baseline": {"errors": list(baseline)},
        "largest_batch": 1, **more,
    }  # fmt: skip


def answer(
    ticks: list[Mapping[str, Any]], plan: Mapping[str, Any] | None = None, **rollout: Any
) -> pb.GetRolloutTicksResponse:
    """What a server tells of a rollout with these ticks, five seconds apart."""
    known = Plan.from_json({"metrics": ["errors"]} | dict(plan or {}))
    evidence = Evidence.start(known.evidence_metrics, known.max_duration_s)
    for one in ticks:
        evidence = evidence.taken(Tick.from_json(one)) if "shadow" not in one else evidence
    fields = {
        "model": "m", "attempt": 2, "candidate": "1.1.0", "previous": "1.0.0", "state": "soaking", "step": 1,
        "steps": len(known.steps), "weight": 0.01, "epoch": 4, "threshold": 1 / known.alpha, "alpha": known.alpha,
        "step_seconds": 100.0,
        "soak_seconds": 300.0, "e_value": evidence.combined, "plan_json": json.dumps(known.to_json()),
        "plan_digest": known.digest, "actor": "ann", "reason": "better",
    }  # fmt: skip
    recorded_ticks = pb.GetRolloutTicksResponse(
        rollout=pb.Rollout(**(fields | rollout)), ticks_json=[json.dumps(one) for one in ticks]
    )
    recorded_ticks.rollout.started_at.FromDatetime(START)
    recorded_ticks.rollout.changed_at.FromDatetime(START + timedelta(seconds=90))
    for number in range(len(ticks)):
        recorded_ticks.times.add().FromDatetime(START + timedelta(seconds=5 * number))
    return recorded_ticks


def test_the_replay_meets_the_evidence_that_the_server_had() -> None:
    ticks = [tick((20, 1), (400, 1)), tick((20, 4), (400, 0)), tick((20, 9), (400, 2))]
    replay = Replay.of(answer(ticks))
    assert replay.last.combined == replay.rollout.e_value > 100
    assert [p.combined for p in replay.points] == sorted(p.combined for p in replay.points)


def test_the_ratio_is_not_fooled_by_weights_that_change_with_the_load() -> None:
    # Both arms fail alike, 1 % at first and 10 % later; the canary has most of its requests later.
    replay = Replay.of(answer([tick((100, 1), (10_000, 100)), tick((5_000, 500), (5_000, 500))]))
    metric = replay.plan.evidence_metrics[0]
    assert metric.name == "errors"
    assert replay.ratio(metric) == pytest.approx(1.0)
    finding = explain(replay).findings[0]
    pooled = (finding.canary_bad / finding.canary_requests) / (finding.baseline_bad / finding.baseline_requests)
    assert pooled > 2


def test_a_ratio_is_infinite_where_only_the_candidate_fails_and_absent_where_nobody_does() -> None:
    only = explain(Replay.of(answer([tick((100, 3), (100, 0))]))).findings[0]
    assert (only.ratio, only.ratio_text) == (math.inf, "only here")
    nobody = explain(Replay.of(answer([tick((100, 0), (100, 0))]))).findings[0]
    assert (nobody.ratio, nobody.ratio_text) == (None, "-")


def test_a_verdict_is_told_with_its_numbers_and_with_what_to_do() -> None:
    ticks = [tick((100, 40), (1900, 0))]
    message = explain(Replay.of(answer(ticks, state="rolled_back", verdict="1.1.0 is worse than 1.0.0 (errors)")))
    assert message.verdict == "1.1.0 is worse than 1.0.0 (errors)"
    assert message.e_value >= message.threshold
    assert "which reaches the threshold of 100." in message.reading[0]
    assert "At most 1% of rollouts" in message.reading[1]
    assert message.reading[2] == "100% of it comes from errors."
    assert message.findings[0].canary_text == "40 of 100 (40%)"
    assert message.lacking == ()
    assert "`turnout rollout retry m`" in message.following[1]


def test_what_the_server_finds_lacking_is_told_while_a_step_goes_on() -> None:
    recorded_ticks = answer([tick((50, 1), (900, 9))], lacking=["the soak has 200 s to go"], pauses=["lunch (bob)"])
    message = explain(Replay.of(recorded_ticks))
    assert message.status_sentence == "soaking, step 1 of 4 at 1%; paused: lunch (bob)"
    assert message.lacking == ("lunch (bob)", "the soak has 200 s to go")
    assert message.following[0].startswith("`turnout rollout promote m` opens a gate or begins the next step")
    assert "`resume` ends any pause but a gate's" in message.following[0]
    assert "step 2 begins" in message.following[1]


def test_an_alpha_that_is_shared_is_told_as_it_is() -> None:
    reading = explain(Replay.of(answer([tick((1, 0), (1, 0))], alpha=0.005, threshold=200.0))).reading
    assert "below the threshold of 200." in reading[0]
    assert reading[1].startswith("At most 0.5% of rollouts")
    assert "(alpha 0.01, shared with other rollouts of the model)" in reading[1]


def test_what_lets_a_candidate_be_promoted_is_told_by_its_reason() -> None:
    def proof(ticks: list[Mapping[str, Any]], **plan: Any) -> tuple[bool, str]:
        finding = explain(Replay.of(answer(ticks, plan))).findings[0]
        return finding.fit, finding.proof

    assert proof([tick((1000, 10), (1000, 30))]) == (True, "shown")
    assert proof([tick((1000, 0), (1000, 1))]) == (True, "no bad one in 1,000 requests")
    assert proof([tick((9, 0), (9, 0))], exposure_requests=50) == (False, "no bad one yet, 9 of 50 requests")
    assert proof([tick((100, 1), (100, 1))]) == (False, "not yet")
    assert proof([tick((20_000, 1), (20_000, 1))]) == (True, "shown to be rarer than 0.1%")
    copies = explain(Replay.of(answer([{"shadow": [10, 9]}], {"shadow": {}}))).findings[-1]
    assert (copies.fit, copies.proof) == (True, "not asked for")


def test_few_bad_events_count_as_none_and_that_is_said() -> None:
    message = explain(Replay.of(answer([tick((10, 2), (1000, 0))])))
    assert message.e_value == 0
    assert "Fewer than 3 bad events of the candidate count as none: errors." in message.reading


def test_copies_are_told_against_the_rate_that_they_may_disagree_at() -> None:
    ticks: list[Mapping[str, Any]] = [{"shadow": [1000, 30]}]
    message = explain(Replay.of(answer(ticks, {"shadow": {"agreement": 0.99}}, state="shadowing")))
    copies = message.findings[-1]
    assert (copies.name, copies.ratio_text, copies.baseline_text) == ("disagreement", "3x", "")


@pytest.mark.parametrize("bad", ["[]", "{}", '{"seconds": 1}', '{"shadow": 3}', "nonsense"])
def test_ticks_that_cannot_be_read_are_refused(bad: str) -> None:
    recorded_ticks = answer([])
    recorded_ticks.ticks_json.append(bad)
    recorded_ticks.times.add()
    with pytest.raises(InvalidRequest):
        Replay.of(recorded_ticks)


class Page(HTMLParser):
    """What stands on a page: its elements, its text outside scripts, and what each script holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts = "", [""]
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self.text += data


def busy() -> pb.GetRolloutTicksResponse:
    """A rollout with all that a tick may have, and names that try to get out of the page."""
    index = str(len(LATENCY_BOUNDS))
    ticks = [
        tick(
            (20, 1),
            (400, 1),
            weight=0.05,
            state="soaking",
            latency={"canary": {"3": 18, index: 2}, "baseline": {"3": 400}},
        ),
        tick((20, 4), (400, 0), weight=0.25, state="soaking", latency={"canary": {"4": 20}, "baseline": {"2": 400}}),
    ]
    recorded_ticks = answer(
        ticks, reason=NASTY, actor=NASTY, verdict=NASTY, candidate="1.1.0-rc.1", state="rolled_back"
    )
    recorded_ticks.rollout.events.add(kind="abort", text=NASTY, actor=NASTY)
    return recorded_ticks


def test_the_page_needs_no_network_and_lets_nothing_out_of_its_place() -> None:
    page = Page(render(Replay.of(busy())))
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "object", "link", "base")]
    assert not [a for _, attrs in page.tags for a in attrs if a in ("src", "href") or a.startswith("on")]
    assert page.text.count(NASTY) == 5  # actor, reason, verdict, and the event with its actor
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert len(page.scripts) == 5  # the data, uPlot, the plots, their call; and the list begins with an empty one


def test_the_page_holds_its_data_and_reads_without_scripts() -> None:
    replay = Replay.of(busy())
    page = Page(render(replay))
    data = json.loads(page.scripts[1])
    assert data == plots(replay, {"1.0.0": 0, "1.1.0-rc.1": 1}) | {"times": data["times"]}
    assert data["weights"] == [0.05, 0.25]
    assert data["combined"] == [max(point.combined, 0.01) for point in replay.points]
    text = re.sub(r"\s+", " ", page.text)
    for recorded_ticks in ("5 of 40 (12.5%)", "1 of 800 (0.125%)", "above 30 s", "Is 1.1.0-rc.1 worse than 1.0.0?"):
        assert recorded_ticks in text


def test_a_version_has_the_colour_that_the_console_gives_it_among_all_of_its_model() -> None:
    page = Page(render(Replay.of(busy()), ["0.9.0", "1.1.0-rc.1", "1.0.0"]))
    assert json.loads(page.scripts[1])["colours"] == {"candidate": 2, "previous": 1}
    swatches = [
        attrs["class"] for tag, attrs in page.tags if tag == "span" and "swatch v" in (attrs.get("class") or "")
    ]
    assert swatches[:2] == ["swatch v2", "swatch v1"]


def test_commands_in_the_report_are_set_as_code() -> None:
    assert "<code>turnout rollout retry" in render(Replay.of(busy()))


def test_colours_stay_when_higher_versions_come_and_gone_versions_take_the_next() -> None:
    first = version_colours(["1.10.0", "1.2.0"])
    assert first == {"1.2.0": 0, "1.10.0": 1}
    assert version_colours(["1.10.0", "1.2.0", "2.0.0"]).items() >= first.items()
    assert version_colours(["1.10.0", "1.2.0"], "1.0.0", "1.2.0") == first | {"1.0.0": 2}
    many = version_colours([f"1.{minor}.0" for minor in range(12)])
    assert (many["1.10.0"], many["1.11.0"]) == (0, 1)


def test_ticks_without_latencies_or_weights_make_a_page_too() -> None:
    for ticks in ([], [tick((1, 0), (1, 0))]):
        page = Page(render(Replay.of(answer(ticks))))
        assert json.loads(page.scripts[1])["latency"] == {"candidate": [], "previous": []}
        assert "Latency" not in page.text


def test_many_ticks_are_thinned_and_the_last_is_kept() -> None:
    replay = Replay.of(answer([tick((1, 0), (20, 0))] * 5000 + [tick((50, 50), (20, 0))]))
    drawn = plots(replay, {"1.0.0": 0, "1.1.0": 1})
    seconds = [time - drawn["times"][0] for time in drawn["times"]]
    assert seconds == [5.0 * number for number in range(0, 5001, 4)]  # halved twice, to 2000 points at most
    assert drawn["combined"][-1] == min(replay.last.combined, 1e12)


def test_what_is_vendored_is_what_its_readme_says() -> None:
    vendor = files("turnout.web") / "static/vendor"
    rows = re.findall(r"\| `(\w+/\S+)` .* `([0-9a-f]{64})` \|", (vendor / "README.md").read_text())
    kept = {str(p.relative_to(str(vendor))) for p in Path(str(vendor)).glob("*/*") if p.name != "LICENSE"}
    assert {name for name, _ in rows} == kept
    for name, digest in rows:
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest
    assert "MIT" in (vendor / "uplot/LICENSE").read_text()
