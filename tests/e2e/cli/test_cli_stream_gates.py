"""`turnout publish --server` as a CI job uses it: it says the same, does the same and ends the same as on the disk."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from model_signing.verifying import Config
from semver import Version

import onnx_models
from processes import Server, serving_in_thread, turnout
from turnout.config import Settings
from turnout.registry.signing.keys import PrivateKey
from turnout.registry.storage.repository import Repository
from turnout.state.store import StateStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gates") / "models"


@pytest.fixture(scope="module")
def key(models: Path) -> Path:
    PrivateKey.create(file := models.parent / "key.pem")
    return file


@pytest.fixture(scope="module")
def server(models: Path, key: Path) -> Iterator[Server]:
    """A server, where versions of the model `trusted` need a signature of `key`."""
    signing = {"signatures": "require", "trusted_keys": [str(PrivateKey.load(key).public)]}
    with serving_in_thread(models, model={"trusted": {"signing": signing}}) as running:
        yield running


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return onnx_models.save(onnx_models.matmul(seed=1), tmp_path / "m.onnx")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The same signature, other weights."""
    return onnx_models.save(onnx_models.matmul(seed=2), tmp_path / "other.onnx")


def ended(*arguments: str | Path) -> tuple[int, Any]:
    """Runs a command, and returns its exit code and what it printed."""
    done = turnout(*arguments, "--json", check=False)
    assert done.stdout or done.stderr, done
    return done.returncode, json.loads(done.stdout or done.stderr)


def command_json(*arguments: str | Path) -> Any:
    code, body = ended(*arguments)
    assert code == 0, body
    return body


def staged(models: Path) -> list[str]:
    """What is left of uploads."""
    return [path.name for path in (models / ".staging").iterdir() if path.name != ".lock"]


def test_auto_is_chosen_by_the_server_and_a_second_run_changes_nothing(
    server: Server, models: Path, source: Path, other: Path
) -> None:
    to = ("--server", server.control)
    first = command_json("publish", "auto-m", "auto", source, *to)
    assert (first["version"], first["created"], first["parent"]) == ("1.0.0", True, None)
    tried = command_json("publish", "auto-m", "auto", other, "--dry-run", *to)
    assert (tried["version"], tried["created"], tried["dry_run"], tried["parent"]) == ("1.1.0", False, True, "1.0.0")
    assert [str(one.manifest.version) for one in Repository(models).scan().versions("auto-m")] == ["1.0.0"]
    second = command_json("publish", "auto-m", "auto", other, *to)
    assert (second["version"], second["created"], second["digest"]) == ("1.1.0", True, tried["digest"])
    (load,) = [gate for gate in second["gates"] if gate["gate"] == "load"]
    assert load["numbers"]["load_seconds"] > 0
    again = command_json("publish", "auto-m", "auto", other, *to)
    assert (again["version"], again["created"], again["gates"]) == ("1.1.0", False, [])
    assert staged(models) == []


def test_a_gate_that_refuses_ends_with_3_and_its_report_and_one_is_skipped_on_record(
    server: Server, models: Path, source: Path, other: Path
) -> None:
    to = ("--server", server.control)
    command_json("publish", "skip-m", "1.0.0", source, *to)
    command = ("publish", "skip-m", "1.0.1", other, "--actor", "ci", *to)
    code, refused = ended(*command)
    assert (code, refused["ok"], refused["refused_by"]) == (3, False, "bump")
    assert (refused["version"], refused["parent"]) == ("1.0.1", "1.0.0")
    (bump,) = [gate for gate in refused["gates"] if gate["gate"] == "bump"]
    assert bump["outcome"] == "failed"
    assert "1.1.0" in bump["evidence"]
    done = command_json(*command, "--skip-gate", "bump", "--reason", "the client is ours")
    assert done["created"]
    (bump,) = [gate for gate in done["gates"] if gate["gate"] == "bump"]
    assert (bump["outcome"], bump["evidence"]) == ("skipped", "skipped on request by ci: the client is ours")
    (report,) = command_json("show", "skip-m@1.0.1", *to)["gate_reports"]
    assert report["skips"] == [{"gate": "bump", "reason": "the client is ours", "actor": "ci"}]
    code, taken = ended("publish", "skip-m", "1.0.1", source, *to)
    assert (code, taken["error"]["kind"]) == (4, "AlreadyExists")
    assert staged(models) == []


def test_a_key_that_never_leaves_the_job_signs_what_the_server_publishes(
    server: Server, models: Path, source: Path, key: Path, tmp_path: Path
) -> None:
    to = ("--server", server.control)
    code, refused = ended("publish", "trusted", "1.0.0", source, *to)
    assert (code, refused["refused_by"]) == (3, "signature")
    signed = command_json("publish", "trusted", "auto", source, "--sign-key", key, "--actor", "ci", *to)
    assert (signed["version"], signed["created"]) == ("1.0.0", True)
    again = command_json("publish", "trusted", "1.0.0", source, "--sign-key", key, *to)
    assert not again["created"]
    PrivateKey.create(stranger := tmp_path / "stranger.pem")
    command_json("publish", "trusted", "1.0.0", source, "--sign-key", stranger, "--actor", "bob", *to)
    known, unknown = (PrivateKey.load(file).public.id for file in (key, stranger))
    with StateStore.open(Settings(models=models).state_url) as store:
        assert store.release_state().of("trusted").digests == {Version(1): signed["digest"]}
        signings = [(e.payload["key"], e.actor) for e in store.events("trusted") if e.kind == "signed"]
    assert signings == [(unknown, "bob"), (known, "ci")], "the same key again is not an event"
    assert command_json("show", "trusted@1.0.0", *to)["signatures"] == {known: "trusted", unknown: "unknown key"}
    command_json("load", "trusted@1.0.0", *to)
    got = command_json("fetch", "trusted@1.0.0", "--to", tmp_path / "got", "--signatures", tmp_path / "signatures", *to)
    (tmp_path / "key.pub.pem").write_text(PrivateKey.load(key).public.pem)
    verifying = Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pub.pem")
    checked = []
    for file in got["signatures"]:
        with suppress(ValueError):  # one of them is the stranger's
            verifying.verify(tmp_path / "got", file)
            checked.append(file)
    assert (len(got["signatures"]), len(checked)) == (2, 1)


def test_the_card_through_the_server_is_the_card_on_the_disk(
    server: Server, models: Path, source: Path, tmp_path: Path
) -> None:
    to = ("--server", server.control)
    (tmp_path / "meta.toml").write_text(
        'description = "by CI"\nauthors = ["Ada"]\n[training]\nseed = 7\nmetrics = { accuracy = 0.987 }\n'
    )
    command_json("publish", "card-m", "1.0.0", source, "--meta", tmp_path / "meta.toml", *to)
    command_json("load", "card-m@1.0.0", *to)
    here, there = command_json("show", "card-m@1.0.0", "--models", models), command_json("show", "card-m@1.0.0", *to)
    assert here["provenance"] == {"training": {"metrics": {"accuracy": 0.987}, "seed": 7}}
    assert {name: there[name] for name in here if name != "batching"} == {
        name: value for name, value in here.items() if name != "batching"
    }
    (report,) = here["gate_reports"]
    assert [gate["gate"] for gate in report["gates"]][:2] == ["integrity", "metadata"]
    assert report["digest"] == here["digest"]
    for text in (turnout("show", "card-m@1.0.0", *where).stdout for where in (to, ("--models", models))):
        for part in ("accuracy 0.987", "published with", "integrity", "against no other version"):
            assert part in text
    card = turnout("show", "card-m@1.0.0", "--markdown", *to).stdout
    assert "| integrity | passed |" in card
    assert "accuracy 0.987" in card
    data = command_json("show", "card-m@1.0.0", "--server", server.grpc)
    assert (data["state"], "gate_reports" in data) == ("ready", False), "the data listener has no registry"
