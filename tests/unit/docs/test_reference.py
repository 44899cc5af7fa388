"""The reference is what the code says, and the pages beside it say nothing else."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from turnout.cli.main import application
from turnout.config.settings import Settings
from turnout.rollout.machine.measurements import ProbeOutcome
from turnout.routing.shadow.compare import MismatchKind
from turnout.routing.shadow.ledger import CopyOutcome
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.telemetry.metrics.rollout import CAUSES, OUTCOMES, VERDICTS
from turnout.telemetry.metrics.server import LoadOutcome
from turnout.telemetry.metrics.versions import Metrics

DOCS = Path(__file__).parents[3] / "docs"
GENERATE = DOCS / "reference/generate.py"
LABELS = re.findall(r"^\| (.*?) \| (.*?) ?\| (.*?) \|$", (DOCS / "metrics.md").read_text(), re.MULTILINE)


def generated(*arguments: str | Path, script: Path = GENERATE) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_a_difference_is_found_and_the_message_says_what_to_run(tmp_path: Path) -> None:
    checkout = tmp_path / "docs/reference"
    checkout.mkdir(parents=True)
    (tmp_path / "protos").symlink_to(DOCS.parent / "protos")
    for file in (DOCS / "reference").iterdir():
        if file.is_file():
            (checkout / file.name).write_text(file.read_text())
    same = generated("--check", script=checkout / "generate.py")
    assert (same.returncode, same.stderr) == (0, "")
    (checkout / "cli.md").write_text("# Command line\n")
    (checkout / "metrics.md").unlink()
    different = generated("--check", script=checkout / "generate.py")
    assert different.returncode == 1
    assert different.stderr.splitlines() == [
        f"docs/reference/{name} is not what the code says: run `make reference`" for name in ("cli.md", "metrics.md")
    ]


def test_only_a_key_with_a_table_for_its_default_takes_a_table() -> None:
    rows = re.findall(r"^\| `\w+` \| `(.*?)` \| table \|", (DOCS / "reference/settings.md").read_text(), re.MULTILINE)
    assert rows
    assert set(rows) == {"{}"}


def test_every_command_metric_and_setting_is_in_the_reference() -> None:
    commands = (DOCS / "reference/cli.md").read_text()
    for command in application().registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        assert f"\n## turnout {name}\n" in commands
    metrics = (DOCS / "reference/metrics.md").read_text()
    for family in Metrics().families():
        assert f"| `{family.name}` |" in metrics
    settings = (DOCS / "reference/settings.md").read_text()
    for name in Settings.model_fields:
        assert f"| `{name}` |" in settings or re.search(rf"\n## \[{name}(\.NAME)?\]\n", settings)


@pytest.mark.parametrize(
    ("label", "metric", "values"),
    [
        ("state", "turnout_version_info", set(LifecycleState)),
        ("reason", "turnout_version_failed", set(LoadOutcome)),
        ("outcome", "turnout_shadow_requests_total", set(CopyOutcome)),
        ("kind", "turnout_shadow_mismatch_total", set(MismatchKind)),
        ("verdict", "turnout_rollout_verdicts_total", set(VERDICTS)),
        ("reason_kind", "turnout_rollout_rollbacks_total", set(CAUSES)),
        ("outcome", "turnout_probe_measurements_total", set(OUTCOMES)),
        ("outcome", "turnout_probe_measurements_total", set(ProbeOutcome)),
    ],
)
def test_the_values_of_labels_are_those_that_the_code_has(label: str, metric: str, values: set[str]) -> None:
    (described,) = [text for names, of, text in LABELS if f"`{label}`" in names and f"`{metric}`" in of]
    assert set(re.findall(r"`(\w+)`", described)) == {str(value) for value in values}


def test_every_label_of_every_metric_is_told() -> None:
    rows = (DOCS / "reference/metrics.md").read_text().split("## Buckets")[0]
    there = {
        label
        for labels in re.findall(r"^\| `turnout_\w+` \| \w+ \| (.*?) \|", rows, re.MULTILINE)
        for label in labels.split(", ")
        if label
    }
    documented = {name for names, _, _ in LABELS for name in re.findall(r"`(\w+)`", names)}
    assert there - documented == {"output"}  # a model's own name
