"""The rows of the status table about versions as they are published, signed, withdrawn and changed, on a real server.

Each row is named after its error in `turnout.errors`, and made by a call of a client.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from semver import Version

import onnx_models
from registry_wire import beginning, registry_of, upload
from routing_wire import control_of, policy, put
from turnout.app.server import Running
from turnout.config import Loading, ModelOverrides, Signing
from turnout.registry.publishing.metadata import parse_metadata
from turnout.registry.signing.keys import PrivateKey
from turnout_proto.v1 import control_pb2, prediction_pb2, registry_pb2, rollout_pb2
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from turnout_proto.v1.registry_pb2_grpc import RegistryServiceStub
from wire import Refusal, X, refusal, request, stub_of

pytestmark = pytest.mark.both_transports

Code = grpc.StatusCode


@dataclass(frozen=True)
class Row:
    """What a call ends with.

    Attributes:
        code: The status.
        message: A part of its message.
        fields: What it names as being at fault.
    """

    code: grpc.StatusCode
    message: str
    fields: tuple[str, ...] = ()


ROWS = {
    "NotTrusted": Row(Code.FAILED_PRECONDITION, "it is not signed, and signing.signatures asks for that"),
    "VersionYanked": Row(Code.FAILED_PRECONDITION, "was yanked (it leaks); pins to it are refused"),
    "NotLoaded, of another environment": Row(Code.FAILED_PRECONDITION, "declares another environment"),
    "GateRefused": Row(Code.INVALID_ARGUMENT, "gate bump failed", ("bump",)),
    "AlreadyExists, other content": Row(Code.ALREADY_EXISTS, "exists with other content"),
    "AlreadyExists, a yanked number": Row(Code.ALREADY_EXISTS, "was yanked; publish under another version"),
    "InvalidRequest, a skipped gate": Row(Code.INVALID_ARGUMENT, "there is no gate 'bmp'", ("skip-gate",)),
    "InvalidRequest, a yank without a reason": Row(Code.INVALID_ARGUMENT, "expected 1 to", ("reason",)),
    "NotFound, an upload": Row(Code.NOT_FOUND, "there is no such upload"),
    "TagNotFound": Row(Code.NOT_FOUND, "m has no tag 'stabel'; there are: stable"),
    "Conflict, a tag": Row(Code.ABORTED, "names 1.0.0, not 6.6.6"),
    "ChangeRefused, a yank": Row(Code.FAILED_PRECONDITION, "is not yanked: the tag stable names it"),
    "ChangeRefused, an upload": Row(Code.FAILED_PRECONDITION, "model.onnx is not complete"),
    "Exhausted, uploads": Row(Code.RESOURCE_EXHAUSTED, "1 uploads are open"),
    "DigestMismatch, a manifest": Row(Code.DATA_LOSS, "manifest"),
    "Unsupported, the registry on the data listener": Row(Code.UNIMPLEMENTED, ""),
}


@pytest.fixture
async def rows(publish_model, start_server, models: Path, tmp_path: Path) -> dict[str, Refusal]:
    """A server whose versions are in every such state, and what it answers."""
    publish_model("m", "1.0.0", onnx_models.scaled(1))
    publish_model("m", "2.0.0", onnx_models.scaled(2))
    publish_model("m", "3.0.0", onnx_models.scaled(3))
    publish_model("unsigned", "1.0.0", onnx_models.scaled(1))
    publish_model(
        "elsewhere", "1.0.0", onnx_models.scaled(1), metadata=parse_metadata({"environment": {"onnxruntime": "<1"}})
    )
    manifest = models / "m" / "3.0.0" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_bytes(manifest.read_bytes()[:-1])
    key = PrivateKey.create(tmp_path / "key.pem")
    signing = Signing(signatures="require", trusted_keys=(str(key.public),))
    server = await start_server(
        model={"unsigned": ModelOverrides(signing=signing)},
        loading=Loading(environment="refuse"),
        transfers={"max_uploads": 1},
    )
    async with asyncio.timeout(60):
        return await _answers(server)


async def _answers(server: Running) -> dict[str, Refusal]:
    other = {"model.onnx": onnx_models.scaled(4).SerializeToString()}
    found: dict[str, Refusal] = {}
    async with registry_of(server) as registry, control_of(server) as control, stub_of(server) as stub:
        tag = control_pb2.SetTagRequest(model="m", tag="stable", version="1.0.0")
        await control.SetTag(tag)
        who = {"model": "m", "actor": "ada"}
        yank = control_pb2.YankVersionRequest(version="2.0.0", reason="it leaks", **who)
        found["ChangeRefused, a yank"] = await refusal(
            control.YankVersion(control_pb2.YankVersionRequest(version="1.0.0", reason="it leaks", **who))
        )
        found["InvalidRequest, a yank without a reason"] = await refusal(
            control.YankVersion(control_pb2.YankVersionRequest(version="2.0.0", **who))
        )
        await control.YankVersion(yank)
        found["VersionYanked"] = await refusal(stub.Predict(request("m", "2.0.0", x=X)))
        found["NotTrusted"] = await _settled(stub, request("unsigned", "1.0.0", x=X))
        found["NotLoaded, of another environment"] = await refusal(stub.Predict(request("elsewhere", "1.0.0", x=X)))
        found["DigestMismatch, a manifest"] = await refusal(stub.Predict(request("m", "3.0.0", x=X)))
        tag.expected_version, tag.version = "6.6.6", "1.0.0"
        found["Conflict, a tag"] = await refusal(control.SetTag(tag))
        gone = control_pb2.DeleteTagRequest(model="m", tag="stabel")
        found["TagNotFound"] = await refusal(control.DeleteTag(gone))

        found["AlreadyExists, other content"] = await refusal(registry.BeginUpload(beginning(other)))
        found["AlreadyExists, a yanked number"] = await refusal(registry.BeginUpload(beginning(other, version="2.0.0")))
        publish = registry_pb2.PublishUploadRequest(upload_id="nothing")
        found["NotFound, an upload"] = await refusal(registry.PublishUpload(publish))
        begun = await registry.BeginUpload(beginning(other, version="1.0.1"))
        publish.upload_id = begun.upload_id
        found["ChangeRefused, an upload"] = await refusal(registry.PublishUpload(publish))
        found["Exhausted, uploads"] = await refusal(registry.BeginUpload(beginning(other, version="1.0.2")))
        publish.upload_id = await upload(registry, other, version="1.0.1")
        found["GateRefused"] = await refusal(registry.PublishUpload(publish))
        publish.upload_id = await upload(registry, other, version="1.0.1")
        publish.skip_gates.append("bmp")
        publish.reason = "ours"
        found["InvalidRequest, a skipped gate"] = await refusal(registry.PublishUpload(publish))
        async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
            found["Unsupported, the registry on the data listener"] = await refusal(
                RegistryServiceStub(channel).BeginUpload(beginning(other))
            )
    return found


async def _settled(stub: PredictionServiceStub, asked: prediction_pb2.PredictRequest) -> Refusal:
    """What it is refused with in the end: a version that is not trusted is looked at again after every change."""
    while (error := await refusal(stub.Predict(asked))).code is Code.UNAVAILABLE:
        await asyncio.sleep(error.retry_after or 0)
    return error


async def test_every_row_about_versions_is_answered_as_the_table_says(rows: dict[str, Refusal], models: Path) -> None:
    assert rows.keys() == ROWS.keys()
    for name, row in ROWS.items():
        actual = rows[name]
        assert actual.code is row.code, (name, actual)
        assert row.message in actual.message, (name, actual)
        assert actual.fields == row.fields, (name, actual)
        assert str(models) not in actual.message, (name, actual)
    assert rows["Exhausted, uploads"].retry_after


async def test_a_rollout_of_a_yanked_version_is_a_failed_precondition(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.scaled(1))
    publish_model("m", "2.0.0", onnx_models.scaled(2), release=False)
    server = await start_server()
    await put(server, policy("1.0.0"))
    await asyncio.to_thread(server.parts.rollouts.release_writer.yank, "m", Version(2), actor="ada", reason="it leaks")
    async with control_of(server) as control:
        error = await refusal(control.StartRollout(rollout_pb2.StartRolloutRequest(model="m", version="2.0.0")))
    assert error.code is Code.FAILED_PRECONDITION
    assert "yanked" in error.message
