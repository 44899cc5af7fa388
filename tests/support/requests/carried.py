"""A listener with small test methods, and what is needed to call them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from turnout.admission.requests import Admission, ReceiveBudget
from turnout.admission.unread import UnsentBudget
from turnout.chunks import Serialized
from turnout.config import Address, Drain, Limits, Settings
from turnout.errors import TurnoutError
from turnout.rpc.errors import to_status
from turnout.rpc.transport.asgi.application import GrpcApplication
from turnout.rpc.transport.asgi.call import CallLimits
from turnout.rpc.transport.asgi.running_calls import RunningCalls
from turnout.rpc.transport.h2corn import H2cornListener, ListenerApplication
from turnout.rpc.transport.listening_socket import listen
from turnout.rpc.transport.port import Methods, Parts, RpcCall, StatusError, Stream, Streaming, Unary
from turnout.telemetry.logging import make_logger
from turnout.threads import Threads
from turnout.tls.identity import ServerIdentity

SERVICE = "/test.Service/"


def limited(*, grace_s: float = 5.0, **limits: float) -> Settings:
    """Returns settings with these limits, and time for calls when a listener stops."""
    given = {"max_connections": 1000, "header_timeout_s": 5.0, "body_timeout_s": 60.0, "idle_timeout_s": 60.0, **limits}
    return Settings(limits=Limits(**given), drain=Drain(timeout_s=grace_s))


@dataclass
class Seen:
    """What methods observed.

    Attributes:
        calls: The last call of each method, by name.
        began: Set when a call of `Sleep` or `Watch` has begun.
        cancelled: Set when such a call was cancelled.
        write_errors: What writing raised after the client had left.
    """

    calls: dict[str, RpcCall] = field(default_factory=dict)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    write_errors: list[BaseException] = field(default_factory=list)


def rich_status() -> Status:
    """Returns a status with a detail, and a message that must be encoded for transport."""
    detail = AnyMessage()
    detail.Pack(RetryInfo())
    return Status(code=code_pb2.ABORTED, message="100 % grün\n", details=[detail])


def methods(seen: Seen) -> Methods:
    """Returns the methods by path."""

    async def echo(message: Serialized, call: RpcCall) -> bytes:
        seen.calls["Echo"] = call
        return bytes(message)

    async def pieces(message: Serialized, _: RpcCall) -> Parts:
        whole = bytes(message)
        half = len(whole) // 2
        return Parts(
            (b"(", whole[:half], b"|", b"", whole[half:], b")"), UnsentBudget(len(whole)).reserve(None, len(whole))
        )

    async def tell(message: Serialized, call: RpcCall) -> bytes:
        try:
            call.trailing = tuple(call.metadata)
        except TurnoutError as error:
            raise StatusError(to_status(error)) from None
        return repr((call.metadata, call.host, call.deadline)).encode()

    async def show_certificate(message: Serialized, call: RpcCall) -> bytes:
        seen.calls["Certificate"] = call
        return call.certificate.encode()

    async def show_certificates(stream: Stream) -> None:
        await stream.write(stream.certificate.encode())

    async def sleep(message: Serialized, call: RpcCall) -> bytes:
        seen.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.cancelled.set()
            raise
        raise AssertionError

    async def fail(message: Serialized, call: RpcCall) -> bytes:
        raise StatusError(rich_status())

    async def break_down(message: Serialized, call: RpcCall) -> bytes:
        raise ZeroDivisionError

    async def give_up(message: Serialized, call: RpcCall) -> bytes:
        raise asyncio.CancelledError

    async def duplex(stream: Stream) -> None:
        seen.calls["Duplex"] = stream
        while (message := await stream.read()) is not None:
            await stream.write(message)
        stream.trailing = (("end", "reached"),)

    async def duplex_together(stream: Stream) -> None:
        while messages := await stream.read_some(16):
            await stream.write_all(list(map(bytes, messages)))

    async def collect(stream: Stream) -> None:
        parts = []
        while (message := await stream.read()) is not None:
            parts.append(message)
        await stream.write(b"".join(parts))

    async def count(stream: Stream) -> None:
        for number in range(int(await stream.read() or b"0")):
            await stream.write(b"%d" % number)

    async def watch(stream: Stream) -> None:
        await stream.write(b"begun")
        seen.began.set()
        try:
            await stream.read()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.cancelled.set()
            raise

    async def write_late(stream: Stream) -> None:
        await stream.write(b"begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            for write in (stream.write(b"late"), stream.write_all((b"la", b"te"))):
                try:
                    await write
                except BaseException as error:  # noqa: BLE001 - what it is the test says
                    seen.write_errors.append(error)
            seen.cancelled.set()
            raise

    async def fail_late(stream: Stream) -> None:
        await stream.write(b"one")
        raise StatusError(rich_status())

    async def break_down_late(stream: Stream) -> None:
        await stream.write(b"one")
        raise ZeroDivisionError

    return {
        SERVICE + "Echo": Unary(echo),
        SERVICE + "Prompt": Unary(lambda message, _: bytes(message), prompt=True),
        SERVICE + "Pieces": Unary(pieces),
        SERVICE + "PromptSleep": Unary(sleep, prompt=True),
        SERVICE + "PromptFail": Unary(fail, prompt=True),
        SERVICE + "PromptBreakDown": Unary(break_down, prompt=True),
        SERVICE + "Tell": Unary(tell),
        SERVICE + "Certificate": Unary(show_certificate),
        SERVICE + "Certificates": Streaming(show_certificates),
        SERVICE + "Sleep": Unary(sleep),
        SERVICE + "Fail": Unary(fail),
        SERVICE + "BreakDown": Unary(break_down),
        SERVICE + "BreakDownLate": Streaming(break_down_late),
        SERVICE + "GiveUp": Unary(give_up),
        SERVICE + "Duplex": Streaming(duplex),
        SERVICE + "DuplexTogether": Streaming(duplex_together),
        SERVICE + "Collect": Streaming(collect),
        SERVICE + "Count": Streaming(count),
        SERVICE + "Watch": Streaming(watch),
        SERVICE + "WriteLate": Streaming(write_late),
        SERVICE + "FailLate": Streaming(fail_late),
        "/grpc.health.v1.Health/Check": Unary(echo),
        "/grpc.health.v1.Health/Watch": Streaming(watch),
    }


@dataclass
class Carried:
    """A listener, and the objects that belong to it."""

    address: Address
    listener: H2cornListener
    admission: Admission
    budget: ReceiveBudget
    unsent: UnsentBudget
    seen: Seen

    @property
    def target(self) -> str:
        """Address in the form that clients use."""
        return str(self.address)


@asynccontextmanager
async def carried(
    *,
    max_message_bytes: int = 4 << 20,
    message_seconds: float = 30.0,
    gzip: bool = False,
    max_requests: int = 10_000,
    max_unfinished_bytes: int = 64 << 20,
    settings: Settings | None = None,
    fallback: Callable[..., Any] | None = None,
    log: Any = None,
    identity: ServerIdentity | None = None,
) -> AsyncIterator[Carried]:
    """Serves the methods while the context is entered."""
    seen, admission, budget = Seen(), Admission(max_requests), ReceiveBudget(max_unfinished_bytes)
    unsent = UnsentBudget(1 << 29)
    threads = Threads("compression")
    log = log if log is not None else make_logger("json", "error")
    paths = methods(seen)
    call_limits = CallLimits(max_message_bytes, message_seconds, gzip, budget, threads, unsent)

    def application(calls: RunningCalls) -> GrpcApplication:
        return GrpcApplication(paths, calls, call_limits, admission, log, fallback)

    unary = [path for path, method in paths.items() if isinstance(method, Unary)]
    listening = listen(Address("127.0.0.1", 0))
    listener = H2cornListener(
        listening, "127.0.0.1", ListenerApplication(application, unary), settings or limited(), log, identity
    )
    await listener.start()
    try:
        yield Carried(listener.address, listener, admission, budget, unsent, seen)
    finally:
        await listener.stop(0.0)
        threads.shutdown()


async def listens(address: Address) -> bool:
    """Returns whether something accepts connections at an address."""
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True
