"""Listeners with real certificates: who gets in, what the others are told, and what changed files do."""

import asyncio
import json
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509

from certificates import UNREADABLE_NAMES, Authority, Certified, put
from onnx_models import scaled
from ports import free_port
from published import Publish
from started_servers import StartServer
from turnout.app.server import Running
from turnout.config import Address
from turnout.errors import ConfigError
from turnout.telemetry.exposition import negotiate
from turnout_client import AsyncClient, Client, Tls, Unavailable
from turnout_proto.v1 import prediction_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import X, request

AUTHORITY, OTHERS = Authority.make("an authority"), Authority.make("others")
LISTENERS = ("grpc", "control")
QUICKLY = 0.05
BOUND = 60.0


@dataclass(frozen=True)
class Files:
    """The files of one test: those of the server, and what a client may show."""

    directory: Path

    def put(self, name: str, data: bytes) -> str:
        return str(put(self.directory / name, data))

    def server(self, certified: Certified | None = None, **more: Any) -> dict[str, Any]:
        """Writes the server's files, and returns its settings."""
        cert, key = (certified or AUTHORITY.issue()).write(self.directory, "server")
        return {"cert": str(cert), "key": str(key), "poll_interval_s": QUICKLY, **more}

    def asking(self, mode: str = "required", certified: Certified | None = None) -> dict[str, Any]:
        """The same, of one that asks clients for certificates."""
        ca = self.put("clients-ca.pem", AUTHORITY.pem)
        return self.server(certified, client_ca=ca, client_certificates=mode)

    def trust(self, authority: Authority = AUTHORITY) -> str:
        return self.put(f"{authority.certificate.serial_number}.pem", authority.pem)

    def client(self, certified: Certified | None = None, authority: Authority = AUTHORITY, **more: Any) -> Tls:
        """How a client calls; without `certified` it shows nothing."""
        if certified is None:
            return Tls(ca=self.trust(authority), **more)
        cert, key = certified.write(self.directory, f"client-{certified.certificate.serial_number}")
        return Tls(ca=self.trust(authority), cert=cert, key=key, **more)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "tls").mkdir()
    return Files(tmp_path / "tls")


@pytest.fixture
def one_model(publish_model: Publish) -> None:
    publish_model("m", "1.0.0", scaled(2.0))


def address_of(server: Running, listener: str) -> Address:
    address: Address = getattr(server, listener)
    return address


async def certificate_subject(address: Address, client: Tls | None = None) -> str:
    """Returns the subject of what a listener shows to a new connection."""

    def look() -> str:
        context = Tls().context() if client is None else client.context()
        context.load_verify_locations(cadata=AUTHORITY.pem.decode())
        with (
            socket.create_connection((address.host, address.port), BOUND) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as encrypted,
        ):
            der = encrypted.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).subject.rfc4514_string()

    return await asyncio.get_running_loop().run_in_executor(None, look)


async def asked(stream: Any, name: str) -> bool:
    """Sends a request on a stream, and tells whether its answer comes."""
    await stream.write(pb.PredictStreamRequest(request=request("m", request_id=name, x=X)))
    answer = await stream.read()
    return bool(answer.request_id == name and answer.HasField("response"))


async def until(holds: Callable[[], bool]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(BOUND):
        while not holds():
            await asyncio.sleep(0.01)


async def until_shown(address: Address, subject: str, client: Tls | None = None) -> None:
    """Waits until new connections are shown the certificate of `subject`."""
    async with asyncio.timeout(BOUND):
        while await certificate_subject(address, client) != subject:
            await asyncio.sleep(0.01)


async def messages_of(server: Running, listener: str, tls: Tls | None) -> list[str]:
    """Returns what each kind of client says of its call: blocking, and on asyncio by call and by stream."""
    target = str(address_of(server, listener))

    def blocking() -> str:
        with Client(target, tls=tls, retries=0) as client:
            try:
                client.predict("m", {"x": X})
            except Unavailable as error:
                return error.message
        return "answered"

    expected_text = [await asyncio.get_running_loop().run_in_executor(None, blocking)]
    for transport in ("unary", "stream"):
        async with AsyncClient(target, tls=tls, retries=0, transport=transport) as client:
            try:
                await client.predict("m", {"x": X})
                expected_text.append("answered")
            except Unavailable as error:
                expected_text.append(error.message)
    return expected_text


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.usefixtures("one_model")
async def test_clients_with_a_certificate_of_the_authority_are_answered(
    files: Files, start_server: StartServer, listener: str
) -> None:
    server = await start_server(tls=files.asking())
    assert set(await messages_of(server, listener, files.client(AUTHORITY.issue("a client")))) == {"answered"}


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.usefixtures("one_model")
async def test_chains_lead_to_the_authority_on_both_sides(
    files: Files, start_server: StartServer, listener: str
) -> None:
    between = AUTHORITY.intermediate()
    server = await start_server(tls=files.asking(certified=between.issue()))
    assert set(await messages_of(server, listener, files.client(between.issue("a client")))) == {"answered"}


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize(
    ("client", "expected_text"),
    [
        (lambda files: None, "speaks TLS, and this client does not: name its authority"),
        (lambda files: files.client(AUTHORITY.issue(), OTHERS), "was not signed by an authority in "),
        (lambda files: files.client(AUTHORITY.issue(), server_name="elsewhere"), "is not for 'elsewhere'"),
        (lambda files: files.client(), "equires? a client certificate"),
        (lambda files: files.client(OTHERS.issue()), "client certificate in .*"),
        (lambda files: files.client(AUTHORITY.issue(days=-1)), "client certificate in .*expired"),
    ],
    ids=["plain text", "another authority", "another name", "no certificate", "a foreign one", "an expired one"],
)
@pytest.mark.usefixtures("one_model")
async def test_clients_that_do_not_get_in_are_told_why(
    files: Files,
    start_server: StartServer,
    listener: str,
    client: Callable[[Files], Tls | None],
    expected_text: str,
) -> None:
    server = await start_server(tls=files.asking())
    for message in await messages_of(server, listener, client(files)):
        assert str(address_of(server, listener)) in message
        assert re.search(expected_text, message), message
        assert "\n" not in message


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.usefixtures("one_model")
async def test_a_server_that_expired_or_speaks_plain_text_is_named(
    files: Files, start_server: StartServer, listener: str
) -> None:
    expired = await start_server(tls=files.server(AUTHORITY.issue(days=-1)))
    for message in await messages_of(expired, listener, files.client()):
        assert "the certificate of the server at" in message
        assert "has expired" in message
    # h2corn waits as long for a request line, and gRPC five seconds for the other side's part of a handshake.
    plain = await start_server(limits={"header_timeout_s": 0.2})
    for message in await messages_of(plain, listener, files.client()):
        assert "speaks plain text, and this client TLS" in message


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.usefixtures("one_model")
async def test_changed_files_are_shown_to_new_connections_and_end_no_old_one(
    files: Files, start_server: StartServer, listener: str
) -> None:
    server = await start_server(tls=files.server(AUTHORITY.issue("before")))
    address, tls = address_of(server, listener), files.client()
    assert await certificate_subject(address) == "CN=before"
    async with (
        AsyncClient(str(address), tls=tls, retries=0) as client,
        grpc.aio.secure_channel(str(address), tls.credentials()) as channel,
    ):
        await client.predict("m", {"x": X})
        stream = PredictionServiceStub(channel).PredictStream(timeout=BOUND)
        assert await asked(stream, "before")
        for name in ("after", "again"):
            files.server(AUTHORITY.issue(name))
            await until_shown(address, f"CN={name}")
            assert await asked(stream, name)
            await client.predict("m", {"x": X})
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() == grpc.StatusCode.OK
    recorder = server.parts.base.metrics.server.tls
    await until(lambda: recorder.reloads[listener] == 2)


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.usefixtures("one_model")
async def test_changed_authorities_of_clients_hold_for_new_connections(
    files: Files, start_server: StartServer, listener: str
) -> None:
    server = await start_server(tls=files.asking())
    address, stranger = address_of(server, listener), files.client(OTHERS.issue("a stranger"))
    assert "answered" not in await messages_of(server, listener, stranger)
    files.put("clients-ca.pem", OTHERS.pem)
    async with AsyncClient(str(address), tls=stranger, retries=1000, timeout=BOUND) as client:
        await client.predict("m", {"x": X})
    assert "answered" not in await messages_of(server, listener, files.client(AUTHORITY.issue("a client")))


BREAKS: dict[str, Callable[[Files], object]] = {
    "another's key": lambda files: files.put("server.key", AUTHORITY.issue().key),
    "no certificate": lambda files: files.put("server.pem", b"nothing"),
    "half a certificate": lambda files: files.put("server.pem", AUTHORITY.issue().pem[:300]),
    "an encrypted key": lambda files: files.put("server.key", AUTHORITY.issue().encrypted_key),
    "names that cannot be read": lambda files: files.server(AUTHORITY.issue(hosts=(), extensions=(UNREADABLE_NAMES,))),
    "no file": lambda files: (files.directory / "server.pem").unlink(),
    "a directory": lambda files: ((files.directory / "server.key").unlink(), (files.directory / "server.key").mkdir()),
    "an expired certificate": lambda files: files.server(AUTHORITY.issue(days=-1)),
    "a certificate of tomorrow": lambda files: files.server(AUTHORITY.issue(starts=1)),
}


@pytest.mark.parametrize("broken", BREAKS.values(), ids=BREAKS)
@pytest.mark.usefixtures("one_model")
async def test_files_that_cannot_be_used_leave_the_certificate_before_in_force(
    files: Files, start_server: StartServer, broken: Callable[[Files], object], capsys: pytest.CaptureFixture[str]
) -> None:
    server = await start_server(tls=files.server(AUTHORITY.issue("before")), wait=False)
    recorder = server.parts.base.metrics.server.tls
    before = dict(recorder.expires)
    broken(files)
    await until(lambda: all(recorder.failed.values()))
    for listener in LISTENERS:
        assert await certificate_subject(address_of(server, listener)) == "CN=before"
    assert recorder.expires == before
    text = b"".join([block async for block in server.parts.base.metrics.scrape(negotiate(""))]).decode()
    assert 'turnout_tls_reload_failing{listener="control"} 1.0\n' in text
    if (files.directory / "server.key").is_dir():
        (files.directory / "server.key").rmdir()
    files.server(AUTHORITY.issue("after", days=60))
    await until(lambda: not any(recorder.failed.values()))
    for listener in LISTENERS:
        await until_shown(address_of(server, listener), "CN=after")
    assert all(recorder.expires[listener] > at for listener, at in before.items())
    logged = capsys.readouterr().err
    entries = [json.loads(line) for line in logged.splitlines() if "files cannot be used" in line]
    faults = [(entry["listener"], entry["reason"]) for entry in entries]
    assert {listener for listener, _ in faults} == set(before)
    assert len(faults) == len(set(faults))  # once each, however often it was tried; mended files come one by one
    assert all("tls." in reason for _, reason in faults)
    assert "PRIVATE" not in logged


@pytest.mark.parametrize(
    ("spoil", "expected_text"),
    [
        (lambda files, tls: (files.directory / "server.pem").unlink(), "tls.cert: there is no file "),
        (lambda files, tls: tls.update(key=str(files.directory)), "tls.key: .* cannot be read: Is a directory"),
        (lambda files, tls: files.put("server.key", AUTHORITY.issue().key), "does not belong to the certificate"),
        (lambda files, tls: files.put("server.key", AUTHORITY.issue().encrypted_key), "is encrypted"),
        (lambda files, tls: tls.update(client_ca="/nowhere"), "tls.client_ca: there is no file /nowhere"),
        (lambda files, tls: files.put("clients-ca.pem", b""), "tls.client_ca .* holds no PEM certificate"),
    ],
)
async def test_a_server_does_not_start_with_what_it_cannot_use(
    files: Files, start_server: StartServer, spoil: Callable[[Files, dict[str, Any]], object], expected_text: str
) -> None:
    tls = files.asking()
    spoil(files, tls)
    with pytest.raises(ConfigError, match=expected_text):
        await start_server(tls=tls)


async def test_a_server_starts_with_an_expired_certificate_and_says_so(
    files: Files, start_server: StartServer, capsys: pytest.CaptureFixture[str]
) -> None:
    await start_server(tls=files.server(AUTHORITY.issue("old", days=-1)), wait=False)
    assert "CN=old expired on" in capsys.readouterr().err


async def test_one_listener_may_speak_plain_text_beside_others(files: Files, start_server: StartServer) -> None:
    server = await start_server(tls={**files.server(AUTHORITY.issue("a server")), "control": {"enabled": False}})
    assert await certificate_subject(server.grpc) == "CN=a server"
    with Client(str(server.control)) as client:
        await asyncio.get_running_loop().run_in_executor(None, client.models)
    assert set(server.parts.base.metrics.server.tls.expires) == {"grpc", "http"}


def https(files: Files, client: Certified | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files.trust())
    if client is not None:
        context.load_cert_chain(*client.write(files.directory, "browser"))
    return context


@pytest.mark.usefixtures("one_model")
async def test_http_is_https_and_keeps_its_connections_through_changes(files: Files, start_server: StartServer) -> None:
    server = await start_server(tls=files.asking(certified=AUTHORITY.issue("before")))
    base = f"https://localhost:{server.http.port}"
    own = AUTHORITY.issue("a browser")
    async with httpx.AsyncClient(verify=https(files, own), base_url=base) as client:
        answer = await client.post("/predict/m", json={"inputs": {"x": X.tolist()}})
        assert answer.status_code == 200
        first = answer.extensions["network_stream"].get_extra_info("client_addr")
        files.server(AUTHORITY.issue("after"))
        await until_shown(server.http, "CN=after", files.client(own))
        again = await client.get("/metrics")
        assert again.extensions["network_stream"].get_extra_info("client_addr") == first
        assert 'turnout_tls_reloads_total{listener="http"} 1.0\n' in again.text
        assert 'turnout_tls_certificate_expiry_timestamp_seconds{listener="http"}' in again.text
    async with httpx.AsyncClient(verify=https(files), base_url=base) as client:
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await client.get("/livez")
    async with httpx.AsyncClient(base_url=f"http://localhost:{server.http.port}") as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/livez")


async def test_scrapes_may_come_without_a_certificate_where_calls_may_not(
    files: Files, start_server: StartServer
) -> None:
    tls = {**files.asking(), "http": {"client_certificates": "none"}}
    server = await start_server(tls=tls)
    async with httpx.AsyncClient(verify=https(files), base_url=f"https://localhost:{server.http.port}") as client:
        assert (await client.get("/livez")).status_code == 200
    assert "answered" not in await messages_of(server, "grpc", files.client())


@pytest.mark.usefixtures("one_model")
async def test_one_port_for_both_has_one_certificate(files: Files, start_server: StartServer) -> None:
    address = Address("127.0.0.1", free_port())
    tls = files.server()
    with pytest.raises(ConfigError, match=r"tls\.grpc and tls\.http: expected the same"):
        await start_server(grpc=address, http=address, tls={**tls, "http": {"enabled": False}})
    server = await start_server(grpc=address, http=address, tls=tls)
    async with httpx.AsyncClient(verify=https(files), base_url=f"https://localhost:{address.port}") as client:
        assert (await client.get("/readyz")).status_code == 200
    assert set(await messages_of(server, "grpc", files.client())) == {"answered"}


@pytest.mark.usefixtures("one_model")
async def test_the_other_transport_speaks_tls_too(files: Files, start_server: StartServer) -> None:
    server = await start_server(tls=files.asking(), transport={"data": "grpcio"})
    assert set(await messages_of(server, "grpc", files.client(AUTHORITY.issue()))) == {"answered"}
    assert "answered" not in await messages_of(server, "grpc", files.client())
    files.server(AUTHORITY.issue("after"))
    await until_shown(server.grpc, "CN=after", files.client(AUTHORITY.issue()))
    with pytest.raises(ConfigError, match="grpcio transport cannot ask for optional client certificates"):
        await start_server(
            tls={**files.asking("optional"), "control": {"enabled": False}}, transport={"data": "grpcio"}
        )
