"""How far a rollout came, as the console draws it."""

import pytest

from turnout.rollout.plan import Plan, PlanStep, ShadowStage
from turnout.web.console.stages import reach, stages
from turnout.web.report.formatting import ticked
from turnout_proto.v1 import rollout_pb2 as pb

PLAN = Plan((PlanStep(0.05, 60.0), PlanStep(0.25, 3600.0)), shadow=ShadowStage(0.1, 600.0), watch_s=90.0)


def progress_of(state: str, step: int = 1, been: tuple[str, ...] = ()) -> list[str]:
    events = [pb.RolloutEvent(kind=kind) for kind in been]
    return [s.progress for s in stages(PLAN, pb.Rollout(state=state, step=step, steps=2, events=events))]


def test_a_stage_says_what_the_candidate_gets_and_for_how_long() -> None:
    found = stages(PLAN, pb.Rollout(state="pending", step=1))
    assert [(s.name, s.note) for s in found] == [
        ("10% shadow", "10m"), ("5%", "1m"), ("25%", "1h"), ("baseline", "1m30s"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "step", "progress"),
    [
        ("pending", 1, ["ahead", "ahead", "ahead", "ahead"]),
        ("validating", 1, ["ahead", "ahead", "ahead", "ahead"]),
        ("shadowing", 1, ["now", "ahead", "ahead", "ahead"]),
        ("ramping", 1, ["done", "now", "ahead", "ahead"]),
        ("deciding", 2, ["done", "done", "now", "ahead"]),
        ("watching", 2, ["done", "done", "done", "now"]),
        ("succeeded", 2, ["done", "done", "done", "done"]),
    ],
)
def test_the_stages_before_the_present_one_are_done(state: str, step: int, progress: list[str]) -> None:
    assert progress_of(state, step) == progress


def test_a_rollout_that_was_rolled_back_ended_where_it_was() -> None:
    assert progress_of("aborting", 2, ("shadowing", "ramping", "soaking"))[:3] == ["done", "done", "ended"]
    assert progress_of("rolled_back", 2, ("soaking", "promoting", "watching")) == ["done", "done", "done", "ended"]


@pytest.mark.parametrize("state", ["aborting", "rolled_back", "superseded", "failed"])
def test_the_stages_that_an_ended_rollout_never_reached_are_not_to_come(state: str) -> None:
    assert progress_of(state, 1, ("validating",)) == ["skipped"] * 4
    assert progress_of(state, 1, ("validating", "shadowing")) == ["ended", "skipped", "skipped", "skipped"]
    assert progress_of(state, 2, ("shadowing", "ramping", "soaking")) == ["done", "done", "ended", "skipped"]


def test_evidence_is_drawn_on_a_logarithmic_scale_from_a_hundredth_to_the_threshold() -> None:
    assert [reach(e, 100.0) for e in (0.0, 1e-9, 0.01)] == [0.0, 0.0, 0.0]
    assert reach(1.0, 100.0) == pytest.approx(0.5)
    assert [reach(e, 100.0) for e in (100.0, 1e9, float("inf"))] == [1.0, 1.0, 1.0]


def test_commands_in_a_sentence_are_set_as_code_and_nothing_else_is_markup() -> None:
    assert ticked("run `a <b>` & <i>") == "run <code>a &lt;b&gt;</code> &amp; &lt;i&gt;"
