"""What docs/rollouts.md and docs/rollout-checks.md say of plans, commands, probes and webhooks is so."""

import hashlib
import hmac
import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path

from semver import Version

from command_line import commands
from turnout.cli.rollout.options import PlanOptions
from turnout.config import load_settings
from turnout.rollout.analysis.confirm_webhook import confirm_body
from turnout.rollout.guards.circuit_breaker import Breaker
from turnout.rollout.guards.guards import Guards
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.machine.measurements import ProbeOutcome
from turnout.rollout.plan import ON_INSUFFICIENT, ON_NEWER, Plan, PlanStep, ShadowStage
from turnout.text.shares import share_text
from turnout.web.report.formatting import duration_text

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "rollouts.md").read_text()
CHECKS = (DOCS / "rollout-checks.md").read_text()
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", TEXT.split("## The plan")[1].split("## Commands")[0], re.MULTILINE))


def written(value: object) -> str:
    """Returns a default as the table writes it."""
    if value is None or value == ():
        return "none"
    if isinstance(value, str):
        return f"`{value}`"
    if isinstance(value, Breaker):
        return "on" if value.on else "off"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and isinstance(value[0], PlanStep):
        return ", ".join(f"{share_text(step.weight)} {duration_text(step.soak_s)}" for step in value)
    if isinstance(value, tuple):
        return ", ".join(f"`{name}`" for name in value)
    return f"{value:.12g}"


def test_the_table_has_every_field_of_a_plan_with_its_default() -> None:
    plan = Plan()
    assert {f.name: written(getattr(plan, f.name)) for f in fields(Plan)} == ROWS


def test_every_field_of_a_stage_and_every_choice_is_named() -> None:
    for kind in (PlanStep, ShadowStage, Breaker, Guards):
        for field in fields(kind):
            assert f"`{field.name}`" in TEXT + CHECKS
    for choice in (*ON_INSUFFICIENT, *ON_NEWER):
        assert f"`{choice}`" in TEXT


def test_the_plan_file_and_the_options_beside_it_are_one_plan() -> None:
    (file,) = re.findall(r"```toml\n(.*?)```", TEXT[TEXT.index("## The plan\n") :], re.DOTALL)
    body = tomllib.loads(file)
    plan = Plan.from_json(body)
    options = PlanOptions(
        steps="5%:10m,50%:30m:gate", shadow="10%:10m", metrics="errors,p99", on_insufficient="abort"
    ).to_json()
    assert "--steps 5%:10m,50%:30m:gate --shadow 10%:10m --metrics errors,p99 --on-insufficient abort" in TEXT
    assert plan == Plan.from_json(json.loads(options))


def test_every_command_is_told() -> None:
    for command in commands():
        group, _, name = command.partition(" ")
        assert group != "rollout" or f"`{name}" in TEXT or f"turnout rollout {name}" in TEXT, command


def test_the_signature_check_takes_what_is_signed_and_nothing_else() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", CHECKS, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)  # the page's own example
    check = names["is_from_turnout"]
    assert callable(check)
    signature = "sha256=" + hmac.new(b"secret", b"{}", hashlib.sha256).hexdigest()
    assert check(b"{}", signature, b"secret")
    assert not check(b"{} ", signature, b"secret")
    assert not check(b"{}", signature, b"other")
    assert not check(b"{}", "", b"secret")


def test_the_probes_of_the_page_are_a_configuration_and_every_key_of_one_is_named(tmp_path: Path) -> None:
    section = CHECKS[CHECKS.index("## Probes\n") : CHECKS.index("## Confirm webhook")]
    (file,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    path = tmp_path / "turnout.toml"
    path.write_text(file)
    probes = load_settings(path, environ={}).settings.probe
    assert (probes["complaints"].is_query, probes["qa"].is_query) == (True, False)
    for key in (
        "count",
        "failure_limit",
        "consecutive_error_limit",
        "interval_s",
        "timeout_s",
        "fail_below",
        "ca_file",
    ):
        assert f"`{key}`" in section
    for outcome in ProbeOutcome:
        assert f"| `{outcome}` |" in section


def test_the_question_of_the_page_has_the_keys_of_the_one_that_is_asked() -> None:
    rollout = Rollout.start("m", Version(2), Version(1), 1, Plan(), "ann", "")
    (example,) = [body for body in re.findall(r"```json\n(.*?)```", CHECKS, re.DOTALL) if '"confirm"' in body]
    asked, documented = confirm_body(rollout, 1, "now"), json.loads(example)
    assert set(asked) == set(documented)
    assert set(asked["evidence"]) == set(documented["evidence"])
    assert set(asked["evidence"]["metrics"]["errors"]) == set(documented["evidence"]["metrics"]["errors"])
