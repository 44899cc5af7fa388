"""How a command line and a plan file make a plan, and what they say to what is none."""

import json
from pathlib import Path

import pytest

from turnout.cli.output import ServerRefused
from turnout.cli.rollout.options import PlanOptions
from turnout.cli.rollout.plan_file import named_fields, read_steps
from turnout.errors import ConfigError, InvalidRequest, TurnoutError
from turnout.rollout.plan import Plan


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return path


def test_nothing_said_leaves_everything_to_the_server() -> None:
    assert PlanOptions().to_json() == "{}"


def test_options_make_a_plan_that_the_server_reads() -> None:
    options = PlanOptions(
        steps="1%:5m, 25%:1h:gate", shadow="10%:10m", metrics="errors,p99", alpha=0.05, min_requests=7, slo_ms=20,
        on_insufficient="abort", on_newer="queue", watch_for="30m", holdback="2%",
    )  # fmt: skip
    plan = Plan.from_json(json.loads(options.to_json()))
    assert [(s.weight, s.soak_s, s.gate) for s in plan.steps] == [(0.01, 300, False), (0.25, 3600, True)]
    assert plan.shadow is not None
    assert (plan.shadow.rate, plan.shadow.duration_s, plan.shadow.min_samples) == (0.1, 600, 200)
    assert (plan.metrics, plan.alpha, plan.min_requests, plan.slo_ms) == (("errors", "p99"), 0.05, 7, 20)
    assert (plan.on_insufficient, plan.on_newer, plan.watch_s, plan.holdback) == ("abort", "queue", 1800, 0.02)


def test_an_option_goes_before_the_file_and_leaves_the_rest_of_it(tmp_path: Path) -> None:
    file = written(tmp_path, "alpha = 0.02\nbeta = 0.1\n[shadow]\nrate = 0.5\nmin_samples = 9\n")
    body = json.loads(PlanOptions(file=file, alpha=0.03, shadow="10%:1m").to_json())
    assert body == {"alpha": 0.03, "beta": 0.1, "shadow": {"rate": 0.1, "duration_s": 60.0, "min_samples": 9}}
    assert json.loads(PlanOptions(file=file, shadow="off").to_json())["shadow"] is None


@pytest.mark.parametrize("text", ["5", "5%", "5%:10m:gates", "5%:10m,", "5%:10m:gate:x", "500%:1m", "5%:soon"])
def test_steps_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="expected"):
        read_steps(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("alpha = ", "is not TOML"),
        ("alpha = nan", "plan has an invalid value"),
        ("alpha = 2026-01-01", "plan has an invalid value"),
        ("[[steps]]\nweight = 0.1\nsoak = 5", r"steps\[0\].soak: unknown, did you mean soak_s\?"),
        ("[[steps]]\nweight = 0.1\nsoak_s = 5\ngates = true", r"steps\[0\].gates: unknown, did you mean gate\?"),
        ("[shadow]\nx = 1", r"shadow.x: unknown; there are rate, duration_s, agreement, min_samples"),
        ("#" * 70_000, "more than 64 KiB"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_with_the_reason(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(TurnoutError, match=complaint):
        PlanOptions(file=written(tmp_path, text)).to_json()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing"):
        PlanOptions(file=tmp_path / "none.toml").to_json()


def test_a_servers_refusal_names_each_field_and_the_nearest_that_exists() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Plan.from_json({"alhpa": 1, "beta": 7, "warm_requests": -1})
    with pytest.raises(ServerRefused) as refused, named_fields():
        raise ServerRefused("InvalidArgument", caught.value.message, violations=caught.value.violations)
    message = [v.description for v in refused.value.violations]
    assert message[0].startswith("alhpa: unknown, did you mean alpha? There are alpha, beta, ")
    assert "beta: expected 0.000001 to 0.5, got 7.0" in message
    assert "warm_requests: expected a whole number, 0 or more, got -1" in message
