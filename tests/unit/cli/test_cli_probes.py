"""What the command line shows of probes, and how options and a plan file name them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, Group, RenderableType

from turnout.cli.rollout.forecast import forecast_body, forecast_lines
from turnout.cli.rollout.live import View
from turnout.cli.rollout.options import PlanOptions
from turnout.cli.rollout.probe_view import tried_lines
from turnout.cli.rollout.view import rollout_body, status_lines
from turnout.errors import InvalidRequest
from turnout.rollout.plan import Plan
from turnout_proto.v1 import rollout_pb2 as pb

PLAN = Plan.from_json({"probes": ["qa"]})


def ago(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) - timedelta(seconds=seconds))
    return stamp


def rollout() -> pb.Rollout:
    """Returns one whose probe `qa` was answered an hour ago."""
    return pb.Rollout(
        model="m", attempt=1, candidate="1.1.0", previous="1.0.0", state="deciding", step=1, steps=4, weight=0.01,
        threshold=100, plan_json=json.dumps(PLAN.to_json()),
        probes=[
            pb.RolloutProbe(
                name="qa", outcome="failed", value="0.25", detail="0.25 is above 0.1", time=ago(3600), passed=9,
                failed=1, inconclusive=2, failure_limit=2, lacking="the last measurement failed",
            ),
            pb.RolloutProbe(name="other", lacking="it has not been asked yet"),
        ],
    )  # fmt: skip


PROBE = pb.Probe(
    name="qa", kind="promql", condition="at most 0.1", interval_seconds=30, count=1, failure_limit=2,
    consecutive_error_limit=4,
)  # fmt: skip


def printed(*what: RenderableType) -> str:
    console = Console(width=200, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(Group(*what))
    return "\n".join(" ".join(line.split()) for line in capture.get().splitlines())


def test_status_and_watch_show_the_last_value_verdict_and_age_of_each() -> None:
    view = View(200, 40)
    status = rollout()
    view.take(status)
    for text in (printed(*status_lines(status)), printed(view())):
        assert "qa failed 0.25 1h 9/1/2 0.25 is above 0.1" in text
        assert "other not asked yet 0/0/0" in text


def test_a_rollout_in_json_has_its_probes() -> None:
    qa, other = rollout_body(rollout())["probes"]
    assert (qa["outcome"], qa["value"], qa["failed"], qa["failure_limit"]) == ("failed", "0.25", 1, 2)
    assert (other["outcome"], other["value"], other["time"]) == (None, None, None)
    assert rollout_body(pb.Rollout())["probes"] == []


def test_a_plan_shows_the_probes_that_it_names_and_that_a_webhook_confirms() -> None:
    response = pb.PlanRolloutResponse(
        previous="1.0.0", plan_json=json.dumps(PLAN.to_json()), probes=[PROBE], confirms=True
    )
    text = printed(*forecast_lines(response, "m", "1.1.0"))
    assert "qa promql at most 0.1 30s 3 that fail 1 that passes" in text
    assert "Each step, and promotion, waits for the confirm webhook." in text
    body = forecast_body(response, "m", "1.1.0")
    assert (body["probes"][0]["condition"], body["confirms"]) == ("at most 0.1", True)
    without = pb.PlanRolloutResponse(plan_json=json.dumps(Plan().to_json()))
    assert "outside" not in printed(*forecast_lines(without, "m", "1.1.0"))


@pytest.mark.parametrize(
    ("outcome", "value", "detail", "line"),
    [
        ("passed", "0.01", "", "qa passed 0.01"),
        ("failed", "0.3", "0.3 is above 0.1", "qa failed 0.3: 0.3 is above 0.1"),
        ("inconclusive", "", "it answered 500", "qa inconclusive: it answered 500"),
    ],
)
def test_what_was_tried_by_hand_is_told_on_a_line(outcome, value, detail, line) -> None:
    tried = pb.TryProbeResponse(
        outcome=outcome, value=value, detail=detail, seconds=0.25, baseline="1.0.0", asked=PROBE
    )
    first, second = printed(*tried_lines("qa", tried)).splitlines()
    assert first == line
    assert second == "passes: at most 0.1; the baseline is 1.0.0; it took 0.2s"


def test_options_name_probes_beside_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text('probes = ["a", "b"]\n[[steps]]\nweight = 0.5\nsoak_s = 1\nprobes = ["c"]\n')
    plan = Plan.from_json(json.loads(PlanOptions(file=file, probes=("b", "d")).to_json()))
    assert (plan.probes, plan.steps[0].probes) == (("a", "b", "d"), ("c",))
    file.write_text('[[steps]]\nweight = 0.5\nsoak_s = 1\nprobe = ["c"]\n')
    with pytest.raises(InvalidRequest, match="did you mean probes"):
        PlanOptions(file=file).to_json()
