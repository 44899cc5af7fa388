"""Every method and route, by every role, without a credential and with a wrong, an expired and a right one.

What each should need stands here once more, by hand: the server's own table is what is tested. Requests name a model
that does not exist, so that whatever is allowed changes nothing, and is told NOT_FOUND.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPConnection
from itertools import chain
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from starlette.routing import Route

from auth_wire import AUTH, bearer, put_token
from fuzzing import methods_of_all_services
from onnx_models import scaled
from published import Publish
from started_servers import StartServer
from turnout.app import endpoints
from turnout.app.server import Running
from turnout.auth.policy.permissions import METHODS, ROUTES
from turnout.auth.roles import AccessRole
from turnout.config import Settings
from turnout.rpc.server import control_methods, data_methods
from turnout.state.store import StateStore
from turnout_proto.v1 import prediction_pb2, registry_pb2
from turnout_proto.v1.registry_pb2_grpc import RegistryServiceStub

GHOST, REAL, OTHER, EVERY = "ghost", "existing", "other", "*"
V1, OIP = "turnout.v1.", "inference.GRPCInferenceService"

ROLES = frozenset(map(str, AccessRole))
PREDICT = frozenset({"predict", "admin"})
READ = frozenset({"read", "publish", "operate", "admin"})
PUBLISH = frozenset({"publish", "admin"})
OPERATE = frozenset({"operate", "admin"})
ADMIN = frozenset({"admin"})


@dataclass(frozen=True)
class Rule:
    """Who may: roles of which one is needed, and on what."""

    roles: frozenset[str]
    on: str  # anything, somebody, model, some (model), server


PUBLIC = Rule(ROLES, "anything")
SOMEBODY = Rule(ROLES, "somebody")
DESCRIBE = Rule(PREDICT | READ, "model")


def on(model: str, roles: frozenset[str], *names: str) -> dict[str, Rule]:
    return {name: Rule(roles, model) for text in names for name in text.split()}


METHOD_RULES: Mapping[str, Rule] = {
    f"/{service}/{method}": rule
    for service, rules in {
        f"{V1}PredictionService": on("model", PREDICT, "Predict PredictStream"),
        f"{V1}CatalogService": on("some", READ, "ListModels") | on("model", READ, "GetModel GetVersion"),
        f"{V1}ControlService": on(
            "model", OPERATE, "LoadVersion UnloadVersion ReleaseVersion WithdrawVersion YankVersion UnyankVersion",
            "SetTag DeleteTag SetTraffic RampTraffic ClearTraffic FreezeTraffic RevertTraffic StartRollout",
            "CommandRollout RollBack GetShadowReport",
        )
        | on("model", READ, "ListEvents ListTrafficHistory ExplainRoute PlanRollout WatchRollout GetRolloutTicks")
        | on("model", READ, "GetTraffic ListRollouts")  # where they name one
        | on("some", READ, "GetActivity ListServers ListProbes")
        | on("model", OPERATE, "TryProbe"),
        f"{V1}RegistryService": on("model", PUBLISH, "BeginUpload UploadFiles DescribeUpload PublishUpload")
        | on("model", PUBLISH, "AbandonUpload SignVersion")
        | on("model", READ, "DescribeVersion FetchVersion"),
        OIP: dict.fromkeys(("ServerLive", "ServerReady"), PUBLIC)
        | dict.fromkeys(("ModelReady", "ModelMetadata", "ModelConfig"), DESCRIBE)
        | on("model", PREDICT, "ModelInfer ModelStreamInfer")
        | on("some", READ, "RepositoryIndex")
        | on("model", OPERATE, "RepositoryModelLoad RepositoryModelUnload")
        | on("somebody", ROLES, "ServerMetadata CudaSharedMemoryStatus CudaSharedMemoryRegister")
        | on("somebody", ROLES, "CudaSharedMemoryUnregister")
        | on("some", PREDICT, "SystemSharedMemoryStatus SystemSharedMemoryRegister SystemSharedMemoryUnregister")
        | on("model", READ, "ModelStatistics TraceSetting")  # where they name one
        | on("server", READ, "LogSettings"),
        "grpc.health.v1.Health": dict.fromkeys(("Check", "Watch"), DESCRIBE),  # of a model
        "grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": SOMEBODY},
        "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": SOMEBODY},
        "grpc.channelz.v1.Channelz": on(
            "server", ADMIN, "GetTopChannels GetServers GetServer GetServerSockets GetChannel GetSubchannel GetSocket"
        ),
    }.items()
    for method, rule in rules.items()
}  # fmt: skip

_CONSOLE = "/console/models/{model}"
REGION_CALLS = ("status", "register", "unregister")
ROUTE_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/", "/console/"), PUBLIC),
    **dict.fromkeys(("/console/sign-in", "/console/sign-out", "/console/static/{name:path}"), PUBLIC),
    "/metrics": Rule(READ, "server"),
    "/v2": SOMEBODY,
    "/console/{rest:path}": SOMEBODY,
    **on("model", PREDICT, "/predict/{model} /predict/{model}/{selector}"),
    **on("model", READ, "/v1/rollouts/{model} /v1/rollouts/{model}/checks/{check}"),
    **on("model", PREDICT, "/v2/models/{model}/infer /v2/models/{model}/versions/{selector}/infer"),
    **{f"/v2/models/{{model}}{rest}": DESCRIBE for rest in ("", "/ready", "/config")},
    **{f"/v2/models/{{model}}/versions/{{selector}}{rest}": DESCRIBE for rest in ("", "/ready", "/config")},
    **on("some", READ, "/v2/models /v2/models/stats /v2/repository/index"),
    **on("model", READ, "/v2/models/{model}/stats /v2/models/{model}/versions/{selector}/stats"),
    **on("model", OPERATE, "/v2/repository/models/{model}/load /v2/repository/models/{model}/unload"),
    **{
        f"/v2/{kind}sharedmemory{rest}": rule
        for kind, rule in (("system", Rule(PREDICT, "some")), ("cuda", SOMEBODY))
        for rest in ("/status", "/unregister", *(f"/region/{{name}}/{what}" for what in REGION_CALLS))
    },
    "/v2/logging": Rule(READ, "server"),
    "/v2/trace/setting": Rule(READ, "server"),
    "/v2/models/{model}/trace/setting": Rule(READ, "model"),
    "/console": Rule(READ, "some"),
    **on("model", READ, _CONSOLE, f"{_CONSOLE}/series.json", f"{_CONSOLE}/route", f"{_CONSOLE}/shadow"),
    **on("model", READ, f"{_CONSOLE}/versions/{{version}}", f"{_CONSOLE}/rollouts/{{attempt}}"),
    **on("model", READ, f"{_CONSOLE}/rollouts/{{attempt}}/plots.json"),
    **on("model", OPERATE, f"{_CONSOLE}/rollouts/{{attempt}}/{{command}}"),
}


POSTED_RULES: Mapping[str, Rule] = {
    "/v2/logging": Rule(ADMIN, "server"),
    "/v2/trace/setting": Rule(OPERATE, "server"),
    "/v2/models/{model}/trace/setting": Rule(OPERATE, "model"),
}
"""Where a POST needs something else than a GET does: it changes something."""


@dataclass(frozen=True)
class Credential:
    """What a caller shows, and what it is worth."""

    name: str
    token: str
    good: bool
    role: str = ""
    pattern: str = ""

    def allowed(self, rule: Rule) -> bool:
        if rule.on == "anything":
            return True
        if not self.good:
            return False
        if rule.on == "somebody":
            return True
        covers = {"model": {GHOST, EVERY}, "some": {GHOST, OTHER, EVERY}, "server": {EVERY}}[rule.on]
        return self.role in rule.roles and self.pattern in covers


def credentials(store: StateStore) -> Iterable[Credential]:
    yield Credential("none", "", good=False)
    for role in sorted(ROLES):
        for pattern in (GHOST, OTHER, EVERY):
            right = put_token(store, f"{role}-{pattern}".replace(EVERY, "every"), [role], [pattern])
            yield Credential(f"right, {role} on {pattern}", right, True, role, pattern)
        last = "A" if right[-1] != "A" else "B"
        yield Credential(f"wrong, {role}", right[:-1] + last, good=False)
        expired = put_token(store, f"{role}-expired", [role], [EVERY], ends_in=timedelta(seconds=-1))
        yield Credential(f"expired, {role}", expired, good=False)


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> list[Route]:
    """The routes of the server that starts next."""
    found: list[Route] = []
    protect = endpoints.protect

    def noted(given: Iterable[Route], *args: Any, **named: Any) -> Any:
        added = list(given)
        found.extend(added)
        return protect(added, *args, **named)

    monkeypatch.setattr(endpoints, "protect", noted)
    return found


@pytest.fixture
async def server(publish_model: Publish, start_server: StartServer, routes: list[Route]) -> Running:
    publish_model(REAL, "1.0.0", scaled(2))
    return await start_server(auth=AUTH, oip={"allow_repository_control": True}, log={"level": "error"})


@pytest.fixture
async def known_credentials(server: Running, models: Any) -> list[Credential]:
    with StateStore.open(Settings(models=models).state_url) as store:
        found = list(credentials(store))
    last = [one for one in found if one.good][-1]
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client, asyncio.timeout(100):
        ready = dict(bearer(last.token))
        while (await client.get("/metrics", headers=ready)).status_code == 401:  # until the server has seen them
            await asyncio.sleep(0.02)
    return found


def test_what_is_served_is_what_the_table_and_this_test_know(server: Running, routes: list[Route]) -> None:
    settings = Settings(console={"token": "x" * 16})
    served = {*data_methods(server.services, settings), *control_methods(server.services, settings)}
    assert served == set(METHODS) == set(METHOD_RULES)
    described = {path for path, *_ in methods_of_all_services()}
    assert described <= served, "a method of a descriptor is not served"
    assert {route.path for route in routes} == set(ROUTES) == set(ROUTE_RULES)


def message_of(path: str, request: type[Message], upload: str) -> bytes:
    message: Any = request()
    for field in ("model", "model_name", "name"):
        if field in message.DESCRIPTOR.fields_by_name:
            setattr(message, field, GHOST)
    if "upload_id" in message.DESCRIPTOR.fields_by_name:
        message.upload_id = upload
    if path.startswith("/grpc.health"):
        message.service = f"model:{GHOST}"
    if path.endswith("/ServerReflectionInfo"):
        message.list_services = ""
    if path.endswith("/PredictStream"):
        message.request.model, message.request.request_id = GHOST, "r"
    return bytes(message.SerializeToString())


async def outcome(
    channel: grpc.aio.Channel, path: str, bodies: list[bytes], credential: Credential, streams: bool
) -> str:
    """Returns the name of the status that a call, or the first answer on its stream, tells."""
    metadata = bearer(credential.token)
    try:
        if not streams:
            await channel.unary_unary(path)(bodies[0], metadata=metadata, timeout=100)
            return "OK"
        call = channel.stream_stream(path)(iter(bodies), metadata=metadata, timeout=100)
        first = await call.read()
        call.cancel()
        if path.endswith("/PredictStream") and isinstance(first, bytes):
            code = prediction_pb2.PredictStreamResponse.FromString(first).error.code
            return next(one.name for one in grpc.StatusCode if one.value[0] == code)
        if path.endswith("/ModelStreamInfer") and isinstance(first, bytes) and b"lacks the role" in first:
            return "PERMISSION_DENIED"
    except grpc.aio.AioRpcError as error:
        if streams and bodies and error.details() == CLIENTS_OWN:
            return await outcome(channel, path, [], credential, streams)
        return error.code().name
    return "OK"


CLIENTS_OWN = "Internal error from Core"
"""What grpcio's client says in place of the server's status, where a stream was refused while the client wrote."""

REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED"}


async def test_every_method_lets_in_whom_it_should_and_nobody_else(
    server: Running, known_credentials: list[Credential]
) -> None:
    described = {path: (method, request) for path, method, request, _ in methods_of_all_services()}
    on_data = set(data_methods(server.services, Settings()))
    admin = next(one for one in known_credentials if (one.role, one.pattern) == ("admin", EVERY))
    wrong: list[str] = []
    cells = 0
    limit, one_upload = asyncio.Semaphore(16), asyncio.Semaphore(1)  # who may abandon the upload does
    async with (
        grpc.aio.insecure_channel(str(server.grpc)) as data,
        grpc.aio.insecure_channel(str(server.control)) as control,
    ):
        upload = registry_pb2.BeginUploadRequest(model=GHOST, version="1.0.0", metadata_json="{}")
        upload.files.add(path="model.onnx", size=3, digest=f"sha256:{hashlib.sha256(b'abc').hexdigest()}")

        async def begun() -> str:
            """Returns the upload's id: the same as long as nobody abandons it."""
            answer = await RegistryServiceStub(control).BeginUpload(upload, metadata=bearer(admin.token))
            return str(answer.upload_id)

        async def try_cell(name: str, channel: grpc.aio.Channel, path: str, credential: Credential) -> None:
            nonlocal cells
            method, request = described.get(path, (None, None))
            body, streams, turn = b"", False, limit
            if method is not None and request is not None:
                streams = method.client_streaming or method.server_streaming
                of_upload = "upload_id" in request.DESCRIPTOR.fields_by_name
                turn = one_upload if of_upload else limit
            async with turn:
                if request is not None:
                    body = message_of(path, request, await begun() if of_upload else "")
                got = await outcome(channel, path, [body], credential, streams)
            cells += 1
            expected = credential.allowed(METHOD_RULES[path])
            refusal = "PERMISSION_DENIED" if credential.good else "UNAUTHENTICATED"
            if (got in REFUSED) if expected else (got != refusal):
                wrong.append(
                    f"{name} {path}, {credential.name}: {got}, and {'let in' if expected else refusal} is right"
                )

        tried = [("h2corn", data, path) for path in sorted(on_data)]
        tried += [("grpcio", control, path) for path in sorted(METHOD_RULES)]
        await asyncio.gather(*(try_cell(*one, credential) for one in tried for credential in known_credentials))
    assert not wrong, f"{len(wrong)} of {cells} are wrong, such as {wrong[:5]}"
    assert cells == len(known_credentials) * (len(on_data) + len(METHOD_RULES))


async def test_every_route_lets_in_whom_it_should_and_nobody_else(
    server: Running, known_credentials: list[Credential], routes: list[Route]
) -> None:
    values = {
        "model": GHOST,
        "selector": "1.0.0",
        "version": "1.0.0",
        "attempt": "1",
        "command": "pause",
        "check": "healthy",
        "name": "region",
    }
    wrong: list[str] = []

    def try_cell(client: HTTPConnection, route: Route, method: str, credential: Credential) -> None:
        path = route.path.replace("{name:path}", "console.css").replace("{rest:path}", "nowhere").format(**values)
        headers = {"origin": f"http://{server.http}", **dict(bearer(credential.token))}
        kind = "application/x-www-form-urlencoded" if path.startswith("/console") else "application/json"
        client.request(method, path, headers=headers | ({"content-type": kind} if method == "POST" else {}))
        answer = client.getresponse()
        answer.read()
        signs_in = answer.status == 303 and answer.headers["location"].startswith("/console/sign-in?next=")
        refused = answer.status in (401, 403) or signs_in
        rules = ROUTE_RULES | (POSTED_RULES if method == "POST" else {})
        expected = credential.allowed(rules[route.path])
        if path == "/console/sign-in" and method == "POST":  # nothing was typed: the form's own refusal
            refused = answer.status not in (403, 429)
        elif not expected and not signs_in:
            fits = answer.status == (403 if credential.good else 401)
            challenged = answer.status != 401 or answer.headers["www-authenticate"] == 'Bearer realm="turnout"'
            refused = refused and fits and challenged
        if refused is expected:
            wrong.append(f"{method} {path}, {credential.name}: {answer.status}")

    tried = [(route, method) for route in routes for method in sorted(route.methods or ()) if method != "HEAD"]
    cells = [(*one, credential) for one in tried for credential in known_credentials]

    def try_some(some: list[tuple[Route, str, Credential]]) -> None:
        # A request takes httpx 3 ms of CPU, and this client a third: there are two thousand.
        with closing(HTTPConnection(server.http.host, server.http.port, timeout=100)) as client:
            for cell in some:
                try_cell(client, *cell)

    await asyncio.gather(*(asyncio.to_thread(try_some, cells[first::4]) for first in range(4)))
    assert not wrong, f"{len(wrong)} of {len(cells)} are wrong, such as {wrong[:5]}"
    assert len(cells) > len(ROUTE_RULES) * len(known_credentials)


async def test_a_refusal_is_the_same_whether_there_is_such_a_model_or_not(
    server: Running, known_credentials: list[Credential]
) -> None:
    mine = next(one for one in known_credentials if (one.role, one.pattern) == ("admin", OTHER))
    described = {path: (method, request) for path, method, request, _ in methods_of_all_services()}
    answers: dict[str, set[str]] = {}
    async with (
        grpc.aio.insecure_channel(str(server.control)) as control,
        httpx.AsyncClient(base_url=f"http://{server.http}", headers=dict(bearer(mine.token))) as client,
    ):
        for path, rule in METHOD_RULES.items():
            if (
                rule.on != "model"
                or path.endswith("Stream")
                or "upload_id" in described[path][1].DESCRIPTOR.fields_by_name
            ):
                continue
            method, request = described[path]
            for model in (GHOST, REAL):
                message = request.FromString(message_of(path, request, ""))
                for field in ("model", "model_name", "name", "service"):
                    if field in message.DESCRIPTOR.fields_by_name:
                        setattr(message, field, f"model:{model}" if field == "service" else model)
                body = message.SerializeToString()
                try:
                    if method.server_streaming:
                        call = control.unary_stream(path)(body, metadata=bearer(mine.token))
                        await call.read()
                    else:
                        await control.unary_unary(path)(body, metadata=bearer(mine.token))
                except grpc.aio.AioRpcError as error:
                    answers.setdefault(path, set()).add(f"{error.code()} {(error.details() or '').replace(model, 'M')}")
        for path in ("/predict/M", "/v2/models/M", "/console/models/M"):
            for model in (GHOST, REAL):
                method = "POST" if path.startswith("/predict") else "GET"
                answer = await client.request(
                    method, path.replace("M", model), headers={"content-type": "application/json"}
                )
                answers.setdefault(path, set()).add(f"{answer.status_code} {answer.text.replace(model, 'M')}")
        unknown = await control.unary_unary(f"/{V1}CatalogService/ListModels")(b"", metadata=bearer(mine.token))
        assert unknown == b"", "the list names no model that they may not see"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control.unary_unary(f"/{V1}CatalogService/GetModel")(
                described[f"/{V1}CatalogService/GetModel"][1](model=OTHER).SerializeToString(),
                metadata=bearer(mine.token),
            )
        assert (caught.value.code(), caught.value.details()) == (
            grpc.StatusCode.NOT_FOUND, "no model is named 'other'; there are no models",
        )  # fmt: skip
    assert len(answers) > 30
    assert all(len(texts) == 1 for texts in answers.values()), {
        path: texts for path, texts in answers.items() if len(texts) > 1
    }


async def test_no_answer_names_a_model_that_its_caller_may_not_see(
    server: Running, known_credentials: list[Credential]
) -> None:
    mine = next(one for one in known_credentials if (one.role, one.pattern) == ("admin", GHOST))
    answers = []
    async with grpc.aio.insecure_channel(str(server.control)) as control:
        for path, method, request, _ in methods_of_all_services():
            if METHOD_RULES[path].on not in ("model", "some") or method.client_streaming:
                continue
            for message in filled(path, request):
                try:
                    if method.server_streaming:
                        stream = control.unary_stream(path)(message, metadata=bearer(mine.token))
                        answers.append((path, await stream.read()))
                        stream.cancel()
                    else:
                        answers.append((path, await control.unary_unary(path)(message, metadata=bearer(mine.token))))
                except grpc.aio.AioRpcError as error:
                    answers.append((path, f"{error.code().name} {error.details()}"))
    assert len({path for path, _ in answers}) > 30
    assert sum("no model is named 'ghost'; there are no models" in str(answer) for _, answer in answers) > 15
    assert [(path, answer) for path, answer in answers if REAL in str(answer)] == []


def filled(path: str, request: type[Message]) -> Iterable[bytes]:
    """Returns requests about the model that there is none of; all else in them is as of one that there is."""
    message: Any = request.FromString(message_of(path, request, ""))
    for name, value in {"version": "1.0.0", "tag": "stable", "epoch": 1, "frozen": True, "i_know_why": True}.items():
        if name in message.DESCRIPTOR.fields_by_name:
            setattr(message, name, value)
    if "policy" in message.DESCRIPTOR.fields_by_name:
        message.policy.baseline = "1.0.0"
    if "canary" in message.DESCRIPTOR.fields_by_name:
        message.canary.version, message.canary.weight = "1.0.0", 0.5
    if "command" in message.DESCRIPTOR.fields_by_name:
        message.command = 1
    yield message.SerializeToString()
    if METHOD_RULES[path].on == "some" or path.endswith(("/GetTraffic", "/ListRollouts", "/ModelStatistics")):
        yield b""


async def test_publishing_with_a_release_takes_the_right_to_release(
    server: Running, known_credentials: list[Credential]
) -> None:
    by_role = {one.role: one.token for one in known_credentials if one.pattern == GHOST}
    upload = registry_pb2.BeginUploadRequest(model=GHOST, version="1.0.0", metadata_json="{}")
    upload.files.add(path="model.onnx", size=3, digest=f"sha256:{hashlib.sha256(b'abc').hexdigest()}")
    async with grpc.aio.insecure_channel(str(server.control)) as control:
        registry = RegistryServiceStub(control)
        begun = await registry.BeginUpload(upload, metadata=bearer(by_role["publish"]))
        codes = {}
        for role in ("publish", "admin"):
            for release in (False, True):
                request = registry_pb2.PublishUploadRequest(upload_id=begun.upload_id, release=release)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await registry.PublishUpload(request, metadata=bearer(by_role[role]))
                codes[role, release] = caught.value.code()
    refused = grpc.StatusCode.PERMISSION_DENIED
    assert codes.pop(("publish", True)) == refused
    assert refused not in chain(codes.values())
