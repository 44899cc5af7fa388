"""How a client's channel is set up."""

import pytest

from turnout_client.config import channel_options


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
