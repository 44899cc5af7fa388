"""What `turnout rollout plan` tells of a plan's power."""

import json
import math

from rich.console import Console, Group

from turnout.cli.rollout.forecast import forecast_body, forecast_lines
from turnout.rollout.plan import Plan
from turnout_proto.v1 import rollout_pb2 as pb

PLAN = Plan.from_json(
    {"steps": [{"weight": 0.05, "soak_s": 60}, {"weight": 1, "soak_s": 600, "gate": True}], "shadow": {"rate": 0.1}}
)
TOLD = pb.PlanRolloutResponse(
    previous="1.0.0", plan_json=json.dumps(PLAN.to_json()), plan_digest=PLAN.digest, requests_per_second=50,
    error_rate=0.001, refusals=["it is frozen"], missed=["errors x2 would be missed"],
    power=[
        pb.RolloutPower(
            step=1, weight=0.05, soak_seconds=60,
            detections=[
                pb.RolloutDetection(effect="errors x2", seconds=math.inf, requests=math.inf),
                pb.RolloutDetection(effect="errors x10", seconds=60, requests=150),
                pb.RolloutDetection(effect="latency +20 %", seconds=61, requests=152),
            ],
        ),
    ],
)  # fmt: skip


def printed() -> str:
    console = Console(width=200, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(Group(*forecast_lines(TOLD, "m", "1.1.0")))
    return capture.get()


def test_an_effect_is_marked_by_whether_it_fits_the_soak() -> None:
    detections = forecast_body(TOLD, "m", "1.1.0")["power"][0]["detections"]
    assert [d["fits"] for d in detections] == [False, True, False]
    (row,) = [line for line in printed().splitlines() if line.startswith("step 1") and "✗" in line]
    assert row.split() == ["step", "1", "5%", "1m", "never", "✗", "1m", "✓", "1m1s", "✗"]


def test_stages_gates_refusals_and_what_is_missed_are_told() -> None:
    text = printed()
    for part in (
        "refused: it is frozen", "errors x2 would be missed", "10% copied", "waits for `promote`",
        "combined evidence of 100 (alpha 0.01)", "pause at a stage's deadline", PLAN.digest,
    ):  # fmt: skip
        assert part in text
