"""What token a client shows, and where it may travel."""

import os
from pathlib import Path

import pytest

from turnout_client import AsyncClient, Client, Tls, TokenFile
from turnout_client.config import is_local
from turnout_client.token import Bearer, bearer_of, token_from_environ

KINDS = pytest.mark.parametrize("kind", [Client, AsyncClient])


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "127.3.2.1:1", "unix:/run/x", "dns:///localhost:1",
     "dns:localhost:1", "ipv4:127.0.0.1:1,127.0.0.2:1", "ipv6:[::1]:1"],
)  # fmt: skip
def test_loopback_and_sockets_are_local(target: str) -> None:
    assert is_local(target)


@pytest.mark.parametrize(
    "target",
    ["turnout:8001", "10.0.0.1:1", "ipv4:127.0.0.1:1,10.0.0.1:1", "dns://8.8.8.8/turnout:1", "[2001:db8::1]:1",
     "localhost.example.org:1", "127.0.0.1.example.org:1", "xds:///x", "dns:///turnout",
     "dns://8.8.8.8/localhost:1"],
)  # fmt: skip
def test_all_else_is_not(target: str) -> None:
    assert not is_local(target)


@KINDS
def test_a_token_does_not_travel_unencrypted_unless_told_so(kind: type) -> None:
    with pytest.raises(ValueError, match="would travel unencrypted to turnout:8001"):
        kind("turnout:8001", token="secret")
    kind("turnout:8001", token="secret", plaintext_token=True)
    kind("127.0.0.1:8001", token="secret")
    kind("turnout:8001", token="secret", tls=Tls())
    kind("turnout:8001")


@KINDS
def test_what_is_no_token_is_refused_without_being_shown(kind: type) -> None:
    for wrong in ("", "two words", "line\nbreak", "ü"):
        with pytest.raises(ValueError, match="printable ASCII") as caught:
            kind("127.0.0.1:1", token=wrong)
        assert not wrong or wrong not in str(caught.value)
    with pytest.raises(ValueError, match="got both"):
        kind("127.0.0.1:1", token="t", metadata=[("Authorization", "Basic x")])


def test_a_token_is_in_no_repr() -> None:
    assert "secret" not in repr(Bearer("secret"))
    assert "secret" not in repr(bearer_of("secret", "127.0.0.1:1", (), plain=True, plaintext_token=False))


def test_a_file_is_read_again_when_it_changes_and_kept_while_it_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = TokenFile(path)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        token()
    path.write_text("first\n")
    assert token() == "first"
    path.write_text("the-second-one\n")
    assert token() == "the-second-one"
    path.write_text("two words, which is none")
    assert token() == "the-second-one"
    os.remove(path)
    assert token() == "the-second-one"
    assert "second" not in repr(token)


def test_the_environment_names_a_token_or_its_file(tmp_path: Path) -> None:
    assert token_from_environ({}) is None
    assert token_from_environ({"TURNOUT_TOKEN": "", "TURNOUT_TOKEN_FILE": ""}) is None
    assert token_from_environ({"TURNOUT_TOKEN": "t", "TURNOUT_TOKEN_FILE": "f"}) == "t"
    path = tmp_path / "token"
    path.write_text("t")
    found = token_from_environ({"TURNOUT_TOKEN_FILE": str(path)})
    assert callable(found)
    assert found() == "t"
