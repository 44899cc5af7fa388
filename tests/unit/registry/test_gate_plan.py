"""What gates.toml may say."""

from pathlib import Path

import pytest

from turnout.errors import ConfigError
from turnout.registry.gates.plan import GatePlan, OnFailure, read_plan
from turnout.registry.manifest.names import PLAN_FILE


def test_a_model_s_plan_holds_over_the_repository_s_and_both_over_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / PLAN_FILE).write_text('[latency]\non_failure = "refuse"\np50_ratio_max = 2\n[golden]\ntop1_min = 0.9\n')
    (tmp_path / "m" / PLAN_FILE).write_text("[latency]\np50_ratio_max = 1.1\n")
    plan = read_plan(tmp_path, "m")
    assert (plan.latency.on_failure, plan.latency.p50_ratio_max) == (OnFailure.REFUSE, 1.1)
    assert plan.golden.top1_min == 0.9
    assert read_plan(tmp_path, "other").latency.p50_ratio_max == 2.0
    assert read_plan(tmp_path / "nowhere", "m") == GatePlan()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[latancy]\n", "gates.toml has an unknown key 'latancy'; nearest: latency"),
        (
            "[latency]\np50_ratio = 1\n",
            "gates.toml has an unknown key 'latency.p50_ratio'; nearest: latency.p50_ratio_max",
        ),
        ("latency = 1\n", "latency in gates.toml: expected a table"),
        ('[load]\non_failure = "no"\n', "load.on_failure in gates.toml: expected one of refuse, warn, off, got 'no'"),
        ("[golden]\ntop1_min = -1\n", "golden.top1_min in gates.toml: expected a number of 0 or more, got '-1'"),
        ("[golden]\ncases_min = 1.5\n", "golden.cases_min in gates.toml: expected an integer of 0 or more, got '1.5'"),
        ("[golden]\ntop1_min = nan\n", "golden.top1_min in gates.toml: expected a number of 0 or more, got 'nan'"),
        ("[memory]\nratio_max = true\n", "memory.ratio_max in gates.toml: expected a number of 0 or more, got 'True'"),
        ("[metadata]\nrequired = 'x'\n", "metadata.required in gates.toml: expected a list of strings"),
        ("[batchability]\nrequired = 1\n", "batchability.required in gates.toml: expected true or false, got '1'"),
    ],
)
def test_what_no_plan_says_is_refused_with_the_nearest(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / PLAN_FILE).write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_plan(tmp_path, "m")
    assert refused.value.message == message


def test_a_plan_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / PLAN_FILE).write_text("[")
    with pytest.raises(ConfigError, match=r"gates\.toml is not TOML"):
        read_plan(tmp_path, "m")
