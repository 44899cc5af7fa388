"""Who is let in, by what, and what becomes of them when that changes: by real listeners, certificates and tokens."""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from cryptography import x509
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from numpy.typing import NDArray

from auth_wire import AUTH, Issuer, bearer, grant, make_token, revoke_token, serving_keys, write_keys, write_policy
from certificates import UNREADABLE_NAMES, Authority, put
from onnx_models import repeats, scaled
from published import Publish
from started_servers import StartServer
from turnout.app.server import Running
from turnout.auth.credentials.jwks import read_keys
from turnout.config import Address, Settings
from turnout.errors import ConfigError
from turnout.state.store import StateStore
from turnout_client import AsyncClient, PermissionDenied, Tls, Unauthenticated
from turnout_proto.oip import inference_pb2
from turnout_proto.v1 import catalog_pb2, control_pb2, registry_pb2, servers_pb2, traffic_pb2
from turnout_proto.v1 import prediction_pb2 as pb
from turnout_proto.v1.catalog_pb2_grpc import CatalogServiceStub
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from turnout_proto.v1.registry_pb2_grpc import RegistryServiceStub
from wire import X, refusal, request

BOUND = 100.0
SPIFFE = "spiffe://example.org/ns/prod/web"


@pytest.fixture
def one_model(publish_model: Publish) -> None:
    publish_model("fraud", "1.0.0", scaled(2.0))


async def until(holds: Callable[[], Any]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(BOUND):
        while True:
            found = holds()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.01)


def infer_request(model: str, x: NDArray[np.float32]) -> inference_pb2.ModelInferRequest:
    """Makes a request of the Open Inference Protocol."""
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=x.shape)
    return inference_pb2.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[x.tobytes()])


def model_infer(channel: grpc.aio.Channel) -> Any:
    """Returns what calls `ModelInfer` by the name that the protocol's clients use."""
    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        inference_pb2.ModelInferRequest.SerializeToString,
        inference_pb2.ModelInferResponse.FromString,
    )


@asynccontextmanager
async def channel_to(address: Address) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(str(address)) as channel:
        yield channel


async def predicted(server: Running, credential: str, model: str = "fraud") -> grpc.StatusCode:
    """Returns the status of a prediction for the bearer of a token or JWT; "" shows none."""
    async with channel_to(server.grpc) as channel:
        try:
            await PredictionServiceStub(channel).Predict(request(model, x=X), metadata=bearer(credential))
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def metric_series(server: Running, name: str, token: str) -> dict[str, float]:
    """Returns a metric's series, by their labels."""
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        text = (await client.get("/metrics", headers=dict(bearer(token)))).text
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (.*)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


# Tokens.


@pytest.mark.both_transports
@pytest.mark.usefixtures("one_model")
async def test_a_token_holds_from_when_it_is_made_until_it_is_revoked(models: Path, start_server: StartServer) -> None:
    server = await start_server(auth=AUTH)
    assert await predicted(server, "") is grpc.StatusCode.UNAUTHENTICATED
    token = make_token(models, "web", ["predict"], ["fraud"])

    async def answered() -> bool:
        return await predicted(server, token) is grpc.StatusCode.OK

    await until(answered)
    assert await predicted(server, token, "other") is grpc.StatusCode.PERMISSION_DENIED
    assert await predicted(server, token.replace("turnout_", "Turnout_")) is grpc.StatusCode.UNAUTHENTICATED
    revoke_token(models, "web")

    async def refused() -> bool:
        return await predicted(server, token) is grpc.StatusCode.UNAUTHENTICATED

    await until(refused)


@pytest.mark.both_transports
@pytest.mark.usefixtures("one_model")
async def test_a_call_with_two_tokens_is_nobodys_whatever_they_are_and_in_whatever_order(
    models: Path, start_server: StartServer
) -> None:
    token, other = (make_token(models, name, ["predict"], ["fraud"]) for name in ("web", "other"))
    server = await start_server(auth=AUTH)
    async with channel_to(server.grpc) as channel, httpx.AsyncClient(base_url=f"http://{server.http}") as http:
        for two in ([token, other], [token, "wrong"], ["wrong", token], [token, token]):
            given = [("authorization", f"Bearer {one}") for one in two]
            refused = await refusal(PredictionServiceStub(channel).Predict(request("fraud", x=X), metadata=given))
            assert refused.code is grpc.StatusCode.UNAUTHENTICATED
            stream = PredictionServiceStub(channel).PredictStream(metadata=given)
            assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED
            assert (await http.get("/v2/models/fraud", headers=given)).status_code == 401


@pytest.mark.parametrize(("operations", "usable"), [(["verify"], True), (["encrypt"], False), ("verify", False)])
def test_a_key_is_for_what_its_set_says(operations: object, usable: bool) -> None:
    named, other = Issuer(kid="1").public | {"key_ops": operations}, Issuer(kid="2").public
    found = read_keys(json.dumps({"keys": [named, other]}).encode(), "here")
    assert ("1" in found) is usable
    assert "2" in found


@pytest.mark.both_transports
@pytest.mark.usefixtures("one_model")
@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_a_stream_ends_when_its_callers_time_is_up(
    models: Path, start_server: StartServer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = make_token(models, "web", ["predict"], ["fraud"], ends_in=timedelta(hours=1))
    watcher = make_token(models, "watcher", ["read"], ["*"])
    server = await start_server(auth=AUTH)
    async with channel_to(server.grpc) as channel:
        stream = PredictionServiceStub(channel).PredictStream(metadata=bearer(token))
        await stream.write(pb.PredictStreamRequest(request=request("fraud", request_id="1", x=X)))
        assert (await stream.read()).HasField("response")
        if how == "revoked":
            revoke_token(models, "web")
        else:
            monkeypatch.setattr(server.parts.base.authority, "_clock", lambda: time.time() + 3601)
        with pytest.raises(grpc.aio.AioRpcError, match="has expired or was revoked"):
            async with asyncio.timeout(BOUND):
                await stream.read()
        assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (await metric_series(server, "turnout_auth_refused_total", watcher))['reason="ended"'] == 1


@pytest.mark.both_transports
@pytest.mark.usefixtures("one_model")
async def test_each_message_of_a_stream_is_about_a_model_of_its_own(models: Path, start_server: StartServer) -> None:
    token = make_token(models, "web", ["predict"], ["fraud"])
    server = await start_server(auth=AUTH)
    async with channel_to(server.grpc) as channel:
        stream = PredictionServiceStub(channel).PredictStream(metadata=bearer(token))
        codes = {}
        for model in ("fraud", "other", "fraud"):
            await stream.write(pb.PredictStreamRequest(request=request(model, request_id="r", x=X)))
            codes.setdefault(model, []).append((await stream.read()).error.code)
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
    assert codes == {"fraud": [0, 0], "other": [grpc.StatusCode.PERMISSION_DENIED.value[0]]}


@pytest.mark.usefixtures("one_model")
async def test_clients_of_both_kinds_show_their_token_and_are_told_why_they_are_refused(
    models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    file = tmp_path / "token"
    file.write_text(make_token(models, "web", ["predict"], ["fraud"]) + "\n")
    server = await start_server(auth=AUTH)
    for transport in ("unary", "stream"):
        async with AsyncClient(str(server.grpc), token=file.read_text().strip(), transport=transport) as client:
            assert ((await client.predict("fraud", {"x": X}))["y"] == 2 * X).all()
            with pytest.raises(PermissionDenied, match="lacks the role predict on the model 'other'"):
                await client.predict("other", {"x": X})
        async with AsyncClient(str(server.grpc), transport=transport, retries=0) as client:
            with pytest.raises(Unauthenticated, match="authentication is required"):
                await client.predict("fraud", {"x": X})


# Certificates.


@pytest.mark.usefixtures("one_model")
async def test_certificates_name_their_bearer_by_uri_or_dns_name(
    tmp_path: Path, models: Path, start_server: StartServer
) -> None:
    authority = Authority.make()
    cert, key = authority.issue().write(tmp_path, "server")
    ca = str(put(tmp_path / "ca.pem", authority.pem))
    policy = write_policy(
        tmp_path / "policy.toml", grant(["spiffe://example.org/*", "dns:web.example.org"], ["predict"])
    )
    tls = {"cert": str(cert), "key": str(key), "client_ca": ca, "client_certificates": "required"}
    server = await start_server(
        auth={**AUTH, "policy": policy}, tls=tls | {"http": {"client_certificates": "optional"}}
    )
    names = {
        "uri": (x509.UniformResourceIdentifier(SPIFFE), x509.DNSName("elsewhere.example.org")),
        "dns": (x509.DNSName("WEB.example.org"),),
        "other": (x509.UniformResourceIdentifier("spiffe://example.com/web"),),
        "none": (),
    }
    certificates = {name: authority.issue(name, hosts=(), san=san) for name, san in names.items()}
    certificates["unreadable"] = authority.issue("unreadable", hosts=(), extensions=(UNREADABLE_NAMES,))
    answers = {}
    for name, own in certificates.items():
        shown_cert, shown_key = own.write(tmp_path, f"client-{name}")
        client_tls = Tls(ca=ca, cert=str(shown_cert), key=str(shown_key))
        for listener in ("grpc", "control"):  # h2corn, grpcio
            async with AsyncClient(f"localhost:{getattr(server, listener).port}", tls=client_tls, retries=0) as client:
                try:
                    await client.predict("fraud", {"x": X})
                    answers.setdefault(name, set()).add("answered")
                except (PermissionDenied, Unauthenticated) as error:
                    answers.setdefault(name, set()).add(type(error).__name__)
        context = client_tls.context()
        context.set_alpn_protocols(["http/1.1"])
        async with httpx.AsyncClient(base_url=f"https://localhost:{server.http.port}", verify=context) as http:
            status = (await http.post("/predict/fraud", json={"inputs": {"x": X.tolist()}})).status_code
            answers[name].add({200: "answered", 403: "PermissionDenied", 401: "Unauthenticated"}[status])
    assert answers == {
        "uri": {"answered"}, "dns": {"answered"}, "other": {"PermissionDenied"}, "none": {"Unauthenticated"},
        "unreadable": {"Unauthenticated"},
    }  # fmt: skip


# JWTs.


@pytest.fixture
def key_server() -> Iterator[tuple[str, dict[str, Any]]]:
    """A web server that tells keys; `state` says which, and whether it answers at all."""
    state: dict[str, Any] = {"keys": [], "up": True, "asked": 0}

    def answer(_: str) -> tuple[int, list[Issuer]]:
        state["asked"] += 1
        return 200 if state["up"] else 503, state["keys"]

    with serving_keys(answer) as address:
        yield f"{address}/keys", state


def jwt_settings(jwks: str, **more: Any) -> dict[str, Any]:
    issuer = {"issuer": Issuer.name, "audience": ["turnout"], "jwks": jwks, "leeway_s": 0, "groups_claim": "groups"}
    return {**AUTH, "jwt": {"corp": issuer | more}}


@pytest.mark.both_transports
@pytest.mark.usefixtures("one_model")
@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_a_jwt_is_believed_if_all_of_it_is_right(
    tmp_path: Path, start_server: StartServer, algorithm: str
) -> None:
    issuer, stranger = Issuer(algorithm=algorithm), Issuer(algorithm=algorithm)
    policy = write_policy(
        tmp_path / "policy.toml", grant(["jwt:corp/ann"], ["predict"]), grant(["group:corp/ml"], ["predict"])
    )
    settings = jwt_settings(write_keys(tmp_path / "keys.json", issuer)) | {"policy": policy}
    server = await start_server(auth=settings)
    past, coming = datetime.now(UTC) - timedelta(seconds=5), datetime.now(UTC) + timedelta(hours=1)
    ok, nobody, denied = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
    none = issuer.sign().split(".")
    cases = {
        issuer.sign(): ok,
        issuer.sign("bob", groups=["ml", "web"]): ok,
        issuer.sign("bob", aud=["other", "turnout"]): denied,
        issuer.sign(exp=past): nobody,
        issuer.sign(exp=None): nobody,
        issuer.sign(nbf=coming): nobody,
        issuer.sign(aud="other"): nobody,
        issuer.sign(aud=None): nobody,
        issuer.sign(iss="https://elsewhere.example.org"): nobody,
        issuer.sign(sub=None): nobody,
        issuer.sign(sub=7): nobody,
        issuer.sign(exp=float("inf")): nobody,
        issuer.sign(exp="soon"): nobody,
        issuer.sign(exp=10**400): nobody,  # more than a float holds
        issuer.sign(headers={"crit": ["b64"], "b64": True}): nobody,
        issuer.sign(headers={"kid": "unknown"}): nobody,
        stranger.sign(): nobody,
        f"eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.{none[1]}.": nobody,
        ".".join((none[0], none[1], none[2][::-1])): nobody,
        "not.a.jwt": nobody,
        "." * 5_000: nobody,
    }
    for token, expected in cases.items():
        assert await predicted(server, token) is expected, token[:300]


@pytest.mark.usefixtures("one_model")
async def test_keys_are_rotated_and_kept_while_they_cannot_be_fetched(
    tmp_path: Path, start_server: StartServer, key_server: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout.auth.credentials.jwks._LEAST_BETWEEN", 0.0)
    url, state = key_server
    first, second = Issuer(kid="1"), Issuer(kid="2")
    policy = write_policy(tmp_path / "policy.toml", grant(["jwt:corp/ann"], ["predict", "read"]))
    state["keys"] = [first]
    server = await start_server(auth=jwt_settings(url, refresh_s=3600) | {"policy": policy})
    old = first.sign()
    assert await predicted(server, old) is grpc.StatusCode.OK
    assert await predicted(server, second.sign()) is grpc.StatusCode.UNAUTHENTICATED
    state["keys"] = [first, second]
    assert await predicted(server, second.sign()) is grpc.StatusCode.OK, "an unknown key is asked for at once"
    state["up"] = False
    assert await predicted(server, Issuer(kid="3").sign()) is grpc.StatusCode.UNAUTHENTICATED
    assert (await metric_series(server, "turnout_auth_keys_failing", old))['issuer="corp"'] == 1
    assert await predicted(server, first.sign("ann", jti="new")) is grpc.StatusCode.OK, "the keys before stay in force"
    assert await predicted(server, second.sign("ann", jti="new")) is grpc.StatusCode.OK
    state.update(up=True, keys=[second])
    assert await predicted(server, Issuer(kid="4").sign()) is grpc.StatusCode.UNAUTHENTICATED
    assert await predicted(server, old) is grpc.StatusCode.UNAUTHENTICATED, "its key is gone, and so is its bearer"
    assert await predicted(server, second.sign()) is grpc.StatusCode.OK


@pytest.mark.usefixtures("one_model")
async def test_made_up_keys_cost_few_fetches(
    start_server: StartServer, key_server: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout.auth.credentials.jwks._LEAST_BETWEEN", 1000.0)  # whatever the machine takes for them
    url, state = key_server
    state["keys"] = [Issuer()]
    server = await start_server(auth=jwt_settings(url))
    codes = await asyncio.gather(*(predicted(server, Issuer(kid=f"made up {n}").sign()) for n in range(20)))
    assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED}
    assert state["asked"] <= 2


# Loopback, anonymous callers, and nobody at all.


@pytest.mark.both_transports
@pytest.mark.usefixtures("one_model")
async def test_loopback_is_somebody_only_where_that_is_configured(models: Path, start_server: StartServer) -> None:
    weak = make_token(models, "weak", ["predict"], ["other"])
    trusting = await start_server(auth=AUTH | {"loopback": True})
    assert await predicted(trusting, "") is grpc.StatusCode.OK
    assert await predicted(trusting, weak) is grpc.StatusCode.PERMISSION_DENIED, "who shows something is taken by it"
    assert await predicted(trusting, "wrong") is grpc.StatusCode.UNAUTHENTICATED
    async with httpx.AsyncClient(base_url=f"http://{trusting.http}") as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/console")).status_code == 200


@pytest.mark.usefixtures("one_model")
async def test_what_is_granted_to_anonymous_is_for_everybody_and_no_more(
    tmp_path: Path, start_server: StartServer
) -> None:
    policy = write_policy(tmp_path / "policy.toml", grant(["anonymous"], ["predict"], ["fraud"]))
    server = await start_server(auth=AUTH | {"policy": policy, "anonymous_metrics": True})
    assert await predicted(server, "") is grpc.StatusCode.OK
    assert await predicted(server, "", "other") is grpc.StatusCode.UNAUTHENTICATED
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/v2/models/fraud")).status_code == 200
        assert (await client.get("/console/models/fraud")).status_code == 303


# The policy file.


@pytest.mark.usefixtures("one_model")
async def test_a_policy_that_changes_holds_at_once_and_a_wrong_one_changes_nothing(
    tmp_path: Path, models: Path, start_server: StartServer
) -> None:
    issuer, file = Issuer(), tmp_path / "policy.toml"
    reader = make_token(models, "reader", ["read"], ["*"])
    policy = write_policy(file, grant(["jwt:corp/*"], ["predict"]))
    server = await start_server(
        auth=jwt_settings(write_keys(tmp_path / "keys.json", issuer)) | {"policy": policy, "poll_interval_s": 0.02}
    )
    token = issuer.sign()
    assert await predicted(server, token) is grpc.StatusCode.OK
    async with channel_to(server.grpc) as channel, httpx.AsyncClient(base_url=f"http://{server.http}") as http:
        stream = PredictionServiceStub(channel).PredictStream(metadata=bearer(token))

        async def asked() -> int:
            await stream.write(pb.PredictStreamRequest(request=request("fraud", request_id="r", x=X)))
            return int((await stream.read()).error.code)

        assert await asked() == 0
        write_policy(file, "[[grant]]", 'identities = ["jwt:corp/*"]', 'roles = ["predit"]', 'models = ["*"]')

        async def failing() -> bool:
            return (await metric_series(server, "turnout_auth_policy_reload_failing", reader))[""] == 1

        await until(failing)
        assert "the policy file cannot be used" in (await http.get("/readyz")).text
        assert await asked() == 0, "the policy before stays in force"
        write_policy(file, grant(["jwt:corp/bob"], ["predict"]))

        async def refused() -> bool:
            return await asked() == grpc.StatusCode.PERMISSION_DENIED.value[0]

        await until(refused)  # on the stream that was open all the while
        assert "policy file" not in (await http.get("/readyz")).text
        assert await predicted(server, token) is grpc.StatusCode.PERMISSION_DENIED
        assert await predicted(server, issuer.sign("bob")) is grpc.StatusCode.OK
        assert (await metric_series(server, "turnout_auth_policy_reloads_total", reader))[""] == 1


@pytest.mark.both_transports
@pytest.mark.usefixtures("one_model")
async def test_a_policy_that_changes_holds_for_each_message_of_every_open_stream(
    tmp_path: Path, models: Path, start_server: StartServer
) -> None:
    issuer, file = Issuer(), tmp_path / "policy.toml"
    operator = bearer(make_token(models, "operator", ["operate"]))
    policy = write_policy(file, grant(["jwt:corp/*"], ["publish"]))
    server = await start_server(
        auth=jwt_settings(write_keys(tmp_path / "keys.json", issuer)) | {"policy": policy, "poll_interval_s": 0.02}
    )
    named = bearer(issuer.sign())
    files = [registry_pb2.AnnouncedFile(path="model.onnx", size=10, digest=f"sha256:{'0' * 64}")]
    async with channel_to(server.control) as control, channel_to(server.grpc) as data:
        registry = RegistryServiceStub(control)
        watch = HealthStub(data).Watch(HealthCheckRequest(service="model:fraud"), metadata=named)
        assert (await watch.read()).status == HealthCheckResponse.SERVING
        announced = registry_pb2.BeginUploadRequest(model="fraud", version="2.0.0", files=files)
        upload = (await registry.BeginUpload(announced, metadata=named)).upload_id
        sending = registry.UploadFiles(metadata=named)
        chunks = (registry_pb2.FileChunk(file=0, offset=n, data=b"x") for n in range(10))
        await sending.write(registry_pb2.UploadFilesRequest(upload_id=upload, chunk=next(chunks)))
        write_policy(file, grant(["jwt:corp/bob"], ["publish"]))

        async def refused() -> bool:
            asked = CatalogServiceStub(data).GetModel(catalog_pb2.GetModelRequest(model="fraud"), metadata=named)
            return await asked.code() is grpc.StatusCode.PERMISSION_DENIED

        await until(refused)
        with suppress(asyncio.InvalidStateError):  # over already: a busy server had not read the first message before
            await sending.write(registry_pb2.UploadFilesRequest(chunk=next(chunks)))
        with pytest.raises(grpc.aio.AioRpcError, match="lacks the role publish"):
            await sending
        unload = control_pb2.UnloadVersionRequest(model="fraud", version="1.0.0")
        await ControlServiceStub(control).UnloadVersion(unload, metadata=operator)
        with pytest.raises(grpc.aio.AioRpcError, match="lacks the role predict or read"):
            await watch.read()


@pytest.mark.usefixtures("one_model")
async def test_a_hangup_reads_the_policy_again(tmp_path: Path, start_server: StartServer) -> None:
    file = tmp_path / "policy.toml"
    policy = write_policy(file, grant(["anonymous"], ["read"]))
    server = await start_server(auth=AUTH | {"policy": policy, "poll_interval_s": 60})
    assert await predicted(server, "") is grpc.StatusCode.UNAUTHENTICATED
    write_policy(file, grant(["anonymous"], ["predict"]))
    await server.reloader.reload(lambda: Settings(models=tmp_path / "models"))
    assert await predicted(server, "") is grpc.StatusCode.OK


async def test_a_wrong_policy_keeps_the_server_from_starting(tmp_path: Path, start_server: StartServer) -> None:
    policy = write_policy(tmp_path / "policy.toml", "# first", "[[grant]]", "identities = []")
    with pytest.raises(ConfigError, match=r"policy.toml, line 3: grant 1, identities: expected a list of 1 to"):
        await start_server(auth=AUTH | {"policy": policy})


# How much.


@pytest.mark.both_transports
@pytest.mark.usefixtures("one_model")
async def test_rates_and_quotas_hold_by_identity(tmp_path: Path, models: Path, start_server: StartServer) -> None:
    policy = write_policy(
        tmp_path / "policy.toml",
        "[[limit]]", 'name = "slow"', 'identities = ["token:slow"]', "requests_per_second = 0.01", "burst = 2",
    )  # fmt: skip
    slow = make_token(models, "slow", ["predict", "read"], ["*"])
    same = make_token(models, "slow", ["predict", "read"], ["*"])
    quick = make_token(models, "quick", ["predict", "read"], ["*"])
    server = await start_server(auth=AUTH | {"policy": policy})
    assert await predicted(server, slow) is grpc.StatusCode.OK
    assert await predicted(server, same) is grpc.StatusCode.OK, "tokens of one name share its rate"
    async with channel_to(server.grpc) as channel:
        stub = PredictionServiceStub(channel)
        refused = await refusal(stub.Predict(request("fraud", x=X), metadata=bearer(slow)))
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.retry_after is not None
        assert 50 < refused.retry_after <= 100
        stream = stub.PredictStream(metadata=bearer(slow))
        await stream.write(pb.PredictStreamRequest(request=request("fraud", request_id="r", x=X)))
        assert (await stream.read()).error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        answer = await client.post("/predict/fraud", json={"inputs": {"x": X.tolist()}}, headers=dict(bearer(slow)))
        assert answer.status_code == 429
        assert 50 < int(answer.headers["retry-after"]) <= 100
    assert await predicted(server, quick) is grpc.StatusCode.OK
    assert (await metric_series(server, "turnout_auth_limited_total", quick))['bound="rate",limit="slow"'] == 3


@pytest.mark.both_transports
@pytest.mark.parametrize("limited", [True, False])
async def test_answers_of_any_size_come_to_who_is_new_and_to_who_is_known(
    tmp_path: Path, models: Path, publish_model: Publish, start_server: StartServer, limited: bool
) -> None:
    limit = ("[[limit]]", 'identities = ["*"]', "in_flight = 2") if limited else ("# no limits",)
    policy = write_policy(tmp_path / "policy.toml", *limit)
    sizes = {"small": 1, "parts": 10_000, "large": 100_000}  # the second leaves in parts at once, the third later on
    for name, times in sizes.items():
        publish_model(name, "1.0.0", repeats(times))
    tokens = {
        (name, call): make_token(models, f"{name} {call}") for name in sizes for call in ("Predict", "ModelInfer")
    }
    server = await start_server(auth=AUTH | {"policy": policy})
    async with channel_to(server.grpc) as channel:
        for (name, call), token in tokens.items():
            for _ in range(3):
                if call == "Predict":
                    done = await PredictionServiceStub(channel).Predict(request(name, x=X), metadata=bearer(token))
                    answer = done.outputs[0].raw
                else:
                    done = await model_infer(channel)(infer_request(name, X), metadata=bearer(token))
                    answer = done.raw_output_contents[0]
                assert answer == np.tile(X, (1, sizes[name])).tobytes()


@pytest.mark.usefixtures("one_model")
async def test_no_more_than_the_quota_is_under_way_at_once(
    tmp_path: Path, models: Path, start_server: StartServer
) -> None:
    policy = write_policy(tmp_path / "policy.toml", "[[limit]]", 'identities = ["*"]', "in_flight = 2")
    token = make_token(models, "watcher", ["operate"], ["*"])
    server = await start_server(auth=AUTH | {"policy": policy})
    async with channel_to(server.control) as channel:
        health = channel.unary_stream("/grpc.health.v1.Health/Watch")
        watched = b"\x0a" + bytes([len("model:fraud")]) + b"model:fraud"
        open_ones = [health(watched, metadata=bearer(token)) for _ in range(2)]
        for one in open_ones:
            assert await one.read() is not grpc.aio.EOF
        catalog = CatalogServiceStub(channel)
        refused = await refusal(catalog.ListModels(catalog_pb2.ListModelsRequest(), metadata=bearer(token)))
        assert (refused.code, refused.retry_after) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 0.1)
        open_ones[0].cancel()

        async def room() -> bool:
            try:
                await catalog.ListModels(catalog_pb2.ListModelsRequest(), metadata=bearer(token))
            except grpc.aio.AioRpcError:
                return False
            return True

        await until(room)
        revoke_token(models, "watcher")
        with pytest.raises(grpc.aio.AioRpcError, match="has expired or was revoked"):
            async with asyncio.timeout(BOUND):
                await open_ones[1].read()


# What is recorded, and what is shown.


@pytest.mark.usefixtures("one_model")
async def test_the_log_names_who_it_was_and_keeps_who_they_said_to_be(models: Path, start_server: StartServer) -> None:
    token = make_token(models, "ops", ["operate"], ["fraud"])
    server = await start_server(auth=AUTH)
    async with channel_to(server.control) as channel:
        control = ControlServiceStub(channel)
        await control.SetTag(
            control_pb2.SetTagRequest(
                model="fraud", tag="stable", version="1.0.0", actor="ann@laptop", reason="it is good"
            ),
            metadata=bearer(token),
        )
        change = traffic_pb2.TrafficChange(actor="turnout rollout 7", reason="")
        await control.SetTraffic(
            traffic_pb2.SetTrafficRequest(model="fraud", policy=traffic_pb2.Policy(baseline="1.0.0"), change=change),
            metadata=bearer(token),
        )
        await control.DeleteTag(
            control_pb2.DeleteTagRequest(model="fraud", tag="stable", actor="x", reason="é" * 512),
            metadata=bearer(token),
        )
    with StateStore.open(Settings(models=models).state_url) as store:
        logged = {event.kind: (event.actor, event.reason) for event in store.events("fraud")}
    assert logged["tag_set"] == ("token:ops", "it is good [as ann@laptop]")
    assert logged["policy_changed"] == ("token:ops", "[as turnout rollout 7]")
    assert logged["tag_deleted"] == ("token:ops", "é" * 512), "there was no room for more"


async def test_lists_tell_of_what_their_reader_may_see(
    publish_model: Publish, models: Path, start_server: StartServer
) -> None:
    for name in ("fraud", "fraud-eu", "secret"):
        publish_model(name, "1.0.0", scaled(2.0))
    token = make_token(models, "eu", ["read"], ["fraud*"])
    server = await start_server(auth=AUTH)
    async with channel_to(server.control) as channel:
        listed = await CatalogServiceStub(channel).ListModels(catalog_pb2.ListModelsRequest(), metadata=bearer(token))
        control = ControlServiceStub(channel)
        traffic = await control.GetTraffic(traffic_pb2.GetTrafficRequest(), metadata=bearer(token))
        servers = await control.ListServers(servers_pb2.ListServersRequest(), metadata=bearer(token))
        shouting = make_token(models, "shouting", ["publish"], ["SECRET"])
        upload = registry_pb2.BeginUploadRequest(model="SECRET", version="1.0.0", metadata_json="{}")
        upload.files.add(path="model.onnx", size=3, digest=f"sha256:{hashlib.sha256(b'abc').hexdigest()}")

        async def upload_error() -> str:
            call = RegistryServiceStub(channel).BeginUpload(upload, metadata=bearer(shouting))
            return (await refusal(call)).message

        async def known() -> bool:
            return "was revoked" not in await upload_error()

        await until(known)
        assert await upload_error() == "'SECRET' differs from another model's name in case only: use another name"
    mine = {"fraud", "fraud-eu"}
    assert {one.name for one in listed.models} == mine
    assert {one.model for one in traffic.models} == mine
    assert "secret" not in str(servers)
    async with httpx.AsyncClient(base_url=f"http://{server.http}", headers=dict(bearer(token))) as client:
        page = (await client.get("/console")).text
        assert "fraud-eu" in page
        assert "secret" not in page
        missing = await client.get("/v2/models/fraud-x")
        assert (missing.status_code, "secret" in missing.text, "fraud-eu" in missing.text) == (404, False, True)


# The console.


@asynccontextmanager
async def visitor(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    origin = f"http://{server.http}"
    async with httpx.AsyncClient(base_url=origin, headers={"origin": origin}) as client:
        yield client


async def sign_in(client: httpx.AsyncClient, token: str, name: str = "ann") -> httpx.Response:
    return await client.post("/console/sign-in", data={"name": name, "token": token})


@pytest.mark.usefixtures("one_model")
async def test_the_console_knows_its_visitors_by_their_tokens(models: Path, start_server: StartServer) -> None:
    reader = make_token(models, "reader", ["read"], ["fraud"])
    stranger = make_token(models, "stranger", ["read"], ["other"])
    server = await start_server(auth=AUTH, console={"token": "the console's own token"})
    pause = "/console/models/fraud/rollouts/1/pause"
    async with visitor(server) as client:
        assert (await client.get("/console")).headers["location"] == "/console/sign-in?next=/console"
        assert "turnout token create" in (await client.get("/console/sign-in")).text
        assert (await sign_in(client, reader)).status_code == 303
        assert "token:reader" in (await client.get("/console/models/fraud")).text
        assert (await client.post(pause, data={"epoch": "1"})).status_code == 403
        revoke_token(models, "reader")

        async def signed_out() -> bool:
            return (await client.get("/console")).status_code == 303

        await until(signed_out)
        assert (await sign_in(client, stranger)).status_code == 303
        assert (await client.get("/console/models/fraud")).status_code == 403
        assert (await client.post("/console/sign-out")).status_code == 303
        assert (await client.get("/console/models/fraud/series.json")).status_code == 401
        assert (await sign_in(client, "the console's own token")).status_code == 303
        page = (await client.get("/console/models/fraud")).text
        assert ">ann<" in page
        assert (await client.post(pause, data={"epoch": "1"})).status_code == 404, "let in, and there is no rollout"


@pytest.mark.parametrize("auth", [{}, AUTH])
@pytest.mark.usefixtures("one_model")
async def test_guessing_at_the_console_gets_slower_with_each_failure(
    models: Path, start_server: StartServer, auth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnout.auth.sign_in_throttle._FIRST", 60.0)
    reader = make_token(models, "reader", ["read"], ["*"])
    server = await start_server(auth=auth, console={"token": "the console's own token"})
    async with visitor(server) as client:
        answers = [await sign_in(client, f"guess number {n}, long enough") for n in range(7)]
        assert [answer.status_code for answer in answers] == [403] * 5 + [429] * 2
        assert 30 <= int(answers[-1].headers["retry-after"]) <= 61
        assert "Too many sign-ins failed" in answers[-1].text
        refused = await sign_in(client, "the console's own token")
        assert refused.status_code == 429, "who guesses right meanwhile is not told"
    counted = await metric_series(server, "turnout_auth_refused_total", reader)
    assert (counted['reason="sign_in"'], counted['reason="sign_in_throttled"']) == (5, 3)


# What listens where.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"grpc": "0.0.0.0:0"},
            r"grpc \(0.0.0.0:0\): .* grpc has no TLS and identities.*--grpc 127.0.0.1:0.*--insecure",
        ),
        ({"control": "[::]:0"}, r"control has no TLS and identities.*\[auth\] enabled = true"),
        ({"http": "example.org:0", "auth": AUTH}, r"http has no TLS, so.*\[tls\] cert"),
    ],
)
async def test_what_other_machines_reach_has_to_know_who_comes(
    start_server: StartServer, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        await start_server(**settings)
