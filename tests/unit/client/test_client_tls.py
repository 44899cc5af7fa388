"""What a client is told of TLS before it calls anybody."""

import contextlib
import gc
import select
import socket
import ssl
import struct
import threading
import warnings
from pathlib import Path

import grpc
import pytest

from certificates import Authority, put
from turnout_client import AsyncClient, Client, Tls
from turnout_client.obstacles import find_obstacle

AUTHORITY = Authority.make()


def test_certificate_and_key_come_together() -> None:
    with pytest.raises(ValueError, match="cert is set, and key is not"):
        Tls(cert="c.pem")
    with pytest.raises(ValueError, match="key is set, and cert is not"):
        Tls(key="c.key")


def test_the_environment_says_all_of_it_or_nothing() -> None:
    assert Tls.from_environ({}) is None
    assert Tls.from_environ({"TURNOUT_TLS_CA": ""}) is None
    environ = {"TURNOUT_TLS_CA": "ca", "TURNOUT_TLS_CERT": "c", "TURNOUT_TLS_KEY": "k", "TURNOUT_TLS_SERVER_NAME": "n"}
    assert Tls.from_environ(environ) == Tls(ca="ca", cert="c", key="k", server_name="n")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_files_that_cannot_be_used_are_named_when_the_client_is_made(
    kind: type[Client] | type[AsyncClient], tmp_path: Path
) -> None:
    cert, key = AUTHORITY.issue().write(tmp_path, "client")
    other = put(tmp_path / "other.key", AUTHORITY.issue().key)
    encrypted = put(tmp_path / "encrypted.key", AUTHORITY.issue().encrypted_key)
    for tls, message in [
        (Tls(ca=tmp_path / "none.pem"), "none.pem cannot be read: No such file or directory"),
        (Tls(ca=tmp_path), "cannot be read: Is a directory"),
        (Tls(ca=key), "holds no PEM certificate, expected the server's authority"),
        (Tls(cert=cert, key=other), "does not belong to the certificate in"),
        (Tls(cert=cert, key=encrypted), "is encrypted: store the key without a passphrase"),
        (Tls(cert=key, key=key), "do not hold a PEM certificate and its key"),
    ]:
        with pytest.raises(ValueError, match=message):
            kind("127.0.0.1:1", tls=tls)


def test_tls_and_credentials_say_the_same_twice() -> None:
    with pytest.raises(ValueError, match="expected tls or credentials, got both"):
        Client("127.0.0.1:1", tls=Tls(), credentials=grpc.ssl_channel_credentials())


@pytest.mark.parametrize(
    "target", ["unix:/tmp/none.sock", "dns:///127.0.0.1:1", "[::1]:1", "ipv4:127.0.0.1:1,127.0.0.1:2"][:]
)
def test_where_nobody_listens_nothing_stands_in_the_way(target: str) -> None:
    assert find_obstacle(target, None, plain=True) == ""
    assert find_obstacle(target, Tls(), plain=False) == ""


@pytest.mark.parametrize("tls", [None, Tls()], ids=["plain", "tls"])
def test_a_server_that_resets_connections_leaves_no_socket_open(
    tls: Tls | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.create_connection

    def until_it_is_reset(address: tuple[str, int], timeout: float) -> socket.socket:
        connected = connect(address, timeout)
        poll = select.poll()
        poll.register(connected, select.POLLIN)
        assert poll.poll(30_000)
        return connected

    def reset_each() -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            while True:
                accepted, _ = listener.accept()
                with accepted:
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    monkeypatch.setattr("turnout_client.obstacles.socket.create_connection", until_it_is_reset)
    with socket.create_server(("127.0.0.1", 0)) as listener, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resetting = threading.Thread(target=reset_each)
        resetting.start()
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        assert find_obstacle(target, tls, plain=tls is None) == ""
        listener.shutdown(socket.SHUT_RDWR)
        resetting.join()
        gc.collect()
    assert [str(one.message) for one in caught] == []


@pytest.mark.parametrize("how", ["orderly", "reset"])
@pytest.mark.parametrize("when", ["before it reads", "after it read"])
def test_a_server_that_disconnects_after_the_handshake_may_require_a_certificate(
    how: str, when: str, tmp_path: Path
) -> None:
    certificate, key = AUTHORITY.issue().write(tmp_path, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def disconnect() -> None:
        accepted, _ = listener.accept()
        with context.wrap_socket(accepted, server_side=True) as encrypted:
            if when == "after it read":
                encrypted.recv(1)
            if how == "reset":
                encrypted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        disconnecting = threading.Thread(target=disconnect)
        disconnecting.start()
        tls = Tls(ca=put(tmp_path / "ca.pem", AUTHORITY.pem))
        obstacle = find_obstacle(f"127.0.0.1:{listener.getsockname()[1]}", tls, plain=False)
        disconnecting.join()
    assert obstacle.endswith(
        "after the handshake; it may require a client certificate (cert and key of Tls, --tls-cert and --tls-key)"
    )
