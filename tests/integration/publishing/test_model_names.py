"""Names as other model servers have them: taken everywhere, and never two that differ in case only."""

import json
from pathlib import Path

import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from semver import Version

import onnx_models
from processes import turnout
from turnout.errors import AlreadyExistsError, InvalidRequest, ModelNotFound
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout_proto.oip import inference_pb2 as oip
from wire import X, channel_of, outputs_of, request, stub_of

NAMES = ("YOLOv8.1-cls_FP16", "a..b", "1.0.0", "series.json", "m." + "Q" * 126)


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_is_the_same_on_every_protocol(name: str, publish_model, start_server) -> None:
    publish_model(name, "1.2.0", onnx_models.scaled(2))
    server = await start_server(model={name.lower(): {"slo_ms": (5,)}})
    async with stub_of(server) as stub:
        answer = await stub.Predict(request(name, "^1", x=X))
    assert (answer.model, answer.route.version) == (name, "1.2.0")
    assert outputs_of(answer)["y"].tolist() == (2 * X).tolist()

    async with channel_of(server) as channel:
        watched = health_pb2.HealthCheckRequest(service=f"model:{name}@~1.2")
        assert (
            await health_pb2_grpc.HealthStub(channel).Check(watched)
        ).status == health_pb2.HealthCheckResponse.SERVING
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelMetadata",
            request_serializer=oip.ModelMetadataRequest.SerializeToString,
            response_deserializer=oip.ModelMetadataResponse.FromString,
        )
        assert (await infer(oip.ModelMetadataRequest(name=name, version="1.2.0"))).name == name

    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 1, 2, 3]}]}
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        for path in (f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/^1/infer"):
            response = await client.post(path, json=body)
            assert (response.status_code, response.json()["model_name"]) == (200, name)
        plain = await client.post(f"/predict/{name}/~1.2", json={"inputs": {"x": X.tolist()}})
        assert plain.status_code == 200, plain.text
        pages = [f"/console/models/{name}{rest}" for rest in ("", "/series.json", "/route", "/versions/1.2.0")]
        assert [(await client.get(page)).status_code for page in pages] == [200] * 4
        metrics = (await client.get("/metrics")).text
    assert f'turnout_requests_total{{code="OK",model="{name}",role="baseline",version="1.2.0"}}' in metrics
    assert f'turnout_slo_exceeded_total{{model="{name}",role="baseline",' in metrics


def test_commands_take_such_names(tmp_path: Path) -> None:
    file = onnx_models.save(onnx_models.scaled(3), tmp_path / "m.onnx")
    models = ("--models", tmp_path / "models")
    turnout("publish", "Net.v1", "auto", file, "--release", *models)
    turnout("tag", "Net.v1", "stable", "1.0.0", *models)
    described = json.loads(turnout("show", "Net.v1@stable", *models, "--json").stdout)
    assert described["model"] == "Net.v1"
    turnout("export", "Net.v1@1.0.0", "--to", tmp_path / "out", *models)
    turnout("import", tmp_path / "out", "--models", tmp_path / "other")
    assert Repository(tmp_path / "other").scan().models == ("Net.v1",)
    refused = turnout("publish", "NET.V1", "auto", file, *models, check=False)
    assert (refused.returncode, refused.stderr) == (
        4, "error: 'NET.V1' differs from the model Net.v1 in case only: publish to Net.v1\n",
    )  # fmt: skip
    clashing = turnout("publish", "gates.toml", "1.0.0", file, *models, check=False)
    assert "a file of the repository has this name" in clashing.stderr
    missing = turnout("show", "NET.v1", *models, check=False)
    assert "there are: Net.v1" in missing.stderr


def test_a_model_is_not_published_beside_one_that_differs_in_case_only(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    source = onnx_models.save(onnx_models.scaled(2), tmp_path / "m.onnx")
    publish(repository, PublishRequest("ResNet", Version(1), source))
    with pytest.raises(AlreadyExistsError, match=r"^'resnet' differs from the model ResNet in case only"):
        publish(repository, PublishRequest("resnet", Version(1), source))
    assert repository.scan().models == ("ResNet",)
    (repository.root / "Bert").mkdir()  # what a publish that was refused may leave
    publish(repository, PublishRequest("bert", Version(1), source))


def test_of_two_that_were_put_there_by_hand_one_is_served_and_the_other_reported(tmp_path: Path) -> None:
    repository, other = Repository(tmp_path / "models"), Repository(tmp_path / "other")
    source = onnx_models.save(onnx_models.scaled(2), tmp_path / "m.onnx")
    publish(repository, PublishRequest("Net", Version(1), source))
    publish(other, PublishRequest("net", Version(1), source))
    (other.root / "net").rename(repository.root / "net")
    listing = repository.scan()
    assert listing.models == ("net",)
    assert [(p.model, p.reason) for p in listing.problems] == [
        ("Net", "directory 'Net' differs from 'net' in case only: rename one")
    ]


@pytest.mark.parametrize("name", ["..", "../other", ".turnout", "a/../../b", "/etc", "a\0b"])
def test_no_name_leads_out_of_the_repository(name: str, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    with pytest.raises(InvalidRequest):
        repository.directory(name, Version(1))
    with pytest.raises(InvalidRequest):
        repository.find(name, Version(1))


def test_only_names_that_are_similar_are_called_the_nearest() -> None:
    """The first of many used to be called the nearest where no name was near."""
    known = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    assert str(ModelNotFound.named("betta", known)) == "no model is named 'betta'; nearest: beta, zeta, delta, ..."
    assert str(ModelNotFound.named("qqq", known)) == (
        "no model is named 'qqq'; there are: alpha, beta, gamma, delta, epsilon, ..."
    )
    assert str(ModelNotFound.named("qqq", known[:2])) == "no model is named 'qqq'; there are: alpha, beta"


def test_a_name_in_another_case_is_answered_with_the_one_that_exists() -> None:
    assert str(ModelNotFound.named("RESNET-50", ["bert", "resnet-50", "x"])) == (
        "no model is named 'RESNET-50'; nearest: resnet-50, ..."
    )
