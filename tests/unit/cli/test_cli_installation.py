"""What `turnout` says where installed packages do not fit together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from turnout.cli.installation import unfit_text

_OLD_PROTOBUF = """
import sys
import google.protobuf.runtime_version as runtime

runtime.MAJOR = 5  # older than what generated the packages' code
from turnout.__main__ import main

sys.argv = ["turnout", *sys.argv[1:]]
main()
"""
_FITS = "releases that fit both, such as pip install turnout 'tritonclient[grpc]'"


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
