"""How the command line starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import onnx_models
from command_line import run
from turnout.cli.serve.installation import unfit_text
from turnout.host.cpu import KEEP_PRIORITY

_HELP = """
import sys
from turnout.cli.main import _GROUPS, application

for arguments in (["--help"], *([group, "--help"] for group in _GROUPS)):
    application()(arguments, standalone_mode=False)
heavy = ("cryptography", "grpc", "numpy", "onnx", "packaging", "pydantic_settings", "sqlalchemy")
print(len(_GROUPS), *(name for name in heavy if name in sys.modules))
"""

_OLD_PROTOBUF = """
import sys
import google.protobuf.runtime_version as runtime

runtime.MAJOR = 5  # older than what generated the packages' code
from turnout.__main__ import main

sys.argv = ["turnout", *sys.argv[1:]]
main()
"""
_FITS = "releases that fit both, such as pip install turnout 'tritonclient[grpc]'"

_START = """
import os, sys
import turnout.__main__ as start

lower_priority = start.lower_priority

def watched():
    print("typer" in sys.modules)
    lower_priority()

start.lower_priority = watched
sys.argv = ["turnout", *sys.argv[1:]]
try:
    start.main()
finally:
    print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) == os.SCHED_IDLE)
"""


def started(*arguments: str) -> list[str]:
    """Returns what it printed; that took half a minute where four other tests wanted the two cores."""
    command = [sys.executable, "-c", _START, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != KEEP_PRIORITY}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200, env=environment)
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.skipif(sys.platform != "linux", reason="threads have a scheduling policy of their own on Linux")
def test_what_can_wait_steps_back_before_anything_is_imported() -> None:
    publish = started("publish", "--help")
    assert publish[0] == "False"
    assert publish[-1] == "19 True"
    models = started("models", "--help")
    assert models[0] != "False"
    assert models[-1] == f"{os.getpriority(os.PRIO_PROCESS, 0)} False"


@pytest.mark.parametrize(
    "command",
    [
        "publish m 1.0.0 FILE",
        "release m@1.0.0",
        "withdraw m@1.0.0 --reason why",
        "tag m stable 1.0.0",
        "tag m stable --history",
        "yank m@1.0.0 --reason why",
        "unyank m@1.0.0 --reason why",
        "log m",
        "show m",
        "models",
    ],
)
@pytest.mark.parametrize("own", [("--models", "models"), ("--state", "sqlite:///state.db")], ids=["models", "state"])
def test_a_server_is_not_combined_with_a_repository_or_state_store(
    command: str, own: tuple[str, str], tmp_path: Path
) -> None:
    model = onnx_models.save(onnx_models.matmul(), tmp_path / "m.onnx")
    given = [str(model) if word == "FILE" else word for word in command.split()]
    refused = run(*given, *own, "--server", "127.0.0.1:1", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == "error: --server cannot be combined with --models or --state: a server uses its own\n"
    assert not (tmp_path / "models").exists()


def test_help_of_commands_and_groups_imports_no_heavy_module() -> None:
    """Help and the shell's completion would otherwise take two or three times as long."""
    shown = subprocess.run([sys.executable, "-c", _HELP], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.splitlines()[-1] == "7"


def with_old_protobuf(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `turnout` with a protobuf that is too old for the generated code, as `tritonclient[grpc]` installs it."""
    command = [sys.executable, "-c", _OLD_PROTOBUF, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stderr
    return done


@pytest.mark.parametrize("command", ["serve", "predict m", "rollout status"])
def test_packages_that_do_not_fit_are_one_sentence_that_says_what_to_do(command: str, tmp_path: Path) -> None:
    """It used to be a traceback of 30 lines that named neither Turnout nor a way out."""
    refused = with_old_protobuf(tmp_path, *command.split()).stderr
    assert refused.startswith("error: installed Python packages do not fit together: Detected incompatible Protobuf")
    assert refused.rstrip().endswith(_FITS)
    assert refused.count("\n") == 1


def test_they_are_json_where_json_is_wanted(tmp_path: Path) -> None:
    error = json.loads(with_old_protobuf(tmp_path, "rollout", "status", "--json").stderr)["error"]
    assert error["kind"] == "ConfigError"
    assert error["message"].endswith(_FITS)


def test_doctor_finds_them_and_checks_the_rest(tmp_path: Path) -> None:
    """Doctor used to say `ready to serve`."""
    found = json.loads(with_old_protobuf(tmp_path, "doctor", "--json").stdout)
    broken = {check["name"]: check["detail"] for check in found["checks"] if check["health"] == "broken"}
    assert broken["packages"].endswith(_FITS)
    assert {"repository", "cpu"} <= {check["name"] for check in found["checks"]}


def test_a_package_that_is_missing_is_told_and_a_fault_of_our_own_is_not_hidden() -> None:
    missing = ModuleNotFoundError("No module named 'h2corn'", name="h2corn")
    assert str(unfit_text(missing)).startswith(
        "installed Python packages do not fit together: No module named 'h2corn'; `pip check` lists them."
    )
    assert unfit_text(ImportError("cannot import name 'x' from 'turnout.errors'", name="turnout.errors")) is None
    assert unfit_text(ValueError("x")) is None
