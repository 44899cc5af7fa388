"""Calls of every kind over h2corn, from gRPC's own clients."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_status import rpc_status

from carried import SERVICE, Carried, carried, rich_status

SIZES = [0, 1, 1000, 16 * 1024, 70_000, 1 << 20, (4 << 20) - 5]


@pytest.fixture
async def server() -> AsyncIterator[Carried]:
    async with carried() as server:
        yield server


@pytest.fixture
async def channel(server: Carried) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(server.target, options=options) as channel:
        yield channel


def unary(channel: grpc.aio.Channel, method: str):
    return channel.unary_unary(SERVICE + method)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", ["Echo", "Prompt"])
async def test_a_message_of_any_size_comes_back(channel: grpc.aio.Channel, method: str, size: int) -> None:
    message = bytes(range(256)) * (size // 256 + 1)
    assert await unary(channel, method)(message[:size]) == message[:size]


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("size", [*SIZES, 2 * 128 * 1024, 2 * 128 * 1024 + 2])
async def test_a_response_in_pieces_is_one_message(size: int, gzip: bool) -> None:
    message = (bytes(range(256)) * (size // 256 + 1))[:size]
    options = [("grpc.max_receive_message_length", -1)]
    async with (
        carried(gzip=gzip) as server,
        grpc.aio.insecure_channel(server.target, options=options) as channel,
    ):
        half = size // 2
        assert await unary(channel, "Pieces")(message) == b"(" + message[:half] + b"|" + message[half:] + b")"


async def test_prompt_calls_beside_others_are_answered_each(server: Carried, channel: grpc.aio.Channel) -> None:
    calls = [unary(channel, ("Prompt", "Echo")[i % 2])(b"%d" % i) for i in range(300)]
    assert await asyncio.gather(*calls) == [b"%d" % i for i in range(300)]
    assert server.admission.under_way == 0
    assert server.admission.begun == 300


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("size", SIZES)
async def test_a_compressed_message_is_taken(
    channel: grpc.aio.Channel, compression: grpc.Compression, size: int
) -> None:
    assert await unary(channel, "Echo")(bytes(size), compression=compression) == bytes(size)


@pytest.mark.parametrize("size", SIZES)
async def test_answers_are_compressed_where_that_is_set(size: int) -> None:
    async with carried(gzip=True) as server, grpc.aio.insecure_channel(server.target) as channel:
        assert await unary(channel, "Echo")(bytes(size)) == bytes(size)


async def test_the_synchronous_client_is_served_as_well(server: Carried) -> None:
    def ask() -> tuple[bytes, list[bytes]]:
        with grpc.insecure_channel(server.target) as channel:
            answer = channel.unary_unary(SERVICE + "Echo")(b"x")
            return answer, list(channel.stream_stream(SERVICE + "Duplex")(iter([b"a", b"b"])))

    assert await asyncio.get_running_loop().run_in_executor(None, ask) == (b"x", [b"a", b"b"])


async def test_metadata_travels_both_ways(channel: grpc.aio.Channel) -> None:
    sent = (("text", "a, b"), ("data-bin", b"\0\xff\1"), ("twice", "1"), ("twice", "2"), ("empty-bin", b""))
    call = unary(channel, "Tell")(b"", metadata=sent, timeout=100)
    metadata, host, deadline = eval(await call)
    assert [pair for pair in metadata if pair[0] != "user-agent"] == list(sent)
    assert (host, deadline is not None) == ("127.0.0.1", True)
    assert [pair for pair in await call.trailing_metadata() if pair[0] != "user-agent"] == list(sent)


async def test_a_call_without_a_timeout_has_no_deadline(channel: grpc.aio.Channel) -> None:
    assert eval(await unary(channel, "Tell")(b""))[2] is None


@pytest.mark.parametrize("method", ["Fail", "PromptFail", "FailLate"])
async def test_a_status_arrives_with_its_details(channel: grpc.aio.Channel, method: str) -> None:
    call = channel.unary_stream(SERVICE + method)(b"")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for _ in call:
            pass
    assert failure.value.code() is grpc.StatusCode.ABORTED
    assert failure.value.details() == rich_status().message
    assert rpc_status.from_call(failure.value) == rich_status()


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=r"/test\.Service/Other") as failure:
        await unary(channel, "Other")(b"")
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", ["BreakDown", "PromptBreakDown"])
async def test_an_error_that_nobody_foresaw_is_internal_and_says_no_more(method: str) -> None:
    message = []

    class Log:
        def error(self, event: str, **_: object) -> None:
            message.append(event)

    async with carried(log=Log()) as server, grpc.aio.insecure_channel(server.target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await unary(channel, method)(b"")
    assert failure.value.code() is grpc.StatusCode.INTERNAL
    assert "ZeroDivision" not in failure.value.details()
    assert message == ["a method raised what it must not"]


async def test_a_method_that_gives_up_by_itself_ends_its_call(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await unary(channel, "GiveUp")(b"")
    assert failure.value.code() is grpc.StatusCode.CANCELLED


async def test_a_message_beyond_the_limit_is_refused(channel: grpc.aio.Channel) -> None:
    for method in ("Echo", "Prompt", "Collect"):
        with pytest.raises(grpc.aio.AioRpcError, match=r"limits\.max_message_bytes") as failure:
            await unary(channel, method)(bytes((4 << 20) + 1))
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_that_inflates_beyond_the_limit_is_refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=r"limits\.max_message_bytes") as failure:
        await unary(channel, "Echo")(bytes((4 << 20) + 1), compression=grpc.Compression.Gzip)
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["Sleep", "PromptSleep", "Watch"])
async def test_a_call_that_its_client_cancels_is_cancelled(
    server: Carried, channel: grpc.aio.Channel, method: str
) -> None:
    call = channel.unary_stream(SERVICE + method)(b"")
    await asyncio.wait_for(server.seen.began.wait(), 60)
    call.cancel()
    await asyncio.wait_for(server.seen.cancelled.wait(), 60)


@pytest.mark.parametrize("method", ["Sleep", "PromptSleep", "Watch"])
async def test_a_call_whose_client_goes_away_is_cancelled(server: Carried, method: str) -> None:
    channel = grpc.aio.insecure_channel(server.target)
    call = channel.unary_stream(SERVICE + method)(b"")
    waiting = asyncio.ensure_future(call.read())
    await asyncio.wait_for(server.seen.began.wait(), 60)
    await channel.close()
    await asyncio.wait_for(server.seen.cancelled.wait(), 60)
    await asyncio.wait([waiting])


async def test_writing_to_a_client_that_has_left_is_no_error_of_the_server(
    server: Carried, channel: grpc.aio.Channel
) -> None:
    call = channel.unary_stream(SERVICE + "WriteLate")(b"")
    assert await call.read() == b"begun"
    call.cancel()
    await asyncio.wait_for(server.seen.cancelled.wait(), 60)
    assert [type(error) for error in server.seen.write_errors] == [asyncio.CancelledError] * 2


@pytest.mark.parametrize("method", ["Sleep", "PromptSleep", "Watch"])
async def test_a_call_whose_deadline_passes_is_cancelled(
    server: Carried, channel: grpc.aio.Channel, method: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for _ in channel.unary_stream(SERVICE + method)(b"", timeout=1.0):
            pass
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(server.seen.cancelled.wait(), 60)


async def test_a_stream_is_read_while_it_is_written(channel: grpc.aio.Channel) -> None:
    stream = channel.stream_stream(SERVICE + "Duplex")()
    for index in range(50):
        await stream.write(b"%d" % index * (index * 700))
        assert await stream.read() == b"%d" % index * (index * 700)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert ("end", "reached") in list(await stream.trailing_metadata())


async def test_streams_of_one_side_are_carried(channel: grpc.aio.Channel) -> None:
    async def parts():
        for index in range(300):
            yield b"%d," % index

    whole = b"".join([b"%d," % index for index in range(300)])
    assert await channel.stream_unary(SERVICE + "Collect")(parts()) == whole
    counted = [message async for message in channel.unary_stream(SERVICE + "Count")(b"300")]
    assert counted == [b"%d" % index for index in range(300)]
    assert [message async for message in channel.unary_stream(SERVICE + "Count")(b"0")] == []


async def test_a_stream_that_nobody_reads_waits(server: Carried, channel: grpc.aio.Channel) -> None:
    stream = channel.stream_stream(SERVICE + "Duplex")()
    block = bytes(1 << 20)

    async def fill() -> None:
        for _ in range(200):
            await stream.write(block)
        await stream.done_writing()

    filling = asyncio.create_task(fill())
    _, pending = await asyncio.wait([filling], timeout=1.0)
    assert pending  # with 200 MB under way, somebody would have to hold them
    received = 0
    while (message := await stream.read()) is not grpc.aio.EOF:
        received += len(message)
    await filling
    assert received == 200 << 20


async def test_calls_are_counted_while_they_run(server: Carried, channel: grpc.aio.Channel) -> None:
    call = unary(channel, "Sleep")(b"")
    await asyncio.wait_for(server.seen.began.wait(), 60)
    assert server.admission.under_way == 1
    call.cancel()
    await asyncio.wait_for(server.seen.cancelled.wait(), 60)
    await unary(channel, "Echo")(b"")
    assert server.admission.under_way == 0


async def test_a_call_too_many_is_refused_with_a_delay() -> None:
    async with carried(max_requests=2) as server, grpc.aio.insecure_channel(server.target) as channel:
        waiting = [unary(channel, "Sleep")(b"") for _ in range(2)]
        async with asyncio.timeout(100):
            while server.admission.under_way < 2:
                await asyncio.sleep(0.01)
        with pytest.raises(grpc.aio.AioRpcError, match=r"limits\.max_requests") as failure:
            await unary(channel, "Echo")(b"")
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "RetryInfo" in str(rpc_status.from_call(failure.value))
        assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"x") == b"x"
        for call in waiting:
            call.cancel()


async def test_a_thousand_calls_at_once_are_answered(channel: grpc.aio.Channel) -> None:
    echo = unary(channel, "Echo")
    messages = [b"%d" % index for index in range(1000)]
    assert await asyncio.gather(*(echo(message) for message in messages)) == messages
