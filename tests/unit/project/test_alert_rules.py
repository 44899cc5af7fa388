"""Prometheus's own tool reads the rules and runs their tests; each alert has a runbook that names real commands."""

import functools
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from command_line import turnout
from debian import needs, program

ROOT = Path(__file__).parents[3]
RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks"

needs_promtool = needs(program("prometheus", "promtool"), "prometheus")


@functools.cache
def rules() -> list[dict]:
    return [rule for file in RULES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


@needs_promtool
@pytest.mark.slow
def test_promtool_finds_the_rules_sound() -> None:
    run = subprocess.run(["promtool", "check", "rules", "--lint-fatal", *RULES], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_promtool
@pytest.mark.slow
def test_the_shipped_configuration_finds_the_rules() -> None:
    config = RULES[0].parents[1] / "prometheus.yml"
    run = subprocess.run(["promtool", "check", "config", config], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert all(file.name in run.stdout for file in RULES)


@needs_promtool
@pytest.mark.slow
@pytest.mark.parametrize("file", sorted((ROOT / "deploy" / "prometheus" / "tests").glob("*.yml")), ids=lambda p: p.stem)
def test_the_rules_do_what_their_own_tests_say(file: Path) -> None:
    # It makes much garbage in little memory, and collects with all cores what it could leave: a quarter of its CPU.
    environment = os.environ | {"GOGC": "400", "GOMAXPROCS": "1"}
    run = subprocess.run(
        ["promtool", "test", "rules", file.name], cwd=file.parent, capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_alert_is_tested_by_firing() -> None:
    fired = set()
    for file in (ROOT / "deploy" / "prometheus" / "tests").glob("*.yml"):
        for test in yaml.safe_load(file.read_text())["tests"]:
            fired |= {case["alertname"] for case in test.get("alert_rule_test", ()) if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}


def test_recording_rules_are_named_by_level_metric_and_operations() -> None:
    names = [rule["record"] for rule in rules() if "record" in rule]
    assert len(set(names)) == len(names)
    assert not [name for name in names if not re.fullmatch(r"[a-z_]+:turnout_[a-z_]+:[a-z0-9_]+", name)]


def test_each_alert_has_one_runbook_and_each_runbook_an_alert() -> None:
    linked = {(rule["alert"], rule["annotations"]["runbook_url"]) for rule in rules() if "alert" in rule}
    assert linked == {(file.stem, f"docs/runbooks/{file.name}") for file in RUNBOOKS.glob("*.md")}


@pytest.mark.parametrize("runbook", sorted(RUNBOOKS.glob("*.md")), ids=lambda p: p.stem)
def test_a_runbook_says_what_it_means_how_to_confirm_what_to_do_and_how_to_silence(runbook: Path) -> None:
    headings = re.findall(r"^## (.+)$", runbook.read_text(), re.MULTILINE)
    assert headings == ["What it means", "How to confirm", "What to do", "How to silence"]


@pytest.mark.parametrize("runbook", sorted(RUNBOOKS.glob("*.md")), ids=lambda p: p.stem)
def test_the_commands_and_metrics_that_a_runbook_names_exist(runbook: Path) -> None:
    text = runbook.read_text()
    for terms in re.findall(r"`turnout ([a-z][^`]*)`", text):
        command = turnout()
        for term in terms.split():
            if hasattr(command, "commands"):
                assert term in command.commands, f"turnout {terms}"
                command = command.commands[term]
    documented = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    for metric in re.findall(r"\b(turnout_[a-z_]+)(?=[{\[`) ])", re.sub(r"\w+:turnout_\w+:\w+", "", text)):
        assert f"`{metric}`" in documented, metric
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert set(re.findall(r"[a-z_]+:turnout_[a-z_]+:[a-z0-9_]+", text)) <= recorded
