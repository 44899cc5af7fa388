"""Issuers of JWTs whose keys do not come, or are not what they should be: by real listeners and a real web server."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from auth_wire import AUTH, Issuer, bearer, grant, serving_keys, write_keys, write_policy
from onnx_models import scaled
from published import Publish
from started_servers import StartServer
from turnout.app.server import Running
from turnout.auth.credentials.jwks import read_keys
from turnout.config.files import stamp_of
from turnout.errors import ConfigError
from turnout_proto.v1 import prediction_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import X, request

BOUND = 60.0
GOOD = Issuer(kid="good")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not holds():
            await asyncio.sleep(0.01)


async def predicted(server: Running, token: str) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        try:
            await PredictionServiceStub(channel).Predict(request("fraud", x=X), metadata=bearer(token), timeout=BOUND)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@contextmanager
def hanging_on_request(keys: Issuer) -> Iterator[tuple[str, list[str], threading.Event]]:
    """A web server with keys. Yields its address, the requests that hang, and what makes further ones hang."""
    hanging: list[str] = []
    hang, end = threading.Event(), threading.Event()

    def answer(path: str) -> tuple[int, list[Issuer]]:
        if hang.is_set():
            hanging.append(path)
            end.wait(BOUND)
        return 200, [keys]

    with serving_keys(answer) as address:
        try:
            yield address, hanging, hang
        finally:
            end.set()


@pytest.mark.parametrize("what", ["issuers", "policy"])
async def test_an_issuer_or_a_file_that_hangs_holds_up_nothing_else(
    tmp_path: Path, publish_model: Publish, start_server: StartServer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    publish_model("fraud", "1.0.0", scaled(2.0))
    monkeypatch.setattr("turnout.auth.credentials.jwks._FETCH_SECONDS", 10 * BOUND)
    policy, read = tmp_path / "policy.toml", grant(["jwt:corp/*"], ["predict", "read"])
    write_policy(policy, grant(["jwt:corp/ann"], ["predict", "read"]))
    corp = Issuer()
    settings = {"audience": ["turnout"], "leeway_s": 0}
    stuck, released = threading.Event(), threading.Event()

    def stamp(path: str) -> Any:
        if what == "policy":
            stuck.set()
            released.wait(BOUND)
        return stamp_of(path)

    with hanging_on_request(corp) as (url, hanging, hang):
        others = {
            name: {**settings, "issuer": f"https://{name}.example.org", "jwks": f"{url}/{name}", "refresh_s": 1}
            for name in ("first", "second")
        }
        own = {**settings, "issuer": corp.name, "jwks": write_keys(tmp_path / "keys.json", corp)}
        server = await start_server(auth={**AUTH, "policy": str(policy), "jwt": {**others, "corp": own}})
        async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
            soon = corp.sign("ann", exp=int(time.time()) + 5)
            stream = PredictionServiceStub(channel).PredictStream(metadata=bearer(soon))
            await stream.write(pb.PredictStreamRequest(request=request("fraud", request_id="r", x=X)))
            assert (await stream.read()).HasField("response")
            monkeypatch.setattr("turnout.auth.authority.stamp_of", stamp)
            if what == "issuers":
                hang.set()
            await until(lambda: len(set(hanging)) == len(others) if what == "issuers" else stuck.is_set())
            assert await predicted(server, corp.sign("ann", jti="new")) is grpc.StatusCode.OK
            async with asyncio.timeout(BOUND / 2):  # the hanging ones go on for longer
                assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED, "it ends with the JWT that opened it"
            if what == "issuers":
                write_policy(policy, read)
                while await predicted(server, corp.sign("eve")) is not grpc.StatusCode.OK:
                    await asyncio.sleep(0.01)
        released.set()


async def test_keys_that_do_not_come_for_long_count_as_failed(
    tmp_path: Path, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout.auth.credentials.jwks._FETCH_SECONDS", 10 * BOUND)
    monkeypatch.setattr("turnout.auth.credentials.key_fetcher._LONGEST_FETCH", 0.2)
    corp = Issuer()
    policy = write_policy(tmp_path / "policy.toml", grant(["anonymous"], ["read"]))
    with hanging_on_request(corp) as (url, _, hang):
        hang.set()
        issuer = {"issuer": corp.name, "audience": ["turnout"], "jwks": url}
        server = await start_server(auth={**AUTH, "policy": policy, "jwt": {"corp": issuer}})
        async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
            assert 'turnout_auth_keys_failing{issuer="corp"} 1.0' in (await client.get("/metrics")).text


ODD: list[Any] = [None, 0, -1, 1.5, True, [], {}, "", "A", "é", "none", "HS256", "X25519", ["verify"], [[]], 10**400]


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_a_key_that_cannot_be_read_is_left_out_and_the_others_are_not(algorithm: str, odd: Any) -> None:
    usual = Issuer(algorithm=algorithm).public
    for name in {*usual, "key_ops", "x5c", "d"}:
        document = {"keys": [{**usual, name: odd}, GOOD.public]}
        assert "good" in read_keys(json.dumps(document).encode(), "keys"), name


@pytest.mark.parametrize("document", [b"[]", b"1", b'{"keys": 1}', b"[" * 100_000, b"\xff", b'{"keys": [[], null, 1]}'])
def test_what_is_no_set_of_keys_is_told_so(document: bytes) -> None:
    with pytest.raises(ConfigError, match="here"):
        read_keys(document, "here")


@pytest.mark.parametrize("kid", ["same", ""], ids=["one-id", "no-id"])
async def test_keys_that_share_an_id_or_have_none_are_rotated_without_a_refusal(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, kid: str
) -> None:
    monkeypatch.setattr("turnout.auth.credentials.jwks._LEAST_BETWEEN", 0.0)
    old, new, other = Issuer(kid=kid), Issuer(kid=kid), Issuer(kid=kid, algorithm="RS256")
    published = [old]
    with serving_keys(lambda _: (200, published)) as url:
        settings = {"issuer": old.name, "audience": ["turnout"], "algorithms": ["ES256", "RS256"], "refresh_s": 3600}
        server = await start_server(auth=AUTH | {"jwt": {"corp": settings | {"jwks": url}}})
        for number, published[:] in enumerate(([old], [other, new, old], [new, other], [other], [new])):
            await predicted(server, Issuer(kid="unknown").sign())  # has the keys fetched
            known = [any(issuer is one for one in published) for issuer in (old, new, other)]
            for expected, issuer in sorted(zip(known, (old, new, other), strict=True), key=lambda pair: not pair[0]):
                code = await predicted(server, issuer.sign(jti=str(number)))
                accepted = code is not grpc.StatusCode.UNAUTHENTICATED  # who is known, but lacks a grant, is not that
                assert accepted is expected, (number, code)
