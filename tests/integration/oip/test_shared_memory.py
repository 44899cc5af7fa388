"""Tensors in system shared memory: whose it is, what may be registered, and that nothing done to it ends the server."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from multiprocessing.shared_memory import SharedMemory as Segment
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from auth_wire import AUTH, bearer, make_token
from onnx_models import scaled, slow, string_identity
from published import Publish
from started_servers import StartServer, make_settings
from turnout.app.server import Running, running
from turnout.config import Oip, Runtime
from turnout.errors import Exhausted, PermissionDeniedError
from turnout.oip.extensions.shared_memory import DIRECTORY, CallerMemory, SharedMemory
from turnout.oip.parameters import Place
from turnout.telemetry.logging import make_logger
from turnout_proto.oip import inference_pb2 as pb
from wire import X

ON = Oip(system_shared_memory=True)
Code = grpc.StatusCode
SERVICE = "/inference.GRPCInferenceService/"
NBYTES = X.nbytes

Ask = Callable[..., Awaitable[Any]]


@pytest.fixture
def segment() -> Iterator[Segment]:
    """Memory of four tensors, the first of which holds X."""
    made = Segment(create=True, size=4 * NBYTES)
    made.buf[:NBYTES] = X.tobytes()
    yield made
    made.close()
    made.unlink()


@asynccontextmanager
async def asking(server: Running, token: str = "") -> AsyncIterator[Ask]:
    """Opens a channel; what it yields calls a method with a message."""
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:

        async def ask(method: str, message: Any) -> Any:
            answer = getattr(pb, type(message).__name__.replace("Request", "Response"))
            call = channel.unary_unary(SERVICE + method, type(message).SerializeToString, answer.FromString)
            return await call(message, metadata=bearer(token) if token else (), timeout=100)

        yield ask


def registering(segment: Segment, name: str = "r", **more: Any) -> pb.SystemSharedMemoryRegisterRequest:
    values = {"key": f"/{segment.name}", "offset": 0, "byte_size": 4 * NBYTES} | more
    return pb.SystemSharedMemoryRegisterRequest(name=name, **values)


def place(parameters: Any, region: str, size: int = NBYTES, offset: int = 0) -> None:
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        parameters["shared_memory_offset"].int64_param = offset


def inferring(region: str = "r", model: str = "m", *, out: tuple[int, int] | None = (NBYTES, NBYTES)) -> Any:
    """Reads x at the beginning of a region, and writes y there, at an offset and of at most a size."""
    request = pb.ModelInferRequest(model_name=model, id="i")
    place(request.inputs.add(name="x", datatype="FP32", shape=[1, 4]).parameters, region)
    if out is not None:
        place(request.outputs.add(name="y").parameters, region, out[1], out[0])
    return request


async def register(ask: Ask, segment: Segment, name: str = "r", **more: Any) -> None:
    await ask("SystemSharedMemoryRegister", registering(segment, name, **more))


def held(name: str) -> int:
    """How many descriptors of this process are of a segment of that name, or of one that begins so."""
    found = 0
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed just now
            found += os.readlink(file).startswith(f"{DIRECTORY}/{name}")
    return found


async def refused(asked: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asked
    return caught.value.code(), caught.value.details() or ""


def written(segment: Segment, offset: int = NBYTES) -> list[float]:
    return np.frombuffer(bytes(segment.buf[offset : offset + NBYTES]), np.float32).tolist()


TWICE = (2 * X).ravel().tolist()


@pytest.mark.both_transports
async def test_a_tensor_is_read_and_an_answer_written_there(
    publish_model: Publish, start_server: StartServer, segment: Segment
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(oip=ON)
    async with asking(server) as ask:
        await register(ask, segment)
        for _ in range(3):  # a request that comes again is read anew
            answer = await ask("ModelInfer", inferring())
            assert (answer.id, answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("i", "FP32", [1, 4])
            assert list(answer.raw_output_contents) == [b""]
            assert written(segment) == TWICE
            segment.buf[NBYTES:] = bytes(3 * NBYTES)
        assert (await ask("ModelInfer", inferring(out=None))).raw_output_contents[0] == (2 * X).tobytes()
        await ask("ModelInfer", inferring(out=(0, NBYTES)))  # over its own input
        assert written(segment, 0) == TWICE
        status = await ask("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest())
        assert dict(status.regions) == {
            "r": pb.SystemSharedMemoryStatusResponse.RegionStatus(
                name="r", key=f"/{segment.name}", byte_size=4 * NBYTES
            )
        }


@pytest.mark.both_transports
async def test_so_are_the_items_of_a_stream(
    publish_model: Publish, start_server: StartServer, segment: Segment
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(oip=ON)
    async with asking(server) as ask, grpc.aio.insecure_channel(str(server.grpc)) as channel:
        await register(ask, segment)
        requests = [inferring(out=(n * NBYTES, NBYTES)) for n in (1, 2, 3)] + [inferring("other")]
        method = channel.stream_stream(
            SERVICE + "ModelStreamInfer", pb.ModelInferRequest.SerializeToString, pb.ModelStreamInferResponse.FromString
        )
        answers = [answer async for answer in method(iter(requests), timeout=100)]
    assert [bool(answer.error_message) for answer in answers] == [False, False, False, True]
    assert all(written(segment, n * NBYTES) == TWICE for n in (1, 2, 3))


async def test_raw_and_shared_inputs_go_together_and_a_remembered_request_keeps_its_place(
    publish_model: Publish, start_server: StartServer, segment: Segment
) -> None:
    publish_model("slow", "1.0.0", slow())
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(oip=ON)
    async with asking(server) as ask:
        await register(ask, segment)
        mixed = inferring(model="slow", out=None)
        mixed.inputs.add(name="n", datatype="INT64", shape=[])
        mixed.raw_input_contents.append(np.int64(1).tobytes())
        assert (await ask("ModelInfer", mixed)).raw_output_contents[0] == (X + 1).tobytes()
        mixed.raw_input_contents.append(b"")
        code, terms = await refused(ask("ModelInfer", mixed))
        assert (code, "raw_input_contents" in terms) == (Code.INVALID_ARGUMENT, True)
        raw = inferring()
        raw.inputs[0].parameters.clear()
        raw.raw_input_contents.append((3 * X).tobytes())
        for _ in range(2):
            segment.buf[NBYTES:] = bytes(3 * NBYTES)
            assert list((await ask("ModelInfer", raw)).raw_output_contents) == [b""]
            assert written(segment) == (6 * X).ravel().tolist()


async def test_strings_lie_there_behind_their_lengths(
    publish_model: Publish, start_server: StartServer, segment: Segment
) -> None:
    publish_model("s", "1.0.0", string_identity())
    server = await start_server(oip=ON)
    texts = b"".join(len(text).to_bytes(4, "little") + text for text in (b"frog", b"", "é".encode()))
    segment.buf[: len(texts)] = texts
    request = pb.ModelInferRequest(model_name="s")
    place(request.inputs.add(name="x", datatype="BYTES", shape=[3]).parameters, "r", len(texts))
    place(request.outputs.add(name="y").parameters, "r", 32, 32)
    async with asking(server) as ask:
        await register(ask, segment)
        await ask("ModelInfer", request)
        assert bytes(segment.buf[32 : 32 + len(texts)]) == texts
        segment.buf[:4] = b"\xff\xff\xff\xff"  # a length beyond all
        code, terms = await refused(ask("ModelInfer", request))
        assert (code, "inputs[0] (shared memory)" in terms) == (Code.INVALID_ARGUMENT, True)


def cut(request: Any) -> Any:
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend([1, 3])
    return request


def with_offset(request: Any, offset: int) -> Any:
    request.inputs[0].parameters["shared_memory_offset"].uint64_param = offset
    return request


WRONG: Mapping[str, tuple[Callable[[], Any], grpc.StatusCode, str]] = {
    "no such region": (lambda: inferring("other"), Code.NOT_FOUND, "no region of shared memory is named 'other'"),
    "no such region for the output": (lambda: inferring("other", out=None), Code.NOT_FOUND, "'other'"),
    "another size": (lambda: cut(inferring()), Code.INVALID_ARGUMENT, "expected 12 bytes for FP32[1, 3], got 16"),
    "beyond the end": (lambda: with_offset(inferring(), 49), Code.INVALID_ARGUMENT, "got 49 + 16"),
    "far beyond": (lambda: with_offset(inferring(), 2**64 - 16), Code.INVALID_ARGUMENT, "within the 64 bytes"),
    "an output beyond": (lambda: inferring(out=(60, 16)), Code.INVALID_ARGUMENT, "outputs.y.parameters"),
    "too little room": (lambda: inferring(out=(16, 15)), Code.INVALID_ARGUMENT, "expected room for 16 bytes"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_place_that_is_none_is_refused_in_words(
    publish_model: Publish, start_server: StartServer, segment: Segment, case: str
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(oip=ON)
    make, code, terms = WRONG[case]
    async with asking(server) as ask:
        await register(ask, segment)
        error = await refused(ask("ModelInfer", make()))
        assert (error[0], terms in error[1]) == (code, True), error
        assert bytes(segment.buf[NBYTES:]) == bytes(3 * NBYTES)


async def test_a_client_that_cuts_its_memory_short_gets_an_error_and_the_server_goes_on(
    publish_model: Publish, start_server: StartServer, segment: Segment
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(oip=ON)
    async with asking(server) as ask:
        await register(ask, segment)
        for size in (NBYTES, 0):  # the output's place goes first, then the input's
            os.truncate(Path(DIRECTORY) / segment.name, size)
            code, terms = await refused(ask("ModelInfer", inferring()))
            assert (code, "shorter than when it was registered" in terms) == (Code.INVALID_ARGUMENT, True)
        os.truncate(Path(DIRECTORY) / segment.name, 4 * NBYTES)
        await ask("ModelInfer", inferring())
        assert written(segment) == [0.0] * 4


async def test_what_may_not_be_registered_is_refused(
    start_server: StartServer, segment: Segment, request: pytest.FixtureRequest
) -> None:
    server = await start_server(oip=ON)
    shm, own = Path(DIRECTORY), f"turnout-test-{os.getpid()}"
    request.addfinalizer(lambda: [one.unlink() for one in shm.glob(f"{own}*")])
    (shm / f"{own}-link").symlink_to(shm / segment.name)
    os.mkfifo(shm / f"{own}-fifo")
    (shm / f"{own}-other").write_bytes(bytes(64))
    os.chown(shm / f"{own}-other", 12345, -1) if os.geteuid() == 0 else (shm / f"{own}-other").chmod(0)
    malformed = ("", "/", "//", "/.", "..", "/../etc/passwd", f"/{segment.name}/", f"shm/{segment.name}", "a" * 256)
    expected: dict[str, tuple[dict[str, Any], grpc.StatusCode]] = {
        **{f"key {key[:20]!r}": ({"key": key}, Code.INVALID_ARGUMENT) for key in (*malformed, "a\0b", "/sem.x")},
        "a link": ({"key": f"{own}-link"}, Code.NOT_FOUND),
        "a pipe": ({"key": f"{own}-fifo"}, Code.NOT_FOUND),
        "nothing": ({"key": f"{own}-nothing"}, Code.NOT_FOUND),
        "somebody else's": ({"key": f"{own}-other"}, Code.NOT_FOUND),
        "no bytes": ({"byte_size": 0}, Code.INVALID_ARGUMENT),
        "more than there is": ({"byte_size": 65}, Code.INVALID_ARGUMENT),
        "beyond the end": ({"offset": 1}, Code.INVALID_ARGUMENT),
        "an offset that overflows": ({"offset": 2**64 - 1, "byte_size": 2**64 - 1}, Code.INVALID_ARGUMENT),
        "a file of 2**63": ({"offset": 2**63 - 8, "byte_size": 8}, Code.INVALID_ARGUMENT),
        "no name": ({"name": ""}, Code.INVALID_ARGUMENT),
        "a long name": ({"name": "n" * 1025}, Code.INVALID_ARGUMENT),
    }
    before = held("")
    async with asking(server) as ask:
        found = {}
        for case, (more, _) in expected.items():
            found[case], terms = await refused(ask("SystemSharedMemoryRegister", registering(segment, **more)))
            assert DIRECTORY not in terms
        assert found == {case: code for case, (_, code) in expected.items()}
        await register(ask, segment)
        assert (await refused(register(ask, segment)))[0] is Code.ALREADY_EXISTS
        assert len((await ask("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest())).regions) == 1
        await ask("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="r"))
        await ask("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="r"))
    assert held("") == before, "nothing of what was refused, or let go of, is open"


async def test_regions_and_their_bytes_are_bounded(start_server: StartServer, segment: Segment) -> None:
    server = await start_server(
        oip=Oip(system_shared_memory=True, max_shared_memory_regions=2, max_shared_memory_bytes=100)
    )
    async with asking(server) as ask:
        await register(ask, segment, "a", byte_size=60)
        code, terms = await refused(register(ask, segment, "b", byte_size=41))
        assert (code, "oip.max_shared_memory_bytes" in terms) == (Code.RESOURCE_EXHAUSTED, True)
        await register(ask, segment, "b", byte_size=40)
        await ask("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="a"))
        await register(ask, segment, "a", byte_size=1)
        code, terms = await refused(register(ask, segment, "c", byte_size=1))
        assert (code, "oip.max_shared_memory_regions" in terms) == (Code.RESOURCE_EXHAUSTED, True)


async def test_the_inputs_of_a_request_are_bounded_together(segment: Segment) -> None:
    memory = SharedMemory(ON, max_input_bytes=20)
    await memory.register(None, "127.0.0.1", "r", segment.name, 0, 64)
    found = memory.of(None)
    assert found.read(Place("r", 0, 16), "inputs[0]") == X.tobytes()
    with pytest.raises(Exception, match=r"limits\.max_message_bytes"):
        found.read(Place("r", 16, 16), "inputs[1]")
    memory.close()


@pytest.mark.parametrize("host", ["10.0.0.1", "", "::ffff:10.0.0.1", "localhost.example.org"])
async def test_a_caller_from_elsewhere_registers_nothing(segment: Segment, host: str) -> None:
    memory = SharedMemory(ON, max_input_bytes=64)
    with pytest.raises(PermissionDeniedError, match="loopback"):
        await memory.register(None, host, "r", segment.name, 0, 64)
    assert memory.status(None) == []


async def test_all_callers_together_are_bounded_too(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.oip.extensions.shared_memory._MOST_REGIONS", 2)
    memory = SharedMemory(ON, max_input_bytes=64)
    for name in "ab":
        await memory.register(None, "::1", name, segment.name, 0, 1)
    with pytest.raises(Exhausted):
        await memory.register(None, "::1", "c", segment.name, 0, 1)
    memory.close()


async def test_a_region_belongs_to_who_registered_it(
    publish_model: Publish, start_server: StartServer, models: Path, segment: Segment
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    ann, bob = (make_token(models, name, ["predict"], ["m"]) for name in ("ann", "bob"))
    server = await start_server(oip=ON, auth=AUTH)
    other = Segment(create=True, size=NBYTES)
    try:
        other.buf[:] = (5 * X).tobytes()
        async with asking(server, ann) as as_ann, asking(server, bob) as as_bob:
            await register(as_ann, segment)
            assert (await refused(as_bob("ModelInfer", inferring(out=None))))[0] is Code.NOT_FOUND
            assert not (await as_bob("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest())).regions
            named = pb.SystemSharedMemoryStatusRequest(name="r")
            assert (await refused(as_bob("SystemSharedMemoryStatus", named)))[0] is Code.NOT_FOUND
            await register(as_bob, other, byte_size=NBYTES)  # by the same name
            await as_bob("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest())
            await as_ann("ModelInfer", inferring())
            assert written(segment) == TWICE
            code, _ = await refused(asking_nobody(server))
            assert code is Code.UNAUTHENTICATED
    finally:
        other.close()
        other.unlink()


async def asking_nobody(server: Running) -> None:
    async with asking(server) as ask:
        await ask("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest())


async def test_unregistering_and_unloading_let_a_request_under_way_end(
    publish_model: Publish, start_server: StartServer, segment: Segment
) -> None:
    publish_model("slow", "1.0.0", slow())
    server = await start_server(oip=ON, runtime=Runtime(inline_threshold_us=0, runners=1))
    (entry,) = server.services.catalog.snapshot.models["slow"].versions.values()
    running = inferring(model="slow")
    running.inputs.add(name="n", datatype="INT64", shape=[])
    running.raw_input_contents.append(np.int64(60_000).tobytes())
    before = held(segment.name)
    async with asking(server) as ask:
        await register(ask, segment)
        assert held(segment.name) == before + 1
        under_way = asyncio.ensure_future(ask("ModelInfer", running))
        async with asyncio.timeout(100):
            while not entry.handle.inflight:
                await asyncio.sleep(0.001)
        await ask("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="r"))
        unloading = asyncio.ensure_future(server.parts.serving.manager.unload("slow", entry.version))
        assert (await refused(ask("ModelInfer", running)))[0] in (Code.NOT_FOUND, Code.FAILED_PRECONDITION)
        await under_way
        await unloading
        assert written(segment) == (X + 60_000).ravel().tolist()
        async with asyncio.timeout(100):
            while held(segment.name) > before:  # the last to hold the region lets go of it
                await asyncio.sleep(0.01)


async def test_a_drain_lets_a_request_end_and_then_lets_go_of_the_memory(
    publish_model: Publish, models: Path, segment: Segment
) -> None:
    publish_model("slow", "1.0.0", slow())
    settings = make_settings(models, oip=ON, runtime=Runtime(inline_threshold_us=0, runners=1))
    request = inferring(model="slow")
    request.inputs.add(name="n", datatype="INT64", shape=[])
    request.raw_input_contents.append(np.int64(60_000).tobytes())
    before = held(segment.name)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(settings, make_logger("json", "warning")))
        snapshot = await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        (entry,) = snapshot.models["slow"].versions.values()
        async with asking(server) as ask:
            await register(ask, segment)
            under_way = asyncio.ensure_future(ask("ModelInfer", request))
            async with asyncio.timeout(100):
                while not entry.handle or not entry.handle.inflight:
                    await asyncio.sleep(0.001)
            await stack.aclose()
            await under_way
    assert written(segment) == (X + 60_000).ravel().tolist()
    async with asyncio.timeout(100):
        while held(segment.name) > before:
            await asyncio.sleep(0.01)


async def test_where_it_is_off_everything_says_so(
    publish_model: Publish, start_server: StartServer, segment: Segment
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()
    async with asking(server) as ask:
        for method, message in (
            ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest()),
            ("SystemSharedMemoryRegister", registering(segment)),
            ("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest()),
            ("ModelInfer", inferring(out=None)),
            ("ModelInfer", inferring()),
        ):
            code, terms = await refused(ask(method, message))
            assert (code, "oip.system_shared_memory" in terms) == (Code.UNIMPLEMENTED, True)
        metadata = await ask("ServerMetadata", pb.ServerMetadataRequest())
        assert "system_shared_memory" not in metadata.extensions
    with pytest.raises(Exception, match=r"oip\.system_shared_memory"):
        CallerMemory().find(Place("r", 0, 1), "inputs[0]")


async def test_over_http_it_is_the_same(publish_model: Publish, start_server: StartServer, segment: Segment) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(oip=ON)
    region = {"shared_memory_region": "r", "shared_memory_byte_size": NBYTES}
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": region}
    y = {"name": "y", "parameters": region | {"shared_memory_offset": NBYTES, "binary_data": False}}
    base = "/v2/systemsharedmemory"
    async with httpx.AsyncClient(base_url=f"http://{server.http}", timeout=100) as client:
        body = {"key": segment.name, "byte_size": 4 * NBYTES}
        made = await client.post(f"{base}/region/r/register", json=body)
        assert (made.status_code, made.content) == (200, b"")
        assert (await client.post(f"{base}/region/r/register", json=body)).status_code == 409
        for wrong in ({"key": 1, "byte_size": 1}, {"key": segment.name}, {"key": "../x", "byte_size": 1}, []):
            assert (await client.post(f"{base}/region/q/register", json=wrong)).status_code == 400
        listed = [{"name": "r", "key": segment.name, "offset": 0, "byte_size": 4 * NBYTES}]
        assert (await client.get(f"{base}/status")).json() == listed
        assert (await client.get(f"{base}/region/r/status")).json() == listed
        answer = await client.post("/v2/models/m/infer", json={"inputs": [x], "outputs": [y]})
        assert answer.json()["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 4]}]
        assert written(segment) == TWICE
        plain = await client.post("/v2/models/m/infer", json={"inputs": [x]})
        assert plain.json()["outputs"][0]["data"] == TWICE
        binary = {"inputs": [x], "parameters": {"binary_data_output": True}}
        assert (await client.post("/v2/models/m/infer", json=binary)).content.endswith((2 * X).tobytes())
        for wrong in (
            {"inputs": [x | {"data": [1, 2, 3, 4]}]},
            {"inputs": [x | {"parameters": region | {"shared_memory_offset": 49}}]},
            {"inputs": [x | {"parameters": region | {"shared_memory_offset": -1}}]},
            {"inputs": [x | {"parameters": region | {"shared_memory_region": 7}}]},
            {"inputs": [x], "outputs": [y | {"parameters": region | {"shared_memory_byte_size": 15}}]},
        ):
            assert (await client.post("/v2/models/m/infer", json=wrong)).status_code == 400
        escaped = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": '
        escaped += b'{"\\u0073hared_memory_region": "r", "shared_memory_byte_size": 16}}]}'
        assert (await client.post("/v2/models/m/infer", content=escaped)).json()["outputs"][0]["data"] == TWICE
        assert (await client.post(f"{base}/unregister")).status_code == 200
        assert (await client.get(f"{base}/status")).json() == []
        assert (await client.get(f"{base}/region/r/status")).status_code == 404
