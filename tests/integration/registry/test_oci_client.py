"""What is asked of a container registry: who gets to see the login, and what no answer may take."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from http_endpoint import Asked, Endpoint, answer, connections, drip, listening
from turnout.config import RepositoryUrl
from turnout.registry.remote.oci import OciStore
from turnout.registry.remote.oci_client import OciClient
from turnout.registry.storage.faults import StoreFault
from turnout.threads import Threads

pytest.importorskip("oras")

Asks = Callable[..., Any]

AUTH = base64.b64encode(b"ada:secret").decode()
BASIC = f"Basic {AUTH}"


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"registry.test": {"auth": AUTH}}}))


@pytest.fixture
async def asked() -> AsyncIterator[Asks]:
    """Asks a registry in a thread."""
    threads = Threads("oci")

    async def call(endpoint: Endpoint, method: str, *args: Any, seconds: float = 60.0, **named: Any) -> Any:
        with closing(OciClient(RepositoryUrl("oci", "registry.test", "models"), endpoint.url, seconds)) as client:
            return await threads.run(partial(getattr(client, method), *args, **named))

    yield call
    threads.shutdown()


def challenged(then: Callable[[Asked], bytes]) -> Callable[[Asked], bytes]:
    """Returns what asks for a login first."""

    def says(request: Asked) -> bytes:
        if request.headers.get("authorization") == BASIC:
            return then(request)
        return answer(401, WWW_Authenticate='Basic realm="registry"')

    return says


@pytest.mark.usefixtures("login")
async def test_the_login_is_for_the_registry_and_for_nobody_else_on_its_host(asked: Asks) -> None:
    async with listening(Endpoint(answer(201))) as other, listening(Endpoint()) as registry:
        registry.says = challenged(lambda _: answer(202, Location=f"{other.url}/upload"))
        begun = await asked(registry, "ask", "POST", "blobs/uploads/", expect=(202,))
        assert registry.asked[-1].headers["authorization"] == BASIC
        with closing(OciClient(RepositoryUrl("oci", "registry.test", "models"), registry.url, 60.0)) as client:
            client._login.headers = {"authorization": BASIC}
            location = httpx.URL(begun.headers["location"])
            assert "authorization" not in client._request("PUT", location, b"", None).headers
            own = httpx.URL(f"{registry.url}/upload")
            assert client._request("PUT", own, b"", None).headers["authorization"] == BASIC
            assert "authorization" not in client._request("PUT", own.copy_with(scheme="https"), b"", None).headers


@pytest.mark.usefixtures("login")
@pytest.mark.parametrize("kind", ["Basic", "Bearer"])
async def test_where_a_redirect_leads_nobody_may_ask_for_the_login(asked: Asks, kind: str) -> None:
    async with listening(Endpoint()) as other, listening(Endpoint()) as registry:
        other.says = answer(401, WWW_Authenticate=f'{kind} realm="{other.url}/token",service="x"')
        registry.says = challenged(lambda _: answer(307, Location=f"{other.url}/blob"))
        for call in (("ask", "GET", "blobs/x"), ("beginning", "blobs/x", 10)):
            with pytest.raises(StoreFault, match="401"):
                await asked(registry, *call, **({"expect": (200,)} if call[0] == "ask" else {}))
        assert {request.target for request in other.asked} == {"/blob"}
        assert not any("authorization" in request.headers for request in other.asked)


@pytest.mark.usefixtures("login")
async def test_a_token_is_not_fetched_in_plain_text_for_a_registry_that_is_asked_over_https() -> None:
    async with listening(Endpoint(answer(200, {"token": "t"}))) as elsewhere:
        challenge = httpx.Response(401, headers={"www-authenticate": f'Bearer realm="{elsewhere.url}",service="x"'})
        client = OciClient(RepositoryUrl("oci", "registry.test", "models"), "", 60.0)
        with closing(client), pytest.raises(StoreFault, match="plain text"):
            client._login.renew(challenge, secure=True)
        assert not elsewhere.asked


@pytest.mark.usefixtures("login")
async def test_a_token_takes_no_memory_without_bound(asked: Asks) -> None:
    async with listening(Endpoint()) as registry:

        def says(request: Asked) -> bytes:
            if request.target.startswith("/token"):
                return answer(200, b'{"token": "' + b"x" * (64 << 20))
            return answer(401, WWW_Authenticate=f'Bearer realm="{registry.url}/token",service="x"')

        registry.says = says
        with pytest.raises(StoreFault, match="more than"):
            await asked(registry, "ask", "GET", "tags/list", expect=(200,))
        assert registry.sent < 32 << 20


@pytest.mark.parametrize("call", [("ask", "GET", "tags/list"), ("beginning", "blobs/x", 1 << 20)])
async def test_an_answer_that_drips_is_left_in_time(asked: Asks, call: tuple[Any, ...]) -> None:
    async with connections(drip) as url:
        registry = Endpoint(url=url)
        expected = {"expect": (200,)} if call[0] == "ask" else {}
        with pytest.raises(StoreFault, match="takes more than"):
            await asyncio.wait_for(asked(registry, *call, seconds=1.0, **expected), 100)


@pytest.mark.usefixtures("login")
async def test_a_proxy_of_the_environment_is_asked_for_other_machines_only(
    asked: Asks, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        listening(Endpoint(answer(200, b"far"))) as proxy,
        listening(Endpoint(answer(200, {"token": "t"}))) as tokens,
        listening(Endpoint()) as registry,
    ):
        for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)

        def says(request: Asked) -> bytes:
            if request.headers.get("authorization") == "Bearer t":
                return answer(307, Location="http://storage.example/blob")
            return answer(401, WWW_Authenticate=f'Bearer realm="{tokens.url}/token",service="x",scope="y"')

        registry.says = says
        assert await asked(registry, "beginning", "blobs/x", 100) == b"far"
        assert [request.target for request in proxy.asked] == ["http://storage.example/blob"]
        assert len(registry.asked) == 2
        assert tokens.asked


def _store(endpoint: Endpoint) -> OciStore:
    return OciStore(RepositoryUrl("oci", "registry.test", "models"), endpoint.url, 60.0, 100, 1.0)


async def test_pages_of_tags_follow_the_registrys_links() -> None:
    """What follows the last tag is known to the registry alone: some name a token, and leave pages empty."""
    pages = {
        "n=1000": (["a"], 'Link: <http://inside:5000/v2/models/tags/list?n=1000&next_page=x%3D1>; rel="next"'),
        "n=1000&next_page=x%3D1": ([], 'Link: </v2/models/tags/list?next_page=y>; rel="next"'),
        "next_page=y": (["b"], "X-Last: yes"),
    }

    def says(request: Asked) -> bytes:
        tags, header = pages[request.target.partition("?")[2]]
        name, _, value = header.partition(": ")
        return answer(200, {"tags": tags}, **{name: value})

    async with listening(Endpoint(says)) as registry:
        with closing(_store(registry)) as store:
            assert await asyncio.to_thread(store._tags) == ["a", "b"]
        assert len(registry.asked) == 3


async def test_a_listing_of_tags_that_does_not_end_is_left() -> None:
    next_one = '</v2/models/tags/list?next_page=x>; rel="next"'
    async with listening(Endpoint(answer(200, {"tags": []}, Link=next_one))) as registry:
        with closing(_store(registry)) as store, pytest.raises(StoreFault, match="does not end"):
            await asyncio.wait_for(asyncio.to_thread(store._tags), 100)


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_download_goes_on_where_its_connection_was_lost(ranges: bool) -> None:
    content = bytes(range(256)) * 64

    def says(request: Asked) -> bytes:
        start = int(request.headers.get("range", "bytes=0-")[6:-1]) if ranges else 0
        whole = answer(206 if start else 200, content[start:])
        return whole[: -len(content[start:]) // 2 - 1] if len(registry.asked) <= 3 else whole

    async with listening(Endpoint(says)) as registry:
        with closing(_store(registry)) as store:
            blocks = await asyncio.to_thread(lambda: list(store.read_blob("sha256:x", len(content))))
        assert b"".join(blocks) == content
        assert len(registry.asked) == 4


async def test_a_registry_that_asks_for_more_time_than_there_is_is_not_asked_again() -> None:
    async with listening(
        Endpoint(answer(429, {"errors": [{"code": "TOOMANYREQUESTS"}]}, Retry_After="600"))
    ) as registry:
        with closing(_store(registry)) as store, pytest.raises(StoreFault, match="429 TOOMANYREQUESTS"):
            await asyncio.to_thread(store._tags)
        assert len(registry.asked) == 1
