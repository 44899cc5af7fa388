"""What GitHub, editors and newcomers read: it parses, and what it names is there."""

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def commands(workflow: Path) -> list[str]:
    """Returns what a workflow runs."""
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_is_there(workflow) -> None:
    found = commands(workflow)
    assert found
    for command in found:
        assert set(re.findall(r"\bmake ([a-z]+)", command)) <= TARGETS, command
        for path in re.findall(r"(?:^|python )((?:\.ci|deploy|tests)/\S+)", command):
            assert (ROOT / path).is_file(), command


def test_ci_covers_what_the_package_says_it_supports() -> None:
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    classified = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert ci["jobs"]["check"]["strategy"]["matrix"]["python"] == classified


def test_hooks_run_programs_of_the_environment() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    made = (ROOT / "Makefile").read_text()
    for hook in hooks:
        program, *arguments = hook["entry"].removeprefix(".venv/bin/").split()
        assert Path(sys.executable).with_name(program).exists()
        assert program in made
        assert all((ROOT / one).exists() for one in arguments if one.endswith(".py"))


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name
)
def test_forms_have_what_github_asks_of_them(form) -> None:
    body = yaml.safe_load(form.read_text())
    assert body.keys() >= {"name", "description", "body"}
    ids = [field["id"] for field in body["body"]]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in body["body"])


def test_paths_that_contributing_names_exist() -> None:
    named = set(re.findall(r"`((?:server|tests|deploy|docs|client|protos|\.github)/[\w./*-]+)`", CONTRIBUTING))
    assert len(named) > 10
    assert [path for path in sorted(named) if not list(ROOT.glob(path.rstrip("/")))] == []
    assert set(re.findall(r"`make ([a-z]+)", CONTRIBUTING)) <= TARGETS
    links = re.findall(r"\]\(([^)#:]+)\)", CONTRIBUTING)
    assert [link for link in links if not (ROOT / link).exists()] == []
