"""A command whose standard streams cannot be written ends clearly: no traceback, and no file takes what it prints."""

import subprocess
from pathlib import Path

import pytest

from onnx_models import scaled
from processes import TURNOUT

FULL = Path("/dev/full")

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's")


def run(command: list[str], redirection: str) -> "subprocess.CompletedProcess[str]":
    terms = [*TURNOUT, *command]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *terms], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("command", [["--version"], ["models", "--json"], ["models"]], ids=" ".join)
def test_a_full_disk_is_told_in_a_sentence(publish_model, models, command) -> None:
    publish_model("m", "1.0.0", scaled(2))
    more = ["--models", str(models)] if command[0] == "models" else []
    done = run([*command, *more], ">/dev/full")
    assert done.returncode == 1
    expected = (
        "error: standard output cannot be written: No space left on device; what the command changed stays changed"
    )
    assert done.stderr.splitlines() == [expected]


def test_what_people_are_told_decides_no_exit_code(publish_model, models) -> None:
    publish_model("m", "1.0.0", scaled(2))
    done = run(["show", "m@9.9.9", "--models", str(models)], "2>/dev/full")
    assert (done.returncode, done.stdout) == (1, "")
    done = run(["models", "--models", str(models)], "2>/dev/full")
    assert done.returncode == 0
    assert "1.0.0" in done.stdout


def test_a_reader_that_left_is_no_error(models, publish_model) -> None:
    publish_model("m", "1.0.0", scaled(2))
    terms = [*TURNOUT, "models", "--models", str(models)]
    process = subprocess.Popen(terms, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 1


def test_closed_streams_are_no_files_of_ours(publish_model, models) -> None:
    publish_model("m", "1.0.0", scaled(2))
    # All that a command opens stands above the three standard streams.
    program = "import os; from turnout.__main__ import main; import turnout.cli.main as m\n"
    program += "said = lambda *_, **__: print(os.open('/etc/hostname', 0), file=open(PATH, 'w'))\n"
    program += "m.application = lambda *_, **__: said\nmain()"
    path = models.parent / "number"
    terms = [TURNOUT[0], "-c", program.replace("PATH", repr(str(path)))]
    assert subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *terms], timeout=200).returncode == 0
    assert int(path.read_text()) > 2


@pytest.mark.parametrize("arguments", [["--models"], ["--state"]], ids=" ".join)
def test_a_path_that_is_no_utf_8_is_refused_in_a_sentence(arguments) -> None:
    value = b"sqlite:///x\xff" if arguments == ["--state"] else b"x\xff"
    terms: list[str | bytes] = [*TURNOUT, "serve", "--print-config", *arguments, value]
    done = subprocess.run(terms, capture_output=True, timeout=200)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"UTF-8" in done.stderr
