"""The commands that need no server: what they change, print and end with."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import command_line
from onnx_models import add_with_default, save, scaled

pytestmark = pytest.mark.slow


NOTHING_PUBLISHED = "no version is published yet; publish one with `turnout publish NAME 1.0.0 MODEL.onnx --release`\n"


class Shell:
    """A working directory with a repository in `models`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("TURNOUT_")}

    def run(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        done = command_line.run(*arguments, cwd=self.folder, env=self.environment)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        done = self.run(*arguments, "--json", code=code)
        return json.loads(done.stdout)

    def error(self, *arguments: str, code: int = 1) -> str:
        """Runs what must fail, and returns its one sentence."""
        done = self.run(*arguments, "--json", code=code)
        assert done.stdout == ""
        message = json.loads(done.stderr)["error"]["message"]
        assert "\n" not in message
        return str(message)

    def publish(self, name: str, version: str, factor: float = 1.0, *options: str) -> Any:
        save(scaled(factor), self.folder / "model.onnx")
        return self.json("publish", name, version, "model.onnx", *options)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def versions(shell: Shell) -> dict[str, tuple[str, bool, list[str]]]:
    (model,) = shell.json("models")["models"]
    return {v["version"]: (v["standing"], v["default"], v["tags"]) for v in model["versions"]}


def test_a_published_version_is_a_candidate_until_it_is_released(shell: Shell) -> None:
    shell.publish("m", "1.0.0")
    assert versions(shell) == {"1.0.0": ("candidate", False, [])}
    message = shell.json("release", "m@v1.0.0")
    whole = [{"version": "1.0.0", "share": 1.0, "role": "baseline", "rollout": None}]
    assert (message["model"], message["version"], message["changed"]) == ("m", "1.0.0", True)
    assert message["answers"] == {"plain": whole, "selectors": {"latest": whole, "^1": whole}, "notes": []}
    assert shell.json("release", "m@1.0.0")["changed"] is False
    assert versions(shell) == {"1.0.0": ("released", True, [])}


def test_the_default_is_the_highest_release_by_precedence(shell: Shell) -> None:
    shell.publish("m", "1.9.0", 1, "--release")
    shell.publish("m", "1.10.0", 2, "--release")
    shell.publish("m", "2.0.0-rc.1", 3, "--release")
    shell.publish("m", "3.0.0", 4)
    assert versions(shell) == {
        "3.0.0": ("candidate", False, []),
        "2.0.0-rc.1": ("released", False, []),
        "1.10.0": ("released", True, []),
        "1.9.0": ("released", False, []),
    }
    assert shell.json("show", "m@")["version"] == "1.10.0"
    assert shell.json("show", "m@^1.9")["version"] == "1.10.0"
    assert shell.json("show", "m@3.0.0")["version"] == "3.0.0"


def test_publishing_again_changes_nothing_and_other_content_is_refused(shell: Shell) -> None:
    first = shell.publish("m", "1.0.0", 1)
    again = shell.publish("m", "1.0.0", 1)
    assert (first["created"], again["created"]) == (True, False)
    assert first["digest"] == again["digest"]
    save(scaled(2), shell.folder / "other.onnx")
    taken = shell.error("publish", "m", "1.0.0", "other.onnx", code=4)
    assert "exists with other content" in taken
    assert taken.rstrip().endswith("publish this under another number")


def test_a_version_is_chosen_refused_tried_and_forced_by_the_command_line(shell: Shell) -> None:
    assert shell.publish("m", "auto", 1)["version"] == "1.0.0"
    tried = shell.publish("m", "auto", 2, "--dry-run")
    assert (tried["version"], tried["created"], tried["dry_run"]) == ("1.1.0", False, True)
    assert set(versions(shell)) == {"1.0.0"}
    done = shell.run("publish", "m", "1.0.1", "model.onnx", code=3)
    assert done.stdout.startswith("m 1.0.1 is not published\n")
    assert "error: gate bump failed: 1.0.1 over 1.0.0 has to be a MINOR version, 1.1.0: weights differ" in done.stderr
    body = json.loads(shell.run("publish", "m", "1.0.1", "model.onnx", "--json", code=3).stdout)
    assert (body["ok"], body["refused_by"], body["parent"]) == (False, "bump", "1.0.0")
    assert "requires a reason" in shell.error("publish", "m", "1.0.1", "model.onnx", "--skip-gate", "bump")
    forced = shell.publish("m", "1.0.1", 2, "--skip-gate", "bump", "--reason", "ours", "--actor", "ada")
    (bump,) = [gate for gate in forced["gates"] if gate["gate"] == "bump"]
    assert (bump["outcome"], bump["evidence"]) == ("skipped", "skipped on request by ada: ours")
    assert shell.json("verify")["ok"] is True


def test_a_plan_with_an_unknown_key_is_told_before_anything_is_copied(shell: Shell) -> None:
    shell.publish("m", "1.0.0", 1)
    (shell.folder / "models" / "gates.toml").write_text("[latency]\np50_ratio = 1.2\n")
    message = shell.error("publish", "m", "1.1.0", "model.onnx")
    assert message == "gates.toml has an unknown key 'latency.p50_ratio'; nearest: latency.p50_ratio_max"


def test_two_versions_are_compared_and_what_cannot_be_is_refused(shell: Shell) -> None:
    shell.publish("m", "1.0.0", 1)
    shell.publish("m", "1.1.0", 2)
    found = shell.json("diff", "m@1.0.0", "m@1.1.0")
    assert (found["bump"], found["weights"]["changed"][0]["relative"]) == ("minor", 1.0)
    assert (found["synthetic"]["examples"], found["synthetic"]["within"]) == (8, False)
    assert "m has no released version" in shell.error("diff", "m@1.0.0", "m@")
    assert shell.error("diff", "m", "m@1.1.0").startswith("version: expected NAME@VERSION, such as m@3.2.0")
    text = shell.run("diff", "m@1.0.0", "m@1.1.0").stdout
    assert "1 of 1 tensors changed" in text
    assert "100.00%" in text


def test_a_tag_moves_and_goes(shell: Shell) -> None:
    shell.publish("m", "1.0.0", 1)
    shell.publish("m", "2.0.0", 2)
    assert shell.json("tag", "m", "stable", "1.0.0")["previous_version"] is None
    assert shell.json("tag", "m", "stable", "2.0.0")["previous_version"] == "1.0.0"
    assert versions(shell)["2.0.0"][2] == ["stable"]
    assert shell.json("show", "m@stable")["version"] == "2.0.0"
    assert shell.json("tag", "--delete", "m", "stable")["previous_version"] == "2.0.0"
    assert "has no tag 'stable'" in shell.error("tag", "--delete", "m", "stable")


def test_what_does_not_exist_is_refused_with_the_nearest(shell: Shell) -> None:
    shell.publish("magika", "1.10.0")
    done = shell.run("release", "magika@1.11.0", code=1)
    where = "(in the repository models)"  # a server may serve another one
    refused = f"no version of magika is '1.11.0'; there are: 1.10.0 {where}"
    assert (done.stdout, done.stderr) == ("", f"error: {refused}\n")
    assert shell.error("release", "magika@1.11.0") == refused
    assert shell.error("tag", "magica", "stable", "1.10.0") == f"no model is named 'magica'; there are: magika {where}"
    shell.json("key", "new", "key.pem")
    for command in (
        "show magica", "diff magika@1.10.0 magica@1.0.0", "export magica@1.0.0 --to there", "verify magica",
        "prune magica", "sign magica@1.0.0 --key key.pem", "yank magica@1.0.0 --reason why",
    ):  # fmt: skip
        assert shell.error(*command.split()) == f"no model is named 'magica'; there are: magika {where}", command
    assert "magika" in shell.error("show", "magica")
    assert "1.10.0" in shell.error("verify", "magika@2.0.0")


def test_a_malformed_name_version_tag_or_selector_is_refused(shell: Shell) -> None:
    shell.publish("m", "1.0.0")
    assert "not a model name" in shell.error("publish", ".m", "1.0.0", "model.onnx")
    assert "not an exact version" in shell.error("publish", "m", "1.0", "model.onnx")
    assert "expected NAME@VERSION" in shell.error("release", "m")
    assert "reserved" in shell.error("tag", "m", "latest", "1.0.0")
    assert "reads as a version" in shell.error("tag", "m", "v1", "1.0.0")
    assert "expected a version" in shell.error("show", "m@^1,")


def test_a_file_that_is_no_model_is_refused_and_named(shell: Shell) -> None:
    (shell.folder / "text.onnx").write_text("hello")
    assert shell.error("publish", "m", "1.0.0", "nowhere.onnx") == "FILE: there is no nowhere.onnx"
    assert "not an ONNX model" in shell.error("publish", "m", "1.0.0", "text.onnx")
    assert not (shell.folder / "models" / "m").exists()


def test_what_a_publisher_says_is_shown(shell: Shell) -> None:
    (shell.folder / "meta.toml").write_text(
        'description = "doubles"\n[batching]\nmax_rows = 8\naxes = { x = 0, y = 0 }\n'
    )
    shell.publish("m", "1.0.0", 2, "--meta", "meta.toml")
    described = shell.json("show", "m@1.0.0")
    assert described["metadata"] == {"description": "doubles"}
    assert described["batching"] == "on, up to 8 rows, along x[0], y[0]"
    assert described["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}]
    assert [file["path"] for file in described["files"]] == ["model.onnx"]
    text = shell.run("show", "m@1.0.0").stdout
    assert "doubles" in text
    assert "x: float32[batch, 4]" in text


def test_an_input_that_may_be_left_out_is_shown_as_such(shell: Shell) -> None:
    save(add_with_default(), shell.folder / "model.onnx")
    shell.run("publish", "m", "1.0.0", "model.onnx")
    assert "bias: float32[3] (may be left out)" in shell.run("show", "m@1.0.0").stdout


def test_who_declared_what_and_why_is_kept(shell: Shell) -> None:
    shell.publish("m", "1.0.0", 1, "--release", "--actor", "ada", "--reason", "it is good")
    shell.run("tag", "m", "stable", "1.0.0")
    newest, first, published = shell.json("show", "m")["events"]
    assert (published["kind"], published["actor"], published["reason"]) == ("published", "ada", "it is good")
    assert published["digest"] == shell.json("show", "m@1.0.0")["digest"]
    assert (first["kind"], first["actor"], first["reason"]) == ("released", "ada", "it is good")
    assert (newest["kind"], newest["tag"], newest["version"]) == ("tag_set", "stable", "1.0.0")
    assert "@" in newest["actor"]


def test_verify_ends_with_1_and_names_each_changed_file(shell: Shell) -> None:
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        shell.publish("m", version, float(version[0]))
    assert shell.json("verify")["ok"] is True
    changed = shell.folder / "models" / "m" / "2.0.0" / "model.onnx"
    changed.chmod(0o644)
    changed.write_bytes(changed.read_bytes()[:-1] + b"\0")
    manifest = shell.folder / "models" / "m" / "3.0.0" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{}")
    found = shell.json("verify", code=1)
    faults = {v["version"]: v["fault"] for v in found["versions"]}
    assert faults["1.0.0"] == ""
    assert faults["2.0.0"] == "model.onnx is not what was published"
    assert faults["3.0.0"].startswith("manifest.json")
    assert "model.onnx is not what was published" in shell.run("verify", "m@2.0.0", code=1).stdout
    assert "manifest.json" in shell.run("verify", "m@3.0.0", code=1).stdout
    assert shell.json("verify", "m@1.0.0")["ok"] is True


def test_a_directory_without_a_manifest_is_told_with_the_command_that_publishes_it(shell: Shell) -> None:
    save(scaled(1), shell.folder / "models" / "m" / "1" / "model.onnx")
    done = shell.run("models")
    assert done.stdout == NOTHING_PUBLISHED
    assert done.stderr.endswith("publish it with: turnout import triton models --models models\n")
    (problem,) = shell.json("models")["problems"]
    shell.run(*problem["command"].split()[1:])
    assert versions(shell) == {"1.0.0": ("released", True, [])}


def test_where_nothing_is_published_commands_say_how_to_publish(shell: Shell) -> None:
    (shell.folder / "models").mkdir(exist_ok=True)
    for command in ("models", "verify", "prune"):
        assert shell.run(command).stdout.startswith(NOTHING_PUBLISHED), command


def test_looking_makes_no_state_store(shell: Shell) -> None:
    shell.publish("m", "1.0.0")
    shutil.rmtree(shell.folder / "models" / ".turnout")
    for command in (["models"], ["show", "m"], ["verify"], ["log"], ["doctor"]):
        shell.run(*command)
    assert not (shell.folder / "models" / ".turnout").exists()


def test_without_a_repository_a_command_says_how_to_name_one(shell: Shell) -> None:
    for command in (["models"], ["verify"], ["show", "m"], ["release", "m@1.0.0"], ["tag", "m", "t", "1.0.0"]):
        assert shell.error(*command).startswith("there is no model repository at models: name one with --models DIR")
    assert list(shell.folder.iterdir()) == []


def test_repository_and_store_come_from_flags_environment_and_file(shell: Shell) -> None:
    (shell.folder / "turnout.toml").write_text('models = "from_file"\n')
    shell.publish("m", "1.0.0")
    assert (shell.folder / "from_file" / "m").is_dir()
    shell.environment["TURNOUT_MODELS"] = "from_environment"
    shell.publish("m", "1.0.0")
    assert (shell.folder / "from_environment" / "m").is_dir()
    shell.publish("m", "1.0.0", 1, "--models", "from_flag", "--state", "sqlite:///elsewhere.db", "--release")
    assert (shell.folder / "from_flag" / "m").is_dir()
    assert (shell.folder / "elsewhere.db").is_file()
    assert not (shell.folder / "from_flag" / ".turnout").exists()


def test_a_store_that_cannot_be_used_leaves_nothing_published(shell: Shell) -> None:
    save(scaled(1), shell.folder / "model.onnx")
    message = shell.error("publish", "m", "1.0.0", "model.onnx", "--release", "--state", "mysql://host/db")
    assert "mysql" in message
    assert not (shell.folder / "models").exists()


def test_a_wrong_configuration_is_told_before_anything_is_done(shell: Shell) -> None:
    (shell.folder / "turnout.toml").write_text("[batching]\nmax_row = 1\nenabled = 3.5\n")
    save(scaled(1), shell.folder / "model.onnx")
    done = shell.run("publish", "m", "1.0.0", "model.onnx", code=1)
    assert done.stderr.splitlines() == [
        "error: batching.enabled in turnout.toml: expected true or false, got 3.5",
        "error: turnout.toml has an unknown key 'batching.max_row'; nearest: batching.max_rows",
    ]
    assert not (shell.folder / "models").exists()


def test_a_usage_error_ends_with_2(shell: Shell) -> None:
    shell.run("modls", code=2)
    shell.run("models", "--jsn", code=2)
    shell.run("release", code=2)
    assert "`turnout tag m stable VERSION`" in shell.run("tag", "m", "stable", code=2).stderr
    assert "`turnout tag m stable 1.0.0`" in shell.run("tag", "m@1.0.0", "stable", code=2).stderr
    assert "takes no VERSION" in shell.run("tag", "--delete", "m", "stable", "1.0.0", code=2).stderr


def test_print_config_shows_what_would_be_served(shell: Shell) -> None:
    shell.environment["TURNOUT_STATE"] = "postgresql://me:hunter2@host/db"
    done = shell.run("serve", "--print-config", "--grpc", "127.0.0.1:9001")
    assert 'grpc = "127.0.0.1:9001"  # --grpc' in done.stdout
    assert 'state = "postgresql://me:***@host/db"  # TURNOUT_STATE' in done.stdout
    assert shell.json("serve", "--print-config")["log"]["format"] == "json"
    assert "--grpc: expected HOST:PORT" in shell.error("serve", "--grpc", "9001")


def test_doctor_is_well_on_the_cpu_and_says_what_is_missing(shell: Shell) -> None:
    found = shell.json("doctor")
    checks = {check["name"]: check for check in found["checks"]}
    assert found["ok"] is True
    assert checks["cpu"]["health"] == "ok"
    assert {
        "turnout",
        "python",
        "machine",
        "onnxruntime",
        "cuda",
        "cuda libraries",
        "repository",
        "state store",
    } <= set(checks)
    assert "telemetry turned off" in checks["onnxruntime"]["detail"]


def test_doctor_ends_with_1_where_something_configured_is_missing(shell: Shell) -> None:
    shell.publish("magika", "1.0.0")
    (shell.folder / "turnout.toml").write_text(
        'state = "sqlite:///models/magika"\n[model.magica]\nruntime = { providers = ["cuda"], device_ids = [63] }\n'
    )
    found = shell.json("doctor", code=1)
    broken = {check["name"] for check in found["checks"] if check["health"] == "broken"}
    assert "state store" in broken
    assert broken & {"cuda:63", "cuda devices"}
    notes = [check["detail"] for check in found["checks"] if check["health"] == "note"]
    assert "[model.magica] matches no model of the repository; nearest: magika" in notes
    (shell.folder / "turnout.toml").write_text("nonsense = 1\n")
    assert "unknown key 'nonsense'" in shell.run("doctor", code=1).stdout
    # Nothing is said about settings that could not be read.
    unread = {check["name"] for check in shell.json("doctor", code=1)["checks"]}
    assert "the rest" in unread
    assert not {"repository", "state store", "auth", "listeners"} & unread


def test_commands_on_a_repository_import_nothing_that_serves(shell: Shell) -> None:
    shell.publish("m", "1.0.0")
    heavy = {
        "onnxruntime",
        "onnx",
        "prometheus_client",
        "structlog",
        "turnout.serving.data_plane.inference",
        "turnout.app.server",
    }
    commands = [("release", "m@1.0.0"), ("tag", "m", "stable", "1.0.0"), ("models",), ("show", "m"), ("log",)]
    code = f"""
import sys
from turnout.cli.main import application
for arguments in {commands}:
    try:
        application()(arguments)
    except SystemExit as end:
        assert not end.code, arguments
    assert not {heavy} & set(sys.modules), (arguments, {heavy} & set(sys.modules))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=shell.folder, env=shell.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_help_and_version_are_quick_since_nothing_heavy_is_imported(shell: Shell) -> None:
    heavy = {"onnxruntime", "grpc", "numpy", "sqlalchemy", "pydantic", "asyncio"}
    code = f"import sys, turnout.__main__, turnout.cli.main; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert shell.run("--version").stdout.startswith("turnout ")
    overview = shell.run("--help").stdout
    for command in (
        "serve",
        "publish",
        "release",
        "tag",
        "models",
        "show",
        "diff",
        "verify",
        "predict",
        "load",
        "unload",
        "doctor",
    ):
        assert command in overview
        assert "--json" in shell.run(command, "--help").stdout
