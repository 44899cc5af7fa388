"""What the server's log says of callers: who was refused, from where, and who was permitted to change something."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from auth_wire import AUTH, bearer, make_token
from onnx_models import scaled
from published import Publish
from started_servers import TRANSPORTS, make_settings
from turnout.app.server import running
from turnout.auth.policy.permissions import METHODS, ROUTES, Need, ResourceKind
from turnout.auth.roles import AccessRole
from turnout.telemetry.logging import make_logger
from turnout_proto.oip import inference_pb2
from turnout_proto.v1 import catalog_pb2, control_pb2, registry_pb2
from turnout_proto.v1.catalog_pb2_grpc import CatalogServiceStub
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from turnout_proto.v1.registry_pb2_grpc import RegistryServiceStub
from wire import X, refusal, request

VERSION = {"model": "fraud", "version": "1.0.0"}


def events(lines: str, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in lines.splitlines()]
    return [one for one in found if one["event"] == event]


def calls(found: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["call"].rpartition("/")[2], one["model"]) for one in found]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_log_tells_who_changed_something_or_took_files_and_from_where(
    models: Path, publish_model: Publish, capfd: pytest.CaptureFixture[str], transport: str
) -> None:
    publish_model("fraud", "1.0.0", scaled(2.0))
    tokens = {role: make_token(models, role, [role], ["fraud"]) for role in ("operate", "read", "publish", "predict")}
    settings = make_settings(models, auth=AUTH, transport={"data": transport})
    async with running(settings, make_logger("json", "info")) as server:
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        async with (
            grpc.aio.insecure_channel(str(server.control)) as control,
            grpc.aio.insecure_channel(str(server.grpc)) as data,
            httpx.AsyncClient(base_url=f"http://{server.http}") as http,
        ):
            await PredictionServiceStub(data).Predict(request("fraud", x=X), metadata=bearer(tokens["predict"]))
            operator, reader = ({"metadata": bearer(tokens[role])} for role in ("operate", "read"))
            await CatalogServiceStub(control).GetModel(catalog_pb2.GetModelRequest(model="fraud"), **reader)
            await ControlServiceStub(control).UnloadVersion(control_pb2.UnloadVersionRequest(**VERSION), **operator)
            await ControlServiceStub(control).LoadVersion(control_pb2.LoadVersionRequest(**VERSION), **operator)
            unload = data.unary_unary(
                "/inference.GRPCInferenceService/RepositoryModelUnload",
                inference_pb2.RepositoryModelUnloadRequest.SerializeToString,
            )
            await refusal(unload(inference_pb2.RepositoryModelUnloadRequest(model_name="fraud@9.9.9"), **operator))
            await http.post("/v2/repository/models/fraud/load", headers=dict(bearer(tokens["operate"])))
            assert [_ async for _ in RegistryServiceStub(control).FetchVersion(
                registry_pb2.FetchVersionRequest(**VERSION), **reader
            )]  # fmt: skip
            await refusal(
                RegistryServiceStub(control).BeginUpload(
                    registry_pb2.BeginUploadRequest(**VERSION), metadata=bearer(tokens["publish"])
                )
            )
    permitted = events(capfd.readouterr().err, "permitted")
    assert calls(permitted) == [
        ("UnloadVersion", "fraud"), ("LoadVersion", "fraud"), ("RepositoryModelUnload", "fraud"), ("load", "fraud"),
        ("FetchVersion", "fraud"), ("BeginUpload", "fraud"),
    ]  # fmt: skip
    who = ["token:operate"] * 4 + ["token:read", "token:publish"]
    assert [one["identity"] for one in permitted] == who
    assert {one["peer"] for one in permitted} <= {"127.0.0.1", "::1"}
    for one, identity in zip(permitted, who, strict=True):
        token = tokens[identity.removeprefix("token:")]
        assert one["credential"] == f"token {token.split('_')[1]}"
        assert token not in str(permitted)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_log_tells_from_where_a_refused_call_came(
    models: Path, publish_model: Publish, capfd: pytest.CaptureFixture[str], transport: str
) -> None:
    publish_model("fraud", "1.0.0", scaled(2.0))
    other = make_token(models, "other", ["read"], ["other"])
    settings = make_settings(models, auth=AUTH, transport={"data": transport})
    async with running(settings, make_logger("json", "info")) as server, httpx.AsyncClient() as http:
        for token in ("", "wrong", other):
            for address in (server.grpc, server.control):
                async with grpc.aio.insecure_channel(str(address)) as channel:
                    stub = CatalogServiceStub(channel)
                    await refusal(stub.GetModel(catalog_pb2.GetModelRequest(model="fraud"), metadata=bearer(token)))
            for path in ("/metrics", "/v1/rollouts/fraud"):
                assert (await http.get(f"http://{server.http}{path}", headers=dict(bearer(token)))).status_code in (
                    401,
                    403,
                )
    refused = events(capfd.readouterr().err, "refused")
    assert [one["why"] for one in refused] == ["no_credential"] * 4 + ["bad_credential"] * 4 + ["denied"] * 4
    assert {one["peer"] for one in refused} <= {"127.0.0.1", "::1"}


def test_what_changes_something_is_logged_and_what_only_looks_is_not() -> None:
    looks = {AccessRole.PREDICT, AccessRole.READ}
    taken, polled = "/turnout.v1.RegistryService/FetchVersion", "/turnout.v1.RegistryService/DescribeUpload"

    def changes(need: Need) -> bool:
        return need.kind in (ResourceKind.MODEL, ResourceKind.UPLOAD) and not looks & set(need.roles)

    expected = {path for path, need in {**METHODS, **ROUTES}.items() if changes(need)} - {polled} | {taken}
    assert {path for path, need in {**METHODS, **ROUTES}.items() if need.audited} == expected
