"""`turnout token`, `turnout auth`, and commands that show a token to a server that asks who calls."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import onnx_models
from auth_wire import AUTH, grant, make_token, write_policy
from certificates import put
from command_line import run
from processes import Server, serving_in_thread
from turnout.config import Settings, with_secrets
from turnout.state.store import StateStore
from turnout.telemetry.logging import make_logger


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auth")
    (folder / "models").mkdir()
    write_policy(folder / "policy.toml", grant(["jwt:corp/*", "group:corp/ml"], ["read"], ["fraud-*"]))
    put(
        folder / "turnout.toml",
        f'models = "{folder / "models"}"\n[auth]\nenabled = true\npolicy = "{folder / "policy.toml"}"\n'.encode(),
    )
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving_in_thread(folder / "models", auth=AUTH) as process:
        yield process


def command_json(*arguments: Any, code: int = 0, **more: Any) -> Any:
    """Returns what a command says in JSON."""
    done = run(*map(str, arguments), "--json", **more)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout or done.stderr)


def test_a_token_is_shown_once_and_listed_without_itself(folder: Path) -> None:
    config = ("--config", folder / "turnout.toml")
    made = command_json(
        "token", "create", "ci", "--role", "publish", "--role", "read", "--model", "fraud-*", "--expires", "1h", *config
    )
    token = made.pop("token")
    assert (made["name"], made["roles"], made["models"], made["state"]) == (
        "ci",
        ["read", "publish"],
        ["fraud-*"],
        "active",
    )
    listed = run("token", "list", "--config", str(folder / "turnout.toml")).stdout
    assert made["id"] in listed
    assert "ci" in listed
    assert token not in listed
    secret = token.split("_", 2)[2]  # it may hold underscores itself
    assert secret not in (folder / "models" / ".turnout" / "state.db").read_bytes().decode("latin-1")
    allowed = command_json("auth", "explain", "token:ci", "publish", "fraud-x", *config)
    assert allowed == {"allowed": True, "rule": f"token ci ({made['id']})", "limit": None}
    assert command_json("auth", "explain", "token:ci", "operate", "fraud-x", *config, code=1)["allowed"] is False
    assert [one["state"] for one in command_json("token", "revoke", "ci", *config)["revoked"]] == ["revoked"]
    assert command_json("token", "revoke", "ci", *config)["revoked"] == []
    assert (
        command_json("auth", "explain", "token:ci", "publish", "fraud-x", *config, code=1)["rule"]
        == "no active token has that name"
    )
    assert [
        one["state"] for one in command_json("token", "list", "--all", *config)["tokens"] if one["name"] == "ci"
    ] == ["revoked"]
    kinds = [event["kind"] for event in command_json("log", *config)["events"]]
    assert kinds[:2] == ["token_revoked", "token_created"]
    assert command_json("verify", *config)["log"]["ok"] is True


def test_a_token_that_was_changed_past_the_log_is_found(folder: Path, tmp_path: Path) -> None:
    make_token(tmp_path / "models", "ci", ["read"], ["m"])
    with (
        StateStore.open(Settings(models=tmp_path / "models").state_url) as store,
        store._database.writing() as connection,
    ):
        connection.exec_driver_sql("UPDATE tokens SET roles = '[\"admin\"]'")
    found = command_json("verify", "--models", tmp_path / "models", code=1)
    assert "the token" in found["log"]["differences"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["token", "create", "ci", "--role", "root", "--model", "*"], "role: expected one of predict"),
        (["token", "create", "c i", "--role", "read", "--model", "*"], "name: expected 1 to 63"),
        (["token", "create", "ci", "--role", "read", "--model", "a b"], "model: expected a name"),
        (["token", "create", "ci", "--role", "read", "--model", "m", "--expires", "soon"], "expected a time such as"),
        (["token", "revoke", "nobody"], "no token has the name or id 'nobody'"),
        (["auth", "explain", "ann", "read", "m"], "identity: expected one that begins with spiffe://"),
        (["auth", "explain", "group:search", "read", "m"], "console, local, anonymous, got 'group:search'"),
        (["auth", "explain", "dns:a", "write", "m"], "action: expected one of predict"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(folder: Path, arguments: list[str], message: str) -> None:
    assert message in command_json(*arguments, "--config", folder / "turnout.toml", code=1)["error"]["message"]


def test_explain_goes_by_the_policy_and_names_its_rule(folder: Path) -> None:
    config = ("--config", folder / "turnout.toml")
    assert command_json("auth", "explain", "jwt:corp/ann", "read", "fraud-x", *config)["rule"] == "grant 1, line 1"
    assert (
        command_json("auth", "explain", "dns:a", "read", "fraud-x", *config, code=1)["rule"]
        == "no grant names this identity"
    )
    assert command_json("auth", "explain", "dns:a", "read", "fraud-x", "--also", "group:corp/ml", *config)["allowed"]
    assert (
        command_json("auth", "explain", "local", "read", "fraud-x", *config, code=1)["rule"] == "auth.loopback is false"
    )
    assert command_json("auth", "check", *config) == {"file": str(folder / "policy.toml"), "grants": 1, "limits": 0}


@pytest.mark.parametrize(
    "command",
    [
        ["models"],
        ["traffic", "show", "m"],
        ["servers"],
        ["predict", "m"],
        ["load", "m@1.0.0"],
        ["rollout", "status", "m"],
    ],
    ids=" ".join,
)
def test_every_command_shows_its_token_by_file_or_environment(
    folder: Path, server: Server, command: list[str], tmp_path: Path
) -> None:
    token = make_token(folder / "models", "ops", ["admin"], ["*"])
    file = put(tmp_path / "token", f"{token}\n".encode())
    reached = [*command, "--server", server.control, "--json"]
    ways = (
        ([*reached, "--token-file", str(file)], {}),
        (reached, {"TURNOUT_TOKEN": token}),
        (reached, {"TURNOUT_TOKEN_FILE": str(file)}),
    )
    for arguments, environ in ways:
        for _ in range(200):  # until the server has seen the token
            done = run(*arguments, env={**os.environ, **environ})
            if "unknown, or was revoked" not in done.stderr:
                break
        assert done.returncode == 0 or "no model is named 'm'" in done.stderr, done.stderr
        assert token not in done.stdout + done.stderr
    refused = json.loads(run(*reached).stderr)["error"]
    assert refused["kind"] == "Unauthenticated"
    assert "TURNOUT_TOKEN, --token-file" in refused["message"]


def test_predict_needs_no_role_but_predict(tmp_path: Path) -> None:
    """It used to need `read`, too, and so the example at the top of docs/security.md failed."""
    models = tmp_path / "models"
    onnx_models.save(onnx_models.scaled(2.0), tmp_path / "m.onnx")
    for name in ("m", "other"):
        run("publish", name, "1.0.0", "m.onnx", "--release", cwd=tmp_path)
    environ = {**os.environ, "TURNOUT_TOKEN": make_token(models, "shop", ["predict"], ["m"])}
    with serving_in_thread(models, wait=True, auth=AUTH) as server:
        for address in (server.control, server.grpc):

            def ask(*arguments: str, to: str = address, code: int = 0) -> Any:
                return command_json("predict", *arguments, "--server", to, env=environ, code=code)

            assert ask("m", "-i", "x=[[1,2,3,4]]")["outputs"]["y"]["data"] == [[2.0, 4.0, 6.0, 8.0]]
            assert ask("m@^1", "-i", "x=random:3x4")["outputs"]["y"]["shape"] == [3, 4]
            assert "inputs.x" in ask("m", code=1)["error"]["message"]
            assert (
                "the model has no such input; there are: x: float32[?, 4]"
                in (ask("m", "-i", "z=1", code=1)["error"]["message"])
            )
            assert ask("other", "-i", "x=random", code=1)["error"]["kind"] == "PermissionDenied"


def test_a_token_is_not_sent_in_the_open(folder: Path, tmp_path: Path) -> None:
    environ = {**os.environ, "TURNOUT_TOKEN": "turnout_secret"}
    refused = run("models", "--server", "turnout.example.org:8003", env=environ)
    assert "the token would travel unencrypted to turnout.example.org:8003" in refused.stderr
    assert "--plaintext-token" in refused.stderr
    assert "turnout_secret" not in refused.stderr


def test_serve_refuses_to_be_open_to_anybody(tmp_path: Path) -> None:
    refused = run("serve", "--models", str(tmp_path), "--grpc", "0.0.0.0:0")
    assert refused.returncode == 1
    assert "grpc (0.0.0.0:0): other machines reach it" in refused.stderr
    assert "--insecure" in refused.stderr


def test_secrets_are_shown_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    secret = "a very secret secret"
    file = put(tmp_path / "secret", secret.encode())
    environ = {
        **os.environ, "TURNOUT_CONSOLE__TOKEN": secret, "TURNOUT_ROLLOUT__WEBHOOK_SECRET_FILE": str(file),
        "TURNOUT_TRACING__HEADERS": json.dumps({"authorization": secret}), "TURNOUT_TOKEN": "turnout_secret",
    }  # fmt: skip
    printed = run("serve", "--print-config", "--models", str(tmp_path), env=environ)
    assert printed.returncode == 0, printed.stderr
    assert "secret secret" not in printed.stdout
    assert "turnout_secret" not in printed.stdout
    both = {**environ, "TURNOUT_CONSOLE__TOKEN_FILE": str(file)}
    refused = run("doctor", "--models", str(tmp_path), env=both)
    assert secret not in refused.stdout + refused.stderr
    log = make_logger("json", "info")
    try:
        Settings(console={"token": secret, "enabled": "nonsense"})
    except ValueError:
        log.error("a traceback", exc_info=True)
    assert "secret secret" not in capfd.readouterr().err


def test_secrets_come_from_files(tmp_path: Path) -> None:
    from turnout.errors import ConfigError

    file = put(tmp_path / "secret", b"a secret of some length\n")
    settings = with_secrets(Settings(console={"token_file": str(file)}, rollout={"webhook_secret_file": str(file)}))
    assert settings.console.token.get_secret_value() == "a secret of some length"
    assert settings.rollout.webhook_secret.get_secret_value() == "a secret of some length"
    short = put(tmp_path / "short", b"short")
    for console, message in [
        ({"token_file": str(short)}, "console.token_file: expected at least 16 characters"),
        ({"token_file": str(file), "token": "x" * 16}, "console.token and console.token_file: expected one of them"),
        ({"token_file": str(tmp_path)}, "cannot be read: Is a directory"),
        ({"token_file": str(tmp_path / "none")}, "there is no file"),
    ]:
        with pytest.raises(ConfigError, match=message):
            with_secrets(Settings(console=console))
