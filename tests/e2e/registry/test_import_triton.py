"""A Triton model repository is served, and its clients notice nothing, in three commands; the third is tritonclient."""

import ast
import json
import subprocess
import time
from pathlib import Path

import httpx
import pytest

import triton_models
from processes import Server, serving_in_thread, turnout
from tritonclient_env import RULES, tritonclient_python
from turnout.config import load_settings
from turnout.registry.storage.repository import Repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first run on a machine installs tritonclient


def ready(server: Server) -> None:
    deadline = time.monotonic() + 60
    while (answer := httpx.get(f"http://{server.http}/readyz")).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.02)


def rules() -> list[str]:
    tree = ast.parse((RULES / "imported.py").read_text())
    return [f.name for f in tree.body if isinstance(f, ast.FunctionDef) and f.name.startswith("test_")]


def outcomes(python: Path, server: Server) -> dict[str, str]:
    command = [python, RULES / "run_rules.py", server.grpc, server.control, server.http, "imported"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found["imported"]


def test_three_models_are_served_and_answered_through_tritonclient(tmp_path: Path) -> None:
    tree = triton_models.three_models(tmp_path / "model_repository")
    models, settings = tmp_path / "models", tmp_path / "turnout.toml"
    turnout("import", "triton", tree, "--models", models, "--settings", settings)
    overrides = load_settings(settings, {"models": models}, {}).settings.model
    with serving_in_thread(models, model=overrides) as server:
        ready(server)
        found = outcomes(tritonclient_python(), server)
    assert found == dict.fromkeys(rules(), "")
    assert Repository(models).scan().models == ("Scale.x2", "plain", "scores")
