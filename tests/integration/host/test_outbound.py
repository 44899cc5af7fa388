"""What the server asks of others keeps its bounds, follows nobody elsewhere, and gives no secret away."""

import asyncio
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from certificates import Authority, put
from http_endpoint import HANGS, Endpoint, answer, connections, drip, listening
from turnout.auth.credentials import jwks
from turnout.auth.credentials.jwks import KeySet
from turnout.config import JwtIssuer
from turnout.errors import ConfigError
from turnout.outbound import HttpAnswer, Unanswered, ask
from turnout.rollout.analysis import http
from turnout.rollout.reporting import webhook
from turnout.telemetry.tracing import transport
from turnout.threads import Threads


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def asked():
    """Asks in a thread, as the server does."""
    threads = Threads("outbound")

    async def call(url: str, **given) -> HttpAnswer:
        bounds = {"headers": {}, "timeout_s": 60.0, "most_bytes": 1000} | given
        return await threads.run(lambda: ask(bounds.pop("method", "GET"), url, **bounds))

    yield call
    threads.shutdown()


async def test_an_answer_has_its_status_and_headers_whatever_they_are(asked) -> None:
    async with listening(Endpoint(answer(503, b"later", Retry_After="7"))) as endpoint:
        found = await asked(endpoint.url + "/a?b=c", method="POST", content=b"body", headers={"X-More": "more"})
    assert (found.status, found.body, found.headers["retry-after"]) == (503, b"later", "7")
    (request,) = endpoint.asked
    assert (request.method, request.target, request.body) == ("POST", "/a?b=c", b"body")
    assert (request.headers["user-agent"], request.headers["x-more"]) == ("turnout", "more")
    assert request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(asked, status) -> None:
    async with listening(Endpoint(answer(200))) as elsewhere:
        async with listening(Endpoint(answer(status, Location=elsewhere.url))) as endpoint:
            assert (await asked(endpoint.url, headers={"authorization": "Bearer hush"})).status == status
        assert elsewhere.asked == []


async def test_no_more_is_read_than_asked_for(asked) -> None:
    async with listening(Endpoint(answer(200, b"x" * 50_000_000))) as endpoint:
        assert (await asked(endpoint.url)).body == b"x" * 1000
    assert endpoint.sent < 50_000_000


@pytest.mark.parametrize(
    "says", [b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2", b""],
    ids=["a header", "a status", "everything"],
)  # fmt: skip
async def test_a_service_that_drips_its_headers_is_left_in_time(asked, says: bytes) -> None:
    gone = asyncio.Event()

    async def drip_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(says)
        try:
            for letter in b"HTTP/1.1 200 OK\r\nX-Long: ".ljust(60_000, b"x") if not says else b"0" * 60_000:
                writer.write(bytes([letter]))
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            gone.set()

    async with connections(drip_headers) as url:
        with pytest.raises(Unanswered) as dripped:
            await asyncio.wait_for(asked(url, timeout_s=1.0), 100)
        await asyncio.wait_for(gone.wait(), 100)
    assert dripped.value.kind == "TimeoutError"


async def test_what_hangs_or_drips_is_left_in_time(asked) -> None:
    async with listening(Endpoint(HANGS)) as endpoint:
        with pytest.raises(Unanswered) as hung:
            await asked(endpoint.url, timeout_s=0.2)
    assert hung.value.kind == "ReadTimeout"

    async with connections(drip) as url:
        with pytest.raises(Unanswered) as dripped:
            await asyncio.wait_for(asked(url, timeout_s=2.0, most_bytes=10**6), 100)
        assert (await asked(url, timeout_s=60.0, most_bytes=0)).status == 200
    assert dripped.value.kind == "TimeoutError"


@pytest.mark.parametrize(
    ("says", "kind"),
    [(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "RemoteProtocolError"), (b"", "RemoteProtocolError")],
    ids=["nonsense", "hangs up"],
)
async def test_what_is_no_answer_is_told_in_a_word(asked, says, kind) -> None:
    async with listening(Endpoint(says)) as endpoint:
        with pytest.raises(Unanswered) as found:
            await asked(endpoint.url)
    assert found.value.kind == kind
    with pytest.raises(Unanswered) as found:
        await asked(endpoint.url)
    assert found.value.kind == "ConnectError"


@pytest.mark.parametrize("secret", ["hush\r\nX-More: 1", "hush\0", "hush\u20ac"])
async def test_the_word_holds_no_header(asked, secret) -> None:
    async with listening(Endpoint(answer(200))) as endpoint:
        with pytest.raises(Unanswered) as found:
            await asked(endpoint.url, headers={"authorization": secret})
        assert "hush" not in found.value.kind
        assert (await asked(endpoint.url)).status == 200
    assert ["authorization" in request.headers for request in endpoint.asked] == [False]


async def test_a_proxy_of_the_environment_is_asked_but_for_hosts_that_it_is_not_for(asked, monkeypatch) -> None:
    async with listening(Endpoint(answer(200, b"proxy"))) as proxy, listening(Endpoint(answer(200, b"own"))) as own:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert (await asked("http://service.example/path")).body == b"proxy"
        assert proxy.asked[0].target == "http://service.example/path"
        for url in (own.url, own.url.replace("127.0.0.1", "localhost")):
            assert (await asked(url)).body == b"own"
        monkeypatch.setenv("no_proxy", "service.invalid")
        with pytest.raises(Unanswered):
            await asked("http://service.invalid")
        assert len(proxy.asked) == 1


async def test_a_proxy_that_cannot_be_used_is_told(asked, monkeypatch) -> None:
    for proxy, kind in (("socks5://127.0.0.1:9", "ProxyError"), ("gopher://127.0.0.1", "ValueError")):
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(Unanswered) as found:
            await asked("http://service.example")
        assert found.value.kind == kind


async def test_a_service_is_trusted_by_the_authorities_that_are_given(asked, tmp_path: Path) -> None:
    authority = Authority.make()
    issued = authority.issue()
    ca = put(tmp_path / "ca.pem", authority.pem)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*issued.write(tmp_path, "own"))
    async with listening(Endpoint(answer(200, b"hello")), tls=tls) as endpoint:
        with pytest.raises(Unanswered) as found:
            await asked(endpoint.url)
        assert found.value.kind == "ConnectError"
        assert (await asked(endpoint.url, ca_file=str(ca))).body == b"hello"
        with pytest.raises(Unanswered) as found:
            await asked(endpoint.url, ca_file=str(tmp_path / "none.pem"))
        assert found.value.kind == "FileNotFoundError"


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (answer(302, Location="http://127.0.0.1:9"), "it answers 302, and redirects are not followed"),
        (answer(404), "it answers 404"),
        (answer(200, b" " * (1 << 20) + b"{}"), "is larger than 1 MiB"),
        (b"", "cannot be read: Server disconnected"),
    ],
    ids=["redirect", "not found", "too large", "hangs up"],
)
async def test_keys_that_cannot_be_had_are_told_by_why(says, why) -> None:
    threads = Threads("keys")
    try:
        async with listening(Endpoint(says)) as endpoint:
            keys = KeySet("corp", JwtIssuer(issuer="https://corp", audience=["a"], jwks=endpoint.url))
            with pytest.raises(ConfigError, match=why):
                await threads.run(keys.fetch)
            assert len(endpoint.asked) == 1
    finally:
        threads.shutdown()


def test_nobody_imports_the_client_before_it_asks() -> None:
    asking = [jwks, webhook, http, transport]
    program = f"import sys, {', '.join(one.__name__ for one in asking)}; print('httpx' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"
