"""How a client's channel is set up."""

from typing import Any

import pytest

from turnout_client import AsyncClient, Client
from turnout_client.config import channel_options, checked_metadata


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        ("127.0.0.1:8001", None),
        ("dns:///models.example:8001", None),
        ("unix:/run/turnout", None),
        ("ipv4:127.0.0.1:8001", None),
        ("ipv4:127.0.0.1:8001,127.0.0.2:8001", "127.0.0.1:8001"),
        ("ipv6:[::1]:8001,[::2]:8001", "[::1]:8001"),
    ],
)
def test_several_addresses_have_the_first_as_their_authority(target: str, authority: str | None) -> None:
    assert dict(channel_options((), target)).get("grpc.default_authority") == authority


def test_what_is_set_stays_set() -> None:
    options = channel_options((("grpc.default_authority", "models"), ("grpc.enable_retries", 1)), "ipv4:a:1,b:1")
    assert dict(options)["grpc.default_authority"] == "models"
    assert dict(options)["grpc.enable_retries"] == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("a b", "c"), (":path", "/"), ("", "a"), ("clé", "a"), ("a", "é"), ("a", "secret\n"), ("a", b"\xff"),
        ("a-bin", "secret"), ("a", "\0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [AsyncClient, Client])
def test_metadata_that_grpc_would_refuse_at_each_call_is_refused_at_once(kind: Any, key: str, value: str) -> None:
    with pytest.raises(ValueError, match="metadata") as caught:
        kind("127.0.0.1:1", metadata=[("fine", "yes"), (key, value)])
    assert "secret" not in str(caught.value)


def test_keys_of_metadata_are_sent_in_lower_case() -> None:
    assert checked_metadata([("X-Team", "a b"), ("Trace-Bin", b"\xff")]) == [("x-team", "a b"), ("trace-bin", b"\xff")]
