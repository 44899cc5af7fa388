"""HTTP/1.1 requests whose clients have left end, and those of clients that wait do not."""

import asyncio
import json
import os
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from certificates import Authority, put
from onnx_models import slow
from turnout.config import Address
from turnout.host.sockets import TcpPeer, peers
from turnout.web import abandoned

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells in what state a connection is"),
]

BOUND = 100.0
BODY = json.dumps(
    {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]},
            {"name": "n", "datatype": "INT64", "shape": [], "data": [10**12]},  # takes for ever
        ]
    }
).encode()
REQUEST = (
    b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not holds():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("host", "how"),
    [("127.0.0.1", "closes"), ("::1", "closes"), ("TLS", "closes"), ("127.0.0.1", "resets"),
     ("127.0.0.1", "ends its side")],
)  # fmt: skip
async def test_a_request_whose_client_left_ends_and_another_goes_on(
    publish_model, start_server, tmp_path: Path, host: str, how: str, monkeypatch
) -> None:
    monkeypatch.setattr(abandoned, "_LOOK_SECONDS", 0.1)
    looks, judge = [], abandoned.AbandonedRequests._judge

    def noted(requests, request, is_open) -> None:
        judge(requests, request, is_open)
        looks.append(request)

    monkeypatch.setattr(abandoned.AbandonedRequests, "_judge", noted)
    publish_model("slow", "1.0.0", slow())
    settings, context = {}, None
    if host == "TLS":
        authority = Authority.make()
        cert, key = authority.issue().write(tmp_path, "own")
        settings = {"tls": {"cert": str(cert), "key": str(key)}}
        context = ssl.create_default_context(cafile=put(tmp_path / "ca.pem", authority.pem))
    listening = "127.0.0.1" if host == "TLS" else host
    server = await start_server(http=Address(listening, 0), runtime={"isolation": "process"}, **settings)
    writers = []
    for _ in range(2):
        name = "localhost" if context else None
        _, writer = await asyncio.open_connection(listening, server.http.port, ssl=context, server_hostname=name)
        writer.write(REQUEST)
        writers.append(writer)
    await until(lambda: server.admission.under_way == 2)
    leaves, stays = writers
    kernel: socket.socket = leaves.transport.get_extra_info("socket")
    if how == "ends its side":
        with socket.socket(fileno=os.dup(kernel.fileno())) as again:
            again.shutdown(socket.SHUT_WR)
    else:
        if how == "resets":
            kernel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await until(lambda: sum(request.seen for request in set(looks)) == 2)  # and missed after
        leaves.transport.abort()
    await until(lambda: server.admission.under_way == 1)
    assert not stays.transport.is_closing()
    before = len(looks)
    await until(lambda: len(looks) > before + 2)
    assert server.admission.under_way == 1
    stays.transport.abort()
    await until(lambda: server.admission.under_way == 0)
    leaves.transport.abort()


def test_peers_are_told_by_address_and_by_whether_they_may_send() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        here, there = socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port))
        accepted = [listening.accept()[0] for _ in range(2)]
        there.shutdown(socket.SHUT_WR)
        assert peers(port) == {TcpPeer.of(*here.getsockname()): True, TcpPeer.of(*there.getsockname()): False}
        assert peers(listening.fileno()) == {}
        for connection in (here, there, *accepted):
            connection.close()
    assert TcpPeer.of("::ffff:10.0.0.1", 5) == TcpPeer.of("10.0.0.1", 5)
