"""A port that is kept for workers: theirs alone, whether or not one of them listens."""

import socket

import pytest

from turnout.config import Address
from turnout.errors import ConfigError
from turnout.rpc.transport.listening_socket import listen
from turnout.workers.ports import kept_port

ANY = Address("127.0.0.1", 0)


def test_workers_share_a_kept_port_and_nobody_else_gets_it() -> None:
    with kept_port(ANY) as kept:
        assert kept.port
        with pytest.raises(ConfigError, match="cannot be listened on"), kept_port(kept):
            pass
        with pytest.raises(ConfigError, match="cannot be listened on"):
            listen(kept)
        with listen(kept, shared=True), listen(kept, shared=True):
            with pytest.raises(ConfigError, match="cannot be listened on"), kept_port(kept):
                pass
            socket.create_connection((kept.host, kept.port)).close()


def test_a_kept_port_takes_no_connection_itself() -> None:
    with kept_port(ANY) as kept, pytest.raises(ConnectionRefusedError):
        socket.create_connection((kept.host, kept.port))


def test_connections_reach_only_workers_that_listen() -> None:
    with kept_port(ANY) as kept, listen(kept, shared=True) as first:
        with listen(kept, shared=True):
            pass  # a worker that came and went
        for _ in range(20):
            with socket.create_connection((kept.host, kept.port)):
                first.accept()[0].close()


def test_a_port_that_a_server_listens_on_is_not_kept() -> None:
    with listen(ANY) as other:
        taken = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(ConfigError, match="cannot be listened on"), kept_port(taken):
            pass


def test_a_port_can_be_had_again_once_it_is_let_go() -> None:
    with kept_port(ANY) as kept:
        address = kept
    with listen(address):
        pass


def test_a_port_is_kept_while_connections_of_an_earlier_server_linger() -> None:
    with listen(ANY) as other:
        address = Address("127.0.0.1", other.getsockname()[1])
        with socket.create_connection((address.host, address.port)):
            other.accept()[0].close()  # the server's side closes first, and so waits
    with kept_port(address) as kept, listen(kept, shared=True):
        pass
