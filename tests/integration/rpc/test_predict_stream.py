"""One stream carries many requests; each has its own end."""

import asyncio
import time

import grpc
import numpy as np
import pytest
import pytest_asyncio
from semver import Version

from held import held_runs
from onnx_models import repeats, scaled, slow
from turnout.config import Limits, ModelOverrides, Runtime
from turnout_proto.v1 import prediction_pb2 as pb
from wire import X, outputs_of, request, stub_of

pytestmark = pytest.mark.both_transports

one_server = pytest.mark.asyncio(loop_scope="module")
"""Of tests that change nothing on the server which they share."""

THREADS = Runtime(inline_threshold_us=0, runners=2)


@pytest.fixture(scope="module")
def all_models(publish_for_module) -> None:
    publish_for_module("fast", "1.0.0", scaled(3))
    for name in ("slow", "two", "one"):
        publish_for_module(name, "1.0.0", slow())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(all_models, start_server_for_module):
    """Its model `two` has two runners, and `one` one."""
    one_runner = Runtime(runners=1, inline_threshold_us=0)
    overrides = {"two": ModelOverrides(runtime=THREADS), "one": ModelOverrides(runtime=one_runner)}
    return await start_server_for_module(model=overrides)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(server):
    async with stub_of(server) as stub:
        yield stub


def _item(model: str, request_id: str, timeout_ms: int = 0, version: str = "", **inputs) -> pb.PredictStreamRequest:
    return pb.PredictStreamRequest(
        request=request(model, version, request_id=request_id, **inputs), timeout_ms=timeout_ms
    )


async def _read(stream, count: int) -> dict[str, pb.PredictStreamResponse]:
    answers = {}
    async with asyncio.timeout(100):
        for _ in range(count):
            answer = await stream.read()
            assert answer is not grpc.aio.EOF
            answers[answer.request_id] = answer
    return answers


@one_server
async def test_answers_bear_their_requests_id_whatever_the_order(server, stub) -> None:
    stream = stub.PredictStream()
    with held_runs(server, "slow") as go_on:
        await stream.write(_item("slow", "late", x=X, n=np.int64(1)))
        for i in range(20):
            await stream.write(_item("fast", f"r{i}", x=X + i))
        answers = await _read(stream, 20)
        go_on.set()
        last = await _read(stream, 1)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    for i in range(20):
        np.testing.assert_array_equal(outputs_of(answers[f"r{i}"].response)["y"], 3 * (X + i))
    assert last.keys() == {"late"}


async def test_items_that_come_together_are_answered_each(publish_model, start_server) -> None:
    """Also more than may be unanswered, some answered at once and some by a runner, and some refused."""
    publish_model("fast", "1.0.0", scaled(3))
    publish_model("slow", "1.0.0", slow())
    limits = Limits(max_stream_items=20)
    async with stub_of(await start_server(limits=limits)) as stub:
        kinds = ("fast", "slow", "fast", "nobody", "fast")
        items = [
            _item(kind := kinds[i % 5], f"r{i}", x=X + i, **({"n": np.int64(3)} if kind == "slow" else {}))
            for i in range(300)
        ]
        stream = stub.PredictStream(iter(items))
        answers = {answer.request_id: answer async for answer in stream}
    assert len(answers) == 300
    for i, item in enumerate(items):
        answer = answers[f"r{i}"]
        if item.request.model == "fast":
            np.testing.assert_array_equal(outputs_of(answer.response)["y"], 3 * (X + i))
        else:
            assert answer.WhichOneof("result") == ("error" if item.request.model == "nobody" else "response")


@one_server
async def test_one_items_failure_is_its_own_status_and_not_the_streams_end(stub) -> None:
    stream = stub.PredictStream()
    await stream.write(_item("nobody", "a", x=X))
    await stream.write(_item("fast", "b", version="^^", x=X))
    await stream.write(_item("fast", "c", x=X.astype(np.float64)))
    await stream.write(_item("fast", "", x=X))
    await stream.write(pb.PredictStreamRequest())
    await stream.write(_item("fast", "d", x=X))
    answers = await _read(stream, 6)
    await stream.done_writing()
    codes = {name: answer.error.code for name, answer in answers.items()}
    assert codes["a"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert codes["b"] == codes["c"] == codes[""] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert answers["d"].WhichOneof("result") == "response"


@one_server
async def test_an_id_that_is_under_way_is_refused(server, stub) -> None:
    stream = stub.PredictStream()
    with held_runs(server, "two"):
        await stream.write(_item("two", "a", x=X, n=np.int64(2)))
        await stream.write(_item("two", "a", x=X, n=np.int64(1)))
        refused = await stream.read()
    answered = await stream.read()
    await stream.done_writing()
    assert refused.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert answered.WhichOneof("result") == "response"


@one_server
async def test_an_item_has_a_time_of_its_own(server, stub) -> None:
    stream = stub.PredictStream()
    with held_runs(server, "one"):
        await stream.write(_item("one", "long", x=X, n=np.int64(1)))
        await stream.write(_item("one", "short", timeout_ms=20, x=X, n=np.int64(2)))
        answers = await _read(stream, 1)
    answers |= await _read(stream, 1)
    await stream.done_writing()
    assert answers["short"].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert answers["long"].WhichOneof("result") == "response"


@one_server
async def test_a_cancelled_item_is_not_answered(server, stub) -> None:
    stream = stub.PredictStream()
    with held_runs(server, "one"):
        await stream.write(_item("one", "first", x=X, n=np.int64(1)))
        await stream.write(_item("one", "given up", x=X, n=np.int64(2)))
        await stream.write(pb.PredictStreamRequest(cancel="given up"))
        await stream.write(_item("one", "last", x=X, n=np.int64(3)))
        await stream.write(_item("fast", "beside", x=X))
        assert (await _read(stream, 1)).keys() == {"beside"}  # all that was written is read
    answers = await _read(stream, 2)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert answers.keys() == {"first", "last"}


async def test_a_client_that_does_not_read_stops_itself_and_nobody_else(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(limits={"max_stream_items": 4})
    rows = np.zeros((4000, 4), np.float32)
    async with stub_of(server) as stub:
        stream = stub.PredictStream()

        async def flood() -> None:
            for i in range(200):
                await stream.write(_item("m", str(i), x=rows))
            await stream.done_writing()

        writer = asyncio.create_task(flood())
        assert (await stub.Predict(request("m", x=X))).outputs  # another caller is served meanwhile
        answers = await _read(stream, 200)
        await writer
    assert len(answers) == 200


async def test_a_client_that_does_not_read_holds_few_large_answers(publish_model, start_server) -> None:
    """Its further requests wait until it reads, although they are small and far fewer than a stream may have."""
    publish_model("m", "1.0.0", repeats(65_536))  # answers of 1 MiB
    server = await start_server()
    runs = server.services.catalog.snapshot.models["m"].versions[Version(1, 0, 0)].handle.recorder.batches
    before, sent, most = runs.runs, 0, 60
    async with stub_of(server) as stub:
        stream = stub.PredictStream()
        while sent == runs.runs - before and sent < most:
            for _ in range(4):
                await stream.write(_item("m", str(sent), x=X))
                sent += 1
            try:
                async with asyncio.timeout(2):
                    while runs.runs - before < sent:
                        await asyncio.sleep(0.001)
            except TimeoutError:
                break
        assert runs.runs - before < most, "all were run, and none of the answers has been read"
        assert len(await _read(stream, sent)) == sent
        await stream.done_writing()


@one_server
async def test_a_half_closed_stream_finishes_what_is_under_way(stub) -> None:
    stream = stub.PredictStream()
    for i in range(4):
        await stream.write(_item("two", str(i), x=X, n=np.int64(5_000 + i)))
    await stream.done_writing()
    assert len(await _read(stream, 4)) == 4
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_a_drained_stream_finishes_and_ends_with_unavailable(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", slow())
    server = await start_server(runtime=THREADS)
    async with stub_of(server) as stub:
        stream = stub.PredictStream()
        await stream.write(_item("m", "quick", x=X, n=np.int64(1)))
        await _read(stream, 1)
        await stream.write(_item("m", "under way", x=X, n=np.int64(20_000)))
        handle = next(iter(server.services.catalog.snapshot.models["m"].versions.values())).handle
        async with asyncio.timeout(100):
            while not handle.inflight:
                await asyncio.sleep(0.001)
        server.services.inference.drain()
        assert "under way" in await _read(stream, 1)
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_items_time_runs_from_when_its_client_wrote_it(publish_model, start_server) -> None:
    """What it waited on its way is told by its client's clock, held against that of its quicker neighbours."""
    publish_model("inline", "1.0.0", scaled(3))
    publish_model("threads", "1.0.0", slow())
    server = await start_server(runtime=Runtime(inline_threshold_us=100_000))
    async with stub_of(server) as stub:
        stream = stub.PredictStream()
        for model, more in (("inline", {}), ("threads", {"n": np.int64(1)})):
            quick, late, patient, silent = (
                _item(model, name, timeout_ms, x=X, **more)
                for name, timeout_ms in (("quick", 20_000), ("late", 4_000), ("patient", 60_000), ("silent", 4_000))
            )
            quick.sent_ms = 1_000_000
            late.sent_ms = patient.sent_ms = 995_000  # five seconds before, and it comes after
            for item in (quick, late, patient, silent):
                await stream.write(item)
            answers = await _read(stream, 4)
            assert answers["late"].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            for name in ("quick", "patient", "silent"):
                assert answers[name].HasField("response"), answers[name]
        await stream.done_writing()
    models = server.services.catalog.snapshot.models.values()
    recorders = [model.versions[Version(1, 0, 0)].handle.recorder for model in models]
    assert [recorder.batches.rows for recorder in recorders] == [3, 3]  # late ones were never computed
    assert [recorder.roles["baseline"].codes["DEADLINE_EXCEEDED"] for recorder in recorders] == [1, 1]


TIMES = {"first": 0, "long": 0, "short": 50, "last": 0}
"""Milliseconds that items may take; 0 for any time."""


async def test_time_that_a_stream_is_not_read_counts(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", slow())
    server = await start_server(limits=Limits(max_stream_items=1), runtime=THREADS)
    async with stub_of(server) as stub:
        stream = stub.PredictStream()
        items = {name: _item("m", name, timeout_ms, x=X, n=np.int64(1)) for name, timeout_ms in TIMES.items()}
        items["first"].sent_ms = int(time.monotonic() * 1000)
        await stream.write(items.pop("first"))
        answers = await _read(stream, 1)  # at once
        with held_runs(server, "m") as go_on:  # the second holds reading up for longer than the third may take
            for item in items.values():
                item.sent_ms = int(time.monotonic() * 1000)
                await stream.write(item)
            asyncio.get_running_loop().call_later(0.2, go_on.set)
            answers |= await _read(stream, 3)
        await stream.done_writing()
    assert answers["short"].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert all(answers[name].HasField("response") for name in ("first", "long", "last"))
