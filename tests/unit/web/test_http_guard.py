"""Names in Host headers, and which of them lead here."""

import pytest
from starlette.types import Receive, Scope, Send

from turnout.config import is_loopback
from turnout.web.guard import BrowserGuard, host_name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("example.org", "example.org"),
        ("Example.ORG:8000", "example.org"),
        ("example.org.", "example.org"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("::1", "::1"),
        ("", ""),
    ],
)
def test_a_name_is_what_stands_before_the_port(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)],
)
def test_a_listener_on_the_loopback_is_known(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


async def status(guard: BrowserGuard, host: str) -> int:
    seen: list[int] = []

    async def send(message: dict) -> None:
        if message["type"] == "http.response.start":
            seen.append(message["status"])

    await guard({"type": "http", "method": "GET", "path": "/v2", "headers": [(b"host", host.encode())]}, None, send)  # type: ignore[arg-type]
    return seen[0] if seen else 200


async def _nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Answers nothing."""


async def test_off_the_loopback_any_name_leads_here_until_names_are_set() -> None:
    assert await status(BrowserGuard(_nothing, (), loopback=False), "turnout.models.svc.cluster.local:8000") == 200
    named = BrowserGuard(_nothing, ("turnout.example",), loopback=False)
    assert await status(named, "turnout.models.svc.cluster.local:8000") == 421
    assert await status(named, "10.0.0.7:8000") == 200
