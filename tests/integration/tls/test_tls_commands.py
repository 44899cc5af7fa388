"""Commands against a server that speaks TLS: by options, by environment, and as the server's own configuration says."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import command_line
from certificates import LOCAL, Authority, put
from processes import Server, serving_in_thread, turnout

AUTHORITY = Authority.make()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "models").mkdir()
    put(folder / "ca.pem", AUTHORITY.pem)
    AUTHORITY.issue(hosts=("turnout.example.org", *LOCAL)).write(folder, "server")
    AUTHORITY.issue("an operator").write(folder, "client")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    tls = {
        "cert": str(folder / "server.pem"),
        "key": str(folder / "server.key"),
        "client_ca": str(folder / "ca.pem"),
        "client_certificates": "required",
    }
    with serving_in_thread(folder / "models", tls=tls) as process:
        yield process


def options(folder: Path) -> list[str]:
    return [f"--tls-{name}={folder / file}" for name, file in FILES.items()]


FILES = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}


@pytest.mark.parametrize(
    "command",
    [
        ["models"],
        ["traffic", "show", "m"],
        ["predict", "m"],
        ["load", "m@1.0.0"],
        ["shadow", "m"],
        ["rollout", "status", "m"],
    ],
    ids=" ".join,
)
def test_every_command_reaches_the_server_with_a_certificate_and_none_without(
    folder: Path, server: Server, command: list[str]
) -> None:
    reached = turnout(*command, "--server", server.control, *options(folder), "--json", check=False)
    if command == ["models"]:
        assert reached.returncode == 0, reached.stderr
    else:
        assert "no model is named 'm'" in json.loads(reached.stderr)["error"]["message"]
    refused = turnout(*command, "--server", server.control, "--json", check=False)
    error = json.loads(refused.stderr)["error"]
    assert error["kind"] == "Unavailable"
    assert f"the server at {server.control} speaks TLS" in error["message"]


def test_the_environment_says_it_too_and_options_go_before_it(folder: Path, server: Server) -> None:
    environ = {f"TURNOUT_TLS_{name.upper()}": str(folder / file) for name, file in FILES.items()}
    command = ["models", "--server", server.control]
    assert command_line.run(*command, env={**os.environ, **environ}).returncode == 0
    wrong = {**environ, "TURNOUT_TLS_SERVER_NAME": "elsewhere.example.org"}
    refused = command_line.run(*command, env={**os.environ, **wrong})
    assert "is not for 'elsewhere.example.org'" in refused.stderr
    named = command_line.run(*command, "--tls-server-name", "turnout.example.org", env={**os.environ, **wrong})
    assert named.returncode == 0, named.stderr


def test_beside_the_server_its_configuration_says_whom_to_trust(folder: Path, server: Server, tmp_path: Path) -> None:
    config = put(
        tmp_path / "turnout.toml",
        f'control = "{server.control}"\n[tls]\ncert = "{folder / "server.pem"}"\nkey = "unread"\n'.encode(),
    )
    own = [f"--tls-cert={folder / 'client.pem'}", f"--tls-key={folder / 'client.key'}"]
    command = ["traffic", "show", "m", "--config", config]
    assert "no model is named 'm'" in turnout(*command, *own, check=False).stderr
    assert "it may require a client certificate" in turnout(*command, check=False).stderr


def test_files_that_cannot_be_used_are_named(folder: Path, server: Server, tmp_path: Path) -> None:
    encrypted = put(tmp_path / "client.key", AUTHORITY.issue().encrypted_key)
    for given, message in [
        (
            ["--tls-ca", str(tmp_path / "none.pem")],
            f"{tmp_path / 'none.pem'} cannot be read: No such file or directory",
        ),
        (["--tls-ca", str(folder / "client.key")], "holds no PEM certificate, expected the server's authority"),
        (["--tls-cert", str(folder / "client.pem")], "--tls-key is missing"),
        (["--tls-key", str(folder / "client.key")], "--tls-cert is missing"),
        (["--tls-cert", str(folder / "client.pem"), "--tls-key", str(folder / "server.key")], "does not belong to"),
        (["--tls-cert", str(folder / "client.pem"), "--tls-key", str(encrypted)], "is encrypted"),
    ]:
        refused = turnout("models", "--server", server.control, *given, check=False)
        assert refused.returncode == 1
        assert message in refused.stderr, given
        assert refused.stderr.count("\n") == 1
