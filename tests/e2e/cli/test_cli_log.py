"""`turnout log`, `verify`, `yank`, `tag --expect`, `key` and `sign`: what they change, print and end with."""

import json
import os
import shutil
import sqlite3
import stat
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from model_signing import signing

import command_line
from onnx_models import save, scaled

pytestmark = pytest.mark.slow


class Shell:
    """A working directory with a repository in `models`, and two versions of m in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str, code: int = 0, **variables: str) -> "subprocess.CompletedProcess[str]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TURNOUT_")} | variables
        done = command_line.run(*arguments, cwd=self.folder, env=clean)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def json(self, *arguments: str, code: int = 0, **variables: str) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code, **variables).stdout)

    def error(self, *arguments: str, code: int = 1, **variables: str) -> str:
        return self.run(*arguments, code=code, **variables).stderr.removeprefix("error: ").rstrip("\n")

    def tamper(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.folder / "models" / ".turnout" / "state.db")) as connection, connection:
            for name in ("events_no_update", "events_no_delete"):
                connection.execute(f"DROP TRIGGER IF EXISTS {name}")
            for statement in statements:
                connection.execute(statement)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a shell in which nothing was done yet."""
    folder = tmp_path_factory.mktemp("published")
    for number in (1, 2):
        save(scaled(number), folder / f"{number}.onnx")
        version, why = f"{number}.0.0", f"number {number}"
        Shell(folder).run("publish", "m", version, f"{number}.onnx", "--release", "--reason", why)
    return folder


@pytest.fixture
def shell(published: Path, tmp_path: Path) -> Shell:
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    return Shell(tmp_path)


def test_a_log_without_events_says_whose_and_a_missing_repository_is_no_empty_log(shell: Shell) -> None:
    assert shell.run("log", "fares").stdout == "fares has no events\n"
    assert "there is no model repository at model: " in shell.error("log", "--models", "model")
    assert "there is no model repository at model: " in shell.error(
        "tag", "m", "stable", "--history", "--models", "model"
    )


def test_the_log_tells_who_did_what_and_verify_names_the_event_that_was_changed(shell: Shell) -> None:
    body = shell.json("log")
    assert [(e["id"], e["kind"], e["subject"], e["reason"]) for e in body["events"]] == [
        (4, "released", "2.0.0", "number 2"),
        (3, "published", "2.0.0", "number 2"),
        (2, "released", "1.0.0", "number 1"),
        (1, "published", "1.0.0", "number 1"),
    ]
    assert body["head"] == {"revision": 4, "hash": body["events"][0]["hash"]}
    assert [e["id"] for e in shell.json("log", "m", "--limit", "1")["events"]] == [4]
    assert "2.0.0 published, sha256:" in shell.run("log").stdout
    assert shell.json("verify")["log"]["ok"] is True

    shell.tamper("UPDATE events SET actor = 'mallory' WHERE id = 2")
    found = shell.json("verify", code=1)
    assert found["ok"] is False
    assert found["log"]["faults"] == [{"event": 2, "what": "was changed: its hash is not that of its content"}]
    assert "event 2 was changed" in shell.run("verify", "m@2.0.0", code=1).stdout


def test_a_head_that_was_kept_shows_that_the_log_was_cut(shell: Shell) -> None:
    head = shell.run("log", "--head").stdout.strip()
    assert shell.json("log", "--head") == {"revision": 4, "hash": head.partition(":")[2]}
    assert shell.json("verify", "--head", head)["ok"] is True
    shell.tamper(
        "DELETE FROM events WHERE id > 3",
        "UPDATE revision SET number = 3",
        "DELETE FROM standings WHERE version = '2.0.0'",
    )
    assert shell.json("verify")["ok"] is True, "nothing in the store tells"
    assert "event 4 is missing: the log was longer" in shell.run("verify", "--head", head, code=1).stdout
    assert shell.error("verify", "--head", "4").startswith("head: expected REVISION:sha256:HEX")


def test_verify_records_a_version_whose_publisher_died(shell: Shell) -> None:
    shell.tamper("DELETE FROM events", "DELETE FROM standings", "UPDATE revision SET number = 0")
    found = shell.json("verify", "--actor", "night watch")
    assert (found["ok"], found["log"]["recorded"]) == (True, ["m 1.0.0", "m 2.0.0"])
    newest = shell.json("log")["events"][0]
    assert (newest["actor"], newest["payload"]["found"]) == ("night watch", True)
    assert shell.json("verify")["log"]["recorded"] == []


def test_verify_names_a_version_that_was_published_and_is_gone_unless_it_was_yanked(shell: Shell) -> None:
    (shell.folder / "models" / "m" / "2.0.0").rename(shell.folder / "away")
    assert shell.json("verify", code=1)["log"]["gone"] == ["m 2.0.0"]
    (shell.folder / "away").rename(shell.folder / "models" / "m" / "2.0.0")
    shell.run("yank", "m@2.0.0", "--reason", "it leaks")
    (shell.folder / "models" / "m" / "2.0.0").rename(shell.folder / "away")
    assert shell.json("verify")["ok"] is True


def test_a_valid_manifest_in_the_place_of_the_published_one_is_named(shell: Shell) -> None:
    manifest = shell.folder / "models" / "m" / "2.0.0" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace('"ir_version":8', '"ir_version":7'))
    (_, changed) = shell.json("verify", code=1)["versions"]
    assert changed["fault"].startswith("manifest.json is not what was published")


def test_a_yank_says_what_is_left_and_what_stands_in_its_way(shell: Shell) -> None:
    shell.run("tag", "m", "stable", "2.0.0")
    refused = shell.error("yank", "m@2.0.0", "--reason", "it leaks")
    assert refused.startswith("2.0.0 of m is not yanked: the tag stable names it; move or delete the tag")
    shell.run("tag", "m", "stable", "1.0.0")
    message = shell.run("yank", "m@2.0.0", "--reason", "it leaks").stdout
    assert message == (
        "m 2.0.0 is yanked; it was released; 1.0.0 is the highest released version now\n"
        "plain requests: 1.0.0; latest: 1.0.0; ^1: 1.0.0\n"
    )
    assert shell.json("yank", "m@2.0.0", "--reason", "again")["changed"] is False
    assert "yanked: it leaks" in shell.run("show", "m@2.0.0").stdout
    assert shell.json("show", "m@2.0.0")["yanked"] == "it leaks"
    assert "is yanked, and is never used again" in shell.error("release", "m@2.0.0")
    assert "was yanked; publish under another version" in shell.error("publish", "m", "2.0.0", "1.onnx", code=4)
    assert "Missing option" in shell.run("yank", "m@1.0.0", code=2).stderr

    assert "it leaks); to bring it back, use --i-know-why" in shell.error("unyank", "m@2.0.0", "--reason", "fixed")
    back = shell.run("unyank", "m@2.0.0", "--reason", "it was the driver", "--i-know-why").stdout
    assert back == "m 2.0.0 is a candidate again\nplain requests: 1.0.0; latest: 1.0.0; ^1: 1.0.0\n"


def test_a_tag_moves_only_from_where_it_is_expected_and_tells_its_history(shell: Shell) -> None:
    shell.run("tag", "m", "stable", "1.0.0", "--expect", "none", "--actor", "ada", "--reason", "first")
    late = shell.error("tag", "m", "stable", "2.0.0", "--expect", "none")
    assert late == "the tag 'stable' of m names 1.0.0 already (set by ada: first); look again"
    shell.run("tag", "m", "stable", "2.0.0", "--expect", "v1.0.0")
    assert "names 2.0.0, not 1.0.0" in shell.error("tag", "m", "stable", "--delete", "--expect", "1.0.0")
    shell.run("tag", "m", "stable", "--delete", "--expect", "2.0.0")
    events = shell.json("tag", "m", "stable", "--history")["events"]
    assert [(e["kind"], e["payload"]["previous"]) for e in events] == [
        ("tag_deleted", "2.0.0"),
        ("tag_set", "1.0.0"),
        ("tag_set", None),
    ]
    assert "takes no VERSION" in shell.run("tag", "m", "stable", "1.0.0", "--history", code=2).stderr


def test_what_is_not_signed_by_a_trusted_key_is_told_and_not_published(shell: Shell) -> None:
    made = shell.json("key", "new", "key.pem")
    assert stat.S_IMODE((shell.folder / "key.pem").stat().st_mode) == 0o600
    assert shell.json("key", "show", "key.pem") == made
    assert shell.run("key", "show", "key.pem", "--pem").stdout == made["pem"]
    assert "never overwritten" in shell.error("key", "new", "key.pem")
    (shell.folder / "turnout.toml").write_text(
        f'[signing]\nsignatures = "require"\ntrusted_keys = ["{made["public_key"]}"]\n'
    )
    shell.run("sign", "m@1.0.0", "--key", "key.pem", "--reason", "reviewed")
    found = {v["version"]: v for v in shell.json("verify", code=1)["versions"]}
    assert (found["1.0.0"]["untrusted"], found["1.0.0"]["signatures"]) == ("", {made["key_id"]: "trusted"})
    assert found["2.0.0"]["untrusted"] == "it is not signed, and signing.signatures asks for that"
    assert "1 of 2 versions are not signed as required" in shell.run("verify", code=1).stdout
    assert f"{made['key_id']} (trusted)" in shell.run("show", "m@1.0.0").stdout

    refused = shell.error("publish", "m", "3.0.0", "1.onnx", code=3)
    assert refused == "gate signature failed: it is not signed, and signing.signatures asks for that"
    gates = shell.json("publish", "m", "3.0.0", "1.onnx", "--sign-key", "key.pem")["gates"]
    assert [gate["gate"] for gate in gates[:3]] == ["integrity", "signature", "metadata"]
    assert gates[1] == {
        "gate": "signature", "outcome": "passed", "evidence": f"signed by {made['key_id']}", "numbers": {},
    }  # fmt: skip
    signed, published, reviewed = shell.json("log", "--limit", "3")["events"]
    assert (signed["kind"], signed["payload"]["key"], published["kind"]) == ("signed", made["key_id"], "published")
    assert reviewed["reason"] == "reviewed"


def test_a_signature_made_elsewhere_is_put_beside_its_version_once_it_is_checked(shell: Shell) -> None:
    for name in ("key", "other"):
        shell.run("key", "new", f"{name}.pem")
        (shell.folder / f"{name}.pub.pem").write_text(shell.run("key", "show", f"{name}.pem", "--pem").stdout)
    version, bundle = shell.folder / "models" / "m" / "1.0.0", shell.folder / "model.sig"
    config = signing.Config().use_elliptic_key_signer(private_key=shell.folder / "key.pem")
    config.sign(version, bundle)
    sign = ("sign", "m@1.0.0", "--signature", "model.sig")
    assert "it is none of signing.trusted_keys" in shell.error(*sign)
    assert "was not made by the key" in shell.error(*sign, "--public-key", "other.pub.pem")
    other = ("sign", "m@2.0.0", "--signature", "model.sig", "--public-key", "key.pub.pem")
    assert "what is signed is sha256:" in shell.error(*other)
    made = shell.json(*sign, "--public-key", "key.pub.pem")
    verify = ("verify", "m@1.0.0", "--signed-by")
    (found,) = shell.json(*verify, "key.pub.pem")["versions"]
    assert found["signatures"] == {made["key_id"]: "trusted"}
    (found,) = shell.json(*verify, "other.pub.pem", code=1)["versions"]
    assert "which is not trusted" in found["untrusted"]
    (shell.folder / "turnout.toml").write_text('[signing]\nsignatures = "warn"\ntrusted_keys = ["other.pub.pem"]\n')
    (found,) = shell.json("verify", "m@2.0.0")["versions"]
    assert (found["untrusted"], found["warning"]) == ("", "it is not signed, and signing.signatures asks for that")


def test_a_passphrase_comes_from_a_file_or_the_environment(shell: Shell) -> None:
    (shell.folder / "secret").write_text("a passphrase\n")
    made = shell.json("key", "new", "key.pem", "--passphrase-file", "secret")
    unread = shell.error("sign", "m@1.0.0", "--key", "key.pem")
    assert "is encrypted: give its passphrase by --passphrase-file or" in unread
    assert shell.json("sign", "m@1.0.0", "--key", "key.pem", "--passphrase-file", "secret")["key_id"] == made["key_id"]
    right, wrong = {"TURNOUT_KEY_PASSPHRASE": "a passphrase"}, {"TURNOUT_KEY_PASSPHRASE": "another"}
    assert shell.json("publish", "m", "3.0.0", "1.onnx", "--sign-key", "key.pem", **right)["version"] == "3.0.0"
    assert "the passphrase is wrong" in shell.error("key", "show", "key.pem", **wrong)


def test_a_version_whose_bytes_changed_is_not_signed(shell: Shell) -> None:
    shell.run("key", "new", "key.pem")
    changed = shell.folder / "models" / "m" / "2.0.0" / "model.onnx"
    changed.chmod(0o644)
    changed.write_bytes(changed.read_bytes()[:-1] + b"\0")
    assert "model.onnx is not what was published" in shell.error("sign", "m@2.0.0", "--key", "key.pem")
