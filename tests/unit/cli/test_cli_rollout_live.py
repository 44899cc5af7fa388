"""What `turnout rollout watch` shows on a terminal."""

import json

import pytest
from rich.console import Console

from turnout.cli.rollout.live import View
from turnout.cli.rollout.view import bar
from turnout.rollout.plan import Plan
from turnout_proto.v1 import rollout_pb2 as pb

PLAN = Plan.from_json(
    {"shadow": {}, "steps": [{"weight": 0.05, "soak_s": 60}, {"weight": 0.5, "soak_s": 60, "gate": True}]}
)


def rollout(state: str, *events: str, step: int = 1, count: int = 1_000, **more: object) -> pb.Rollout:
    made = pb.Rollout(
        model="m", attempt=1, candidate="1.1.0", previous="1.0.0", state=state, step=step, steps=2, weight=0.05,
        epoch=7, threshold=100, plan_json=json.dumps(PLAN.to_json()), step_seconds=30, soak_seconds=60,
        events=[pb.RolloutEvent(kind=kind, text="x" * 200) for kind in events],
        metrics=[
            pb.RolloutMetric(
                name=m.name, canary_requests=count, canary_bad=count, baseline_requests=20 * count,
                baseline_bad=9 * count,
            )
            for m in PLAN.evidence_metrics
        ],
    )  # fmt: skip
    made.MergeFrom(pb.Rollout(**more))  # type: ignore[arg-type]  # any field
    return made


def screen(shown_rollout: pb.Rollout, columns: int = 80, rows: int = 24) -> list[str]:
    view = View(columns, rows)
    view.take(shown_rollout)
    console = Console(width=columns, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(view())
    return capture.get().splitlines()


@pytest.mark.parametrize(
    ("shown_rollout", "way"),
    [
        (rollout("validating"), "○ shadow ─ ○ 5% ─ ○ 50% gate ─ ○ baseline ─ ○ watch"),
        (rollout("shadowing"), "● shadow ─ ○ 5% ─ ○ 50% gate ─ ○ baseline ─ ○ watch"),
        (rollout("rolled_back", "shadowing"), "✗ shadow ─ ○ 5% ─ ○ 50% gate ─ ○ baseline ─ ○ watch"),
        (rollout("soaking", "ramping"), "✓ shadow ─ ● 5% ─ ○ 50% gate ─ ○ baseline ─ ○ watch"),
        (rollout("aborting", "ramping", step=2), "✓ shadow ─ ✓ 5% ─ ✗ 50% gate ─ ○ baseline ─ ○ watch"),
        (rollout("promoting", step=2), "✓ shadow ─ ✓ 5% ─ ✓ 50% gate ─ ● baseline ─ ○ watch"),
        (rollout("watching", step=2), "✓ shadow ─ ✓ 5% ─ ✓ 50% gate ─ ✓ baseline ─ ● watch"),
        (rollout("rolled_back", "promoting", "watching"), "✓ shadow ─ ✓ 5% ─ ✓ 50% gate ─ ✓ baseline ─ ✗ watch"),
        (rollout("succeeded", step=2), "✓ shadow ─ ✓ 5% ─ ✓ 50% gate ─ ✓ baseline ─ ✓ watch"),
    ],
)  # fmt: skip
def test_the_way_shows_what_is_done_where_it_is_and_what_is_to_come(shown_rollout: pb.Rollout, way: str) -> None:
    assert screen(shown_rollout)[1].rstrip() == way


@pytest.mark.parametrize("count", [0, 1_000, 1_000_000])
def test_a_row_is_a_line_in_80_columns_however_many_requests(count: int) -> None:
    lines = screen(rollout("soaking", "ramping", count=count, e_value=1e5))
    names = [line.split()[0] for line in lines[5:13]]
    assert names == ["errors", "invalid", "p99", "p95", "p90", "stalled", "disagreement", "combined"]


def test_time_left_pauses_and_the_verdict_are_shown() -> None:
    lines = screen(rollout("soaking", "ramping", pauses=["lunch (bob)"]))
    assert lines[2].rstrip().endswith("30s left of 1m")
    assert "paused: lunch (bob)" in lines
    assert "lacking: requests" in screen(rollout("deciding", "ramping", lacking=["requests"]))
    assert "verdict: enough" in screen(rollout("rolled_back", "ramping", verdict="enough"))


def test_a_server_that_is_gone_is_said_until_it_is_back() -> None:
    view = View(80, 24)
    view.take(rollout("soaking"))
    view.notice = "gone"
    console = Console(width=80)
    with console.capture() as capture:
        console.print(view())
    assert "gone" in capture.get()
    view.take(rollout("soaking"))
    assert view.notice == ""


@pytest.mark.parametrize(("e_value", "full"), [(0, 0), (1, 0), (10, 10), (99.9, 19), (100, 20), (1e9, 20)])
def test_a_bar_is_full_at_the_threshold_and_only_there(e_value: float, full: int) -> None:
    assert bar(e_value, 100, 20).plain == "█" * full + "░" * (20 - full) + "┃"
