"""Publishing and fetching by stream, on a real server."""

import asyncio
import json
import os
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from semver import Version

import onnx_models
from registry_wire import beginning, pieces, registry_of, sha, upload
from turnout.app.server import running
from turnout.config import Address, Settings
from turnout.registry.gates.gate import Skip
from turnout.registry.gates.reports import gate_attestations
from turnout.registry.manifest.digest import read_canonical
from turnout.registry.signing.bundle import Bundle, Statement
from turnout.registry.signing.keys import PrivateKey, PublicKey
from turnout.registry.signing.signer import KeySigner
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.telemetry.logging import make_logger
from turnout_proto.v1 import registry_pb2 as pb
from turnout_proto.v1.registry_pb2_grpc import RegistryServiceStub
from wire import X, outputs_of, refusal, request, stub_of

PIECE = 64 << 10
LOOPBACK = Address("127.0.0.1", 0)
_V1 = Version(1)


@pytest.fixture
def model() -> dict[str, bytes]:
    """m, which multiplies by three."""
    return {"model.onnx": onnx_models.scaled(3).SerializeToString()}


@pytest.fixture
def large(tmp_path: Path) -> dict[str, bytes]:
    """A model whose weights lie beside it."""
    path = onnx_models.save_external(tmp_path / "large", location="deep/weights.data")
    return {"model.onnx": path.read_bytes(), "deep/weights.data": (path.parent / "deep/weights.data").read_bytes()}


def left_in_staging(models: Path) -> list[str]:
    staging = models / ".staging"
    return [name for name in os.listdir(staging) if name != ".lock"] if staging.exists() else []


async def test_a_version_published_by_stream_answers(start_server, models, model) -> None:
    server = await start_server()
    async with registry_of(server) as registry, stub_of(server) as stub:
        upload_id = await upload(registry, model, metadata=json.dumps({"description": "by stream"}))
        asked = pb.PublishUploadRequest(upload_id=upload_id, release=True, actor="ci", reason="green")
        published = (await registry.PublishUpload(asked)).published
        assert (published.created, published.standing) == (True, "released")
        assert ("integrity", "passed") in [(gate.gate, gate.outcome) for gate in published.gates]
        assert sha(published.manifest) == published.digest
        await server.parts.serving.manager.load("m", _V1)  # until it is Ready
        answer = await stub.Predict(request("m", x=X))
        np.testing.assert_array_equal(outputs_of(answer)["y"], X * 3)
        assert answer.route.digest == published.digest
    assert Repository(models).find("m", _V1).manifest.metadata == {"description": "by stream"}
    assert left_in_staging(models) == []


async def test_the_same_content_is_there_without_sending_it(start_server, model) -> None:
    server = await start_server()
    async with registry_of(server) as registry:
        first = await registry.PublishUpload(pb.PublishUploadRequest(upload_id=await upload(registry, model)))
        again = await registry.BeginUpload(beginning(model))
        assert again.upload_id == ""
        assert (again.published.digest, again.published.created) == (first.published.digest, False)


async def test_other_content_is_refused_before_a_byte_of_it(start_server, models, model) -> None:
    server = await start_server()
    async with registry_of(server) as registry:
        await registry.PublishUpload(pb.PublishUploadRequest(upload_id=await upload(registry, model)))
        other = {"model.onnx": onnx_models.scaled(4).SerializeToString()}
        for upload_manifest in (beginning(other), beginning(model, metadata='{"notes": "other"}')):
            error = await refusal(registry.BeginUpload(upload_manifest))
            assert error.code is grpc.StatusCode.ALREADY_EXISTS
        error = await refusal(registry.BeginUpload(beginning(model, version="1.0.0+other")))
        assert error.code is grpc.StatusCode.ALREADY_EXISTS
    assert left_in_staging(models) == []


async def test_an_upload_goes_on_where_its_stream_was_cut(start_server, models, large) -> None:
    server = await start_server()
    async with registry_of(server) as registry:
        begun = await registry.BeginUpload(beginning(large))
        assert sum(begun.received) == 0
        call = registry.UploadFiles()
        sent = pieces(begun.upload_id, large, size=PIECE // 16)
        for _ in range(3):
            await call.write(next(sent))
        assert not (await _standing(registry, large, at_least=1)).published.digest
        call.cancel()
        after = await _standing(registry, large, at_least=1)
        assert after.upload_id == begun.upload_id
        assert 0 < sum(after.received) < sum(map(len, large.values()))
        await _until_free(registry, after.upload_id, large)
        done = await registry.PublishUpload(pb.PublishUploadRequest(upload_id=after.upload_id))
        assert done.published.created
    assert Repository(models).verify("m", _V1, expected=done.published.digest)


async def test_one_stream_at_a_time_writes_to_an_upload(start_server, model) -> None:
    server = await start_server()
    async with registry_of(server) as registry:
        begun = await registry.BeginUpload(beginning(model))
        first = registry.UploadFiles()
        await first.write(next(pieces(begun.upload_id, model)))
        async with asyncio.timeout(100):
            while True:  # until the first one's message has arrived
                failure = await _outcome(registry.UploadFiles(iter([pb.UploadFilesRequest(upload_id=begun.upload_id)])))
                if failure is not None:
                    break
        assert failure.code() is grpc.StatusCode.UNAVAILABLE
        first.cancel()


@pytest.mark.parametrize(
    "path",
    ["../escape", "/etc/x", "a/../b", "./a", "a//b", "a\\b", "", "manifest.json", "golden/../x", "golden/a.txt",
     "golden/deep/a.npz", "model.onnx/x", "a" * 256, "a/" * 600 + "a", "a\nb", ".", "a\0b"],
)  # fmt: skip
async def test_a_path_that_is_no_files_of_a_version_is_refused(start_server, models, model, path) -> None:
    server = await start_server()
    async with registry_of(server) as registry:
        error = await refusal(registry.BeginUpload(beginning(model | {path: b"x"})))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.fields[0].startswith("files")
    assert left_in_staging(models) == []


async def test_what_is_larger_than_may_be_is_refused(start_server, models, model) -> None:
    size = len(model["model.onnx"])
    server = await start_server(transfers={"max_file_bytes": size, "max_upload_bytes": size + 10})
    async with registry_of(server) as registry:
        for files, field in (
            (model | {"a.data": b"x" * (size + 1)}, "files[1].size"),
            (model | {"a.data": b"x" * 11}, "files"),
        ):
            error = await refusal(registry.BeginUpload(beginning(files)))
            assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))
        begun = await registry.BeginUpload(beginning(model))
        more = {"model.onnx": model["model.onnx"] + b"x"}
        error = await refusal(registry.UploadFiles(pieces(begun.upload_id, more)))
        assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("chunk.data",))
        large = [
            pb.UploadFilesRequest(upload_id=begun.upload_id, chunk=pb.FileChunk(file=0, data=b"x" * ((1 << 20) + 1)))
        ]
        error = await refusal(registry.UploadFiles(iter(large)))
        assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("chunk.data",))


async def test_a_file_that_is_not_the_announced_one_is_refused_and_may_be_sent_anew(start_server, model) -> None:
    server = await start_server()
    async with registry_of(server) as registry:
        begun = await registry.BeginUpload(beginning(model))
        wrong = {"model.onnx": bytes(len(model["model.onnx"]))}
        error = await refusal(registry.UploadFiles(pieces(begun.upload_id, wrong)))
        assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("files[0].digest",))
        again = await registry.BeginUpload(beginning(model))
        assert list(again.received) == [0]
        await _until_free(registry, again.upload_id, model)
        assert (await registry.PublishUpload(pb.PublishUploadRequest(upload_id=again.upload_id))).published.created


async def test_pieces_come_in_order_or_not_at_all(start_server, model) -> None:
    server = await start_server()
    async with registry_of(server) as registry:
        begun = await registry.BeginUpload(beginning(model))
        for file, offset, field in ((0, 1, "chunk.offset"), (1, 0, "chunk.file")):
            sent = pb.UploadFilesRequest(
                upload_id=begun.upload_id, chunk=pb.FileChunk(file=file, offset=offset, data=b"x")
            )
            error = await refusal(registry.UploadFiles(iter([sent])))
            assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))
        error = await refusal(registry.UploadFiles(iter([pb.UploadFilesRequest(upload_id="unknown")])))
        assert error.code is grpc.StatusCode.NOT_FOUND


async def test_an_incomplete_upload_is_not_published_and_stays(start_server, model) -> None:
    server = await start_server()
    async with registry_of(server) as registry:
        begun = await registry.BeginUpload(beginning(model))
        error = await refusal(registry.PublishUpload(pb.PublishUploadRequest(upload_id=begun.upload_id)))
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION
        assert (await registry.BeginUpload(beginning(model))).upload_id == begun.upload_id


async def test_what_a_gate_refuses_leaves_nothing(start_server, models) -> None:
    server = await start_server()
    bad = onnx_models.scaled(3)
    bad.graph.node[0].op_type = "NoSuchOperator"
    async with registry_of(server) as registry:
        upload_id = await upload(registry, {"model.onnx": bad.SerializeToString()})
        error = await refusal(registry.PublishUpload(pb.PublishUploadRequest(upload_id=upload_id)))
        assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("integrity",))
        assert "NoSuchOperator" in error.message
    assert Repository(models).scan().published == ()
    assert left_in_staging(models) == []


async def test_files_that_the_model_does_not_refer_to_are_refused(start_server, models, large) -> None:
    server = await start_server()
    async with registry_of(server) as registry:
        for files in (large | {"extra.data": b"x"}, {"model.onnx": large["model.onnx"]}):
            upload_id = await upload(registry, files)
            error = await refusal(registry.PublishUpload(pb.PublishUploadRequest(upload_id=upload_id)))
            assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert left_in_staging(models) == []


async def test_of_two_uploads_of_one_version_one_wins_and_the_other_is_told(start_server, models) -> None:
    server = await start_server()
    contents = [{"model.onnx": onnx_models.scaled(factor).SerializeToString()} for factor in (3, 4)]
    async with registry_of(server) as registry:
        ids = [await upload(registry, files) for files in contents]
        answers = [registry.PublishUpload(pb.PublishUploadRequest(upload_id=upload_id)) for upload_id in ids]
        codes = [await answer.code() for answer in answers]
    assert sorted(code.name for code in codes) == ["ALREADY_EXISTS", "OK"]
    digest = (await answers[codes.index(grpc.StatusCode.OK)]).published.digest
    assert [found.digest for found in Repository(models).scan().published] == [digest]
    assert left_in_staging(models) == []


async def test_no_more_uploads_are_open_than_may_be_and_time_ends_them(start_server, models, model) -> None:
    server = await start_server(transfers={"max_uploads": 1, "keep_s": 2.0})
    other = {"model.onnx": onnx_models.scaled(4).SerializeToString()}
    async with registry_of(server) as registry:
        begun = await registry.BeginUpload(beginning(model))
        held = registry.UploadFiles()
        await held.write(next(pieces(begun.upload_id, model)))
        error = await refusal(registry.BeginUpload(beginning(other)))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.retry_after
        held.cancel()
        async with asyncio.timeout(100):
            while left_in_staging(models):
                await asyncio.sleep(0.01)
        assert (await registry.BeginUpload(beginning(other))).upload_id


async def test_uploads_of_one_model_keep_no_other_model_from_being_published(start_server, model) -> None:
    server = await start_server(transfers={"max_uploads": 3})
    async with registry_of(server) as registry:
        greedy = [
            (await registry.BeginUpload(beginning(model, version=f"{major}.0.0"))).upload_id for major in (1, 2, 3)
        ]
        again = await refusal(registry.BeginUpload(beginning(model, version="4.0.0")))
        assert again.code is grpc.StatusCode.RESOURCE_EXHAUSTED, "of its own a model makes no place"

        async def state(upload_id: str) -> grpc.StatusCode:
            return (await refusal(registry.DescribeUpload(pb.DescribeUploadRequest(upload_id=upload_id)))).code

        held = registry.UploadFiles()
        await held.write(next(pieces(greedy[0], model)))  # the oldest, which something goes on with
        async with asyncio.timeout(100):
            while await state(greedy[0]) is not grpc.StatusCode.UNAVAILABLE:
                await asyncio.sleep(0.01)
        assert (await registry.BeginUpload(beginning(model, model="other"))).upload_id
        gone, incomplete = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION
        assert [await state(one) for one in greedy[1:]] == [gone, incomplete]
        assert (await registry.BeginUpload(beginning(model, model="third"))).upload_id
        more = await refusal(registry.BeginUpload(beginning(model, model="fourth")))
        assert more.code is grpc.StatusCode.RESOURCE_EXHAUSTED, "each of three models has one"
        assert [await state(one) for one in greedy] == [grpc.StatusCode.UNAVAILABLE, gone, gone]
        held.cancel()


async def test_an_upload_that_nobody_goes_on_with_makes_way(start_server, model) -> None:
    server = await start_server(transfers={"max_uploads": 1, "idle_s": 0.2})
    async with registry_of(server) as registry:
        begun = (await registry.BeginUpload(beginning(model))).upload_id
        async with asyncio.timeout(100):
            while await registry.BeginUpload(beginning(model, version="2.0.0")).code() is not grpc.StatusCode.OK:
                await asyncio.sleep(0.02)
        gone = await refusal(registry.DescribeUpload(pb.DescribeUploadRequest(upload_id=begun)))
        assert gone.code is grpc.StatusCode.NOT_FOUND


async def test_a_stream_on_which_nothing_comes_is_ended(start_server, model) -> None:
    server = await start_server(transfers={"idle_s": 0.1})
    async with registry_of(server) as registry:
        begun = await registry.BeginUpload(beginning(model))
        call = registry.UploadFiles()
        await call.write(next(pieces(begun.upload_id, model)))
        assert await call.code() is grpc.StatusCode.ABORTED


async def test_the_servers_end_throws_uploads_away(models, model) -> None:
    settings = Settings(models=models, grpc=LOOPBACK, http=LOOPBACK, control=LOOPBACK)
    async with running(settings, make_logger("json", "warning")) as server, registry_of(server) as registry:
        await upload(registry, model)
        assert len(left_in_staging(models)) == 1
    assert left_in_staging(models) == []


async def test_requests_are_answered_while_versions_come_and_go_by_stream(start_server, publish_model, large) -> None:
    publish_model("live", "1.0.0", onnx_models.scaled(2))
    server = await start_server()
    done, answered = asyncio.Event(), 0

    async def ask() -> None:
        nonlocal answered
        async with stub_of(server) as stub:
            while not done.is_set():
                np.testing.assert_array_equal(outputs_of(await stub.Predict(request("live", x=X)))["y"], X * 2)
                answered += 1
                await asyncio.sleep(0.004)

    asking = asyncio.create_task(ask())
    async with registry_of(server) as registry:
        for minor in range(3):
            upload_id = await upload(registry, large, version=f"1.{minor}.0")
            await registry.PublishUpload(pb.PublishUploadRequest(upload_id=upload_id))
            fetch = registry.FetchVersion(pb.FetchVersionRequest(model="m", version=f"1.{minor}.0"))
            assert [answer async for answer in fetch]
    async with asyncio.timeout(100):
        while answered < 20 and not asking.done():
            await asyncio.sleep(0.01)
    done.set()
    await asking


async def test_an_abandoned_upload_is_gone(start_server, models, model) -> None:
    server = await start_server()
    async with registry_of(server) as registry:
        upload_id = await upload(registry, model)
        await registry.AbandonUpload(pb.AbandonUploadRequest(upload_id=upload_id))
        assert left_in_staging(models) == []
        error = await refusal(registry.AbandonUpload(pb.AbandonUploadRequest(upload_id=upload_id)))
        assert error.code is grpc.StatusCode.NOT_FOUND


async def test_a_fetched_version_is_the_published_one(start_server, publish_model, models, large, tmp_path) -> None:
    digest = publish_model("m", "1.0.0", tmp_path / "large" / "model.onnx")
    server = await start_server()
    async with registry_of(server) as registry:
        answers = [a async for a in registry.FetchVersion(pb.FetchVersionRequest(model="m", version="1.0.0"))]
    assert sha(answers[0].manifest.manifest) == answers[0].manifest.digest == digest
    files = Repository(models).find("m", _V1).manifest.files
    got = {file.path: b"" for file in files}
    for answer in answers[1:]:
        assert len(answer.chunk.data) <= 1 << 20
        assert answer.chunk.offset == len(got[files[answer.chunk.file].path])
        got[files[answer.chunk.file].path] += answer.chunk.data
    assert got == large


async def test_fetching_what_is_not_there_or_not_whole_fails(start_server, publish_model, models) -> None:
    publish_model("m", "1.0.0", onnx_models.scaled(2))
    server = await start_server()
    path = models / "m" / "1.0.0" / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(b"short")
    async with registry_of(server) as registry:
        for version, code in (("2.0.0", grpc.StatusCode.NOT_FOUND), ("1.0.0", grpc.StatusCode.DATA_LOSS)):
            call = registry.FetchVersion(pb.FetchVersionRequest(model="m", version=version))
            with pytest.raises(grpc.aio.AioRpcError):
                [answer async for answer in call]
            assert await call.code() is code


async def test_the_data_listener_neither_takes_nor_gives_versions(start_server, model) -> None:
    server = await start_server()
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        error = await refusal(RegistryServiceStub(channel).BeginUpload(beginning(model)))
    assert error.code is grpc.StatusCode.UNIMPLEMENTED


async def _standing(registry, files, at_least: int) -> pb.BeginUploadResponse:
    """Waits until so many bytes have arrived."""
    async with asyncio.timeout(100):
        while True:
            begun = await registry.BeginUpload(beginning(files))
            if sum(begun.received) >= at_least:
                return begun


async def _until_free(registry, upload_id, files) -> None:
    """Sends the rest as soon as the server has seen that the last stream is gone."""
    async with asyncio.timeout(100):
        while True:
            begun = await registry.BeginUpload(beginning(files))
            assert begun.upload_id == upload_id
            failure = await _outcome(registry.UploadFiles(pieces(upload_id, files, begun.received, PIECE)))
            if failure is None:
                return
            assert failure.code() is grpc.StatusCode.UNAVAILABLE, failure


async def _outcome(call) -> grpc.aio.AioRpcError | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    return None


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    """A publisher's."""
    return PrivateKey.create(tmp_path / "key.pem")


MS = "model_signature"
OTHER = PublicKey.of(ec.generate_private_key(ec.SECP256R1()).public_key())
A_BUNDLE = Bundle(Statement("d", {"model.onnx": f"sha256:{'0' * 64}"}).payload(), b"x" * 70, hint=OTHER.hint)


def told_of(version: pb.PublishedVersion) -> Published:
    return Published(read_canonical(version.manifest), version.digest)


def signed(key: PrivateKey, published: Published) -> pb.ModelSignature:
    return pb.ModelSignature(bundle=KeySigner(key).sign(published).to_bytes(), public_key=key.public.der)


async def test_a_dry_run_says_which_version_it_would_be_and_leaves_nothing(start_server, models, model) -> None:
    server = await start_server()
    async with registry_of(server) as registry:
        upload_id = await upload(registry, model, version="auto")
        described = (await registry.DescribeUpload(pb.DescribeUploadRequest(upload_id=upload_id))).version
        assert (described.created, described.dry_run, list(described.gates)) == (False, True, [])
        asked = pb.PublishUploadRequest(upload_id=upload_id, dry_run=True, actor="ci")
        published = (await registry.PublishUpload(asked)).published
        assert (published.created, published.dry_run, published.digest) == (False, True, described.digest)
        assert json.loads(published.manifest)["version"] == "1.0.0"
        assert sha(published.manifest) == published.digest
        assert {gate.outcome for gate in published.gates} <= {"passed", "skipped", "warned"}
        gone = await refusal(registry.PublishUpload(asked))
        assert gone.code is grpc.StatusCode.NOT_FOUND
    assert Repository(models).scan().published == ()
    assert not (models / "m").exists(), "no attestation either"
    assert left_in_staging(models) == []


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"skip_gates": ["bmp"], "reason": "r"}, "skip-gate"),
        ({"skip_gates": ["integrity"], "reason": "r"}, "skip-gate"),
        ({"skip_gates": ["bump"]}, "reason"),
        ({"skip_gates": [str(n) for n in range(33)], "reason": "r"}, "skip_gates"),
        ({"dry_run": True, "release": True}, "dry_run"),
        ({MS: pb.ModelSignature(bundle=A_BUNDLE.to_bytes(), public_key=b"x" * 32)}, f"{MS}.public_key"),
        ({MS: pb.ModelSignature(bundle=A_BUNDLE.to_bytes())}, f"{MS}.public_key"),
        ({MS: pb.ModelSignature(bundle=A_BUNDLE.to_bytes(), public_key=OTHER.der)}, f"{MS}.bundle"),
        ({MS: pb.ModelSignature(bundle=b"{}", public_key=OTHER.der)}, f"{MS}.bundle"),
        ({"signature": pb.DigestSignature(digest="sha256:00", public_key=b"x" * 32)}, "signature"),
    ],
    ids=[
        "no such gate",
        "never skipped",
        "no reason",
        "too many",
        "dry and released",
        "key",
        "no key",
        "another key",
        "no bundle",
        "former",
    ],
)
async def test_what_cannot_be_asked_of_a_publish_is_refused_by_name(start_server, models, model, asked, field) -> None:
    server = await start_server()
    async with registry_of(server) as registry:
        upload_id = await upload(registry, model)
        error = await refusal(registry.PublishUpload(pb.PublishUploadRequest(upload_id=upload_id, **asked)))
        assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))
    assert Repository(models).scan().published == ()


async def test_a_gate_is_skipped_through_the_server_with_its_actor_on_record(
    start_server, models, model, publish_model
) -> None:
    publish_model("m", "1.0.0", onnx_models.scaled(2))
    server = await start_server()
    async with registry_of(server) as registry:
        asked = pb.PublishUploadRequest(upload_id=await upload(registry, model, version="1.0.1"), actor="ci")
        refused = await refusal(registry.PublishUpload(asked))
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("bump",))
        asked.upload_id = await upload(registry, model, version="1.0.1")
        asked.reason = "ours"
        asked.skip_gates.append("bump")
        published = (await registry.PublishUpload(asked)).published
    assert (published.created, published.parent) == (True, "1.0.0")
    (report,) = gate_attestations(Repository(models), "m", Version(1, 0, 1), published.digest)
    assert report.report.skips == (Skip("bump", "ours", "ci"),)


async def test_a_signature_over_what_another_publish_made_impossible_is_aborted_and_made_anew(
    start_server, model, key
) -> None:
    server = await start_server()
    other = {"model.onnx": onnx_models.scaled(4).SerializeToString()}
    async with registry_of(server) as registry:
        upload_id = await upload(registry, model, version="auto")
        describe = pb.DescribeUploadRequest(upload_id=upload_id)
        first = (await registry.DescribeUpload(describe)).version
        await registry.PublishUpload(pb.PublishUploadRequest(upload_id=await upload(registry, other)))
        late = pb.PublishUploadRequest(upload_id=upload_id, model_signature=signed(key, told_of(first)))
        error = await refusal(registry.PublishUpload(late))
        assert error.code is grpc.StatusCode.ABORTED
        assert first.digest in error.message
        now = (await registry.DescribeUpload(describe)).version
        again = pb.PublishUploadRequest(upload_id=upload_id, model_signature=signed(key, told_of(now)))
        done = (await registry.PublishUpload(again)).published
        assert (done.created, done.parent, done.digest) == (True, "1.0.0", now.digest)
        known = await registry.DescribeVersion(pb.DescribeVersionRequest(model="m", version="1.1.0"))
        assert [(one.key, one.worth) for one in known.signatures] == [(key.public.id, "unknown key")]


async def test_a_signature_is_kept_only_where_it_is_the_versions(start_server, key, models, publish_model) -> None:
    publish_model("m", "1.0.0", onnx_models.scaled(2))
    publish_model("m", "1.1.0", onnx_models.scaled(3))
    one, other = (Repository(models).find("m", Version(1, minor)) for minor in (0, 1))
    server = await start_server()
    async with registry_of(server) as registry:
        asked = pb.SignVersionRequest(model="m", version="1.0.0", model_signature=signed(key, one), actor="ada")
        assert (await registry.SignVersion(asked)).changed
        assert not (await registry.SignVersion(asked)).changed
        first = pb.FetchVersionRequest(model="m", version="1.0.0")
        (sent,) = [a.manifest async for a in registry.FetchVersion(first) if a.HasField("manifest")]
        assert list(sent.signature_bundles) == [asked.model_signature.bundle], "who fetches the version can check it"
        asked.model_signature.CopyFrom(signed(key, other))
        assert (await refusal(registry.SignVersion(asked))).code is grpc.StatusCode.ABORTED
        asked.model_signature.CopyFrom(signed(key, one))
        asked.model_signature.public_key = OTHER.der
        assert (await refusal(registry.SignVersion(asked))).code is grpc.StatusCode.INVALID_ARGUMENT
        asked.version = "2.0.0"
        asked.model_signature.CopyFrom(signed(key, one))
        assert (await refusal(registry.SignVersion(asked))).code is grpc.StatusCode.NOT_FOUND
        missing = pb.DescribeVersionRequest(model="m", version="2.0.0")
        assert (await refusal(registry.DescribeVersion(missing))).code is grpc.StatusCode.NOT_FOUND
