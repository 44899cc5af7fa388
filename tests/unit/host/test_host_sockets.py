"""What is done to sockets that another library holds, by the system's own lists of them."""

import os
import select
import socket
import sys

import pytest

from turnout.host.sockets import TcpPeer, connection_counts, cut_connections, peers, same_file, unwatch

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what an event loop watches")


def test_connections_of_a_port_are_cut_and_nothing_else_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        pairs = []
        for listening in (one, other):
            client = socket.create_connection(listening.getsockname(), 5)
            pairs.append((client, listening.accept()[0]))
        before = os.listdir("/dev/fd")
        cut_connections(one.getsockname()[1])
        assert os.listdir("/dev/fd") == before
        (cut, _), (left, server) = pairs
        assert cut.recv(1) == b""
        server.sendall(b"x")
        assert left.recv(1) == b"x"
        socket.create_connection(one.getsockname(), 5).close()  # it listens still
        for pair in pairs:
            for connection in pair:
                connection.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_clients_that_have_left_are_found(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        address = listening.getsockname()[:2]
        stays, leaves = (socket.create_connection(address, 5) for _ in range(2))
        accepted = [listening.accept()[0] for _ in range(2)]
        assert set(peers(address[1]).values()) == {True}
        where = leaves.getsockname()[:2]
        leaves.close()
        accepted[1].recv(1)  # until the end has come
        before = os.listdir("/dev/fd")
        assert [peer for peer, may_send in peers(address[1]).items() if not may_send] == [TcpPeer(*where)]
        assert os.listdir("/dev/fd") == before
        for connection in (stays, *accepted):
            connection.close()


def test_connections_are_counted_by_port_once_each() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, unused = (listening.getsockname()[1] for listening in (one, other))
        pairs = [(socket.create_connection(("127.0.0.1", port), 5), one.accept()[0]) for _ in range(2)]
        again = os.dup(pairs[0][1].fileno())
        counts = connection_counts()
        assert (counts[port], counts[unused]) == (2, 0)
        for number in (again, *(connection.detach() for pair in pairs for connection in pair)):
            os.close(number)
        assert connection_counts()[port] == 0


def test_descriptors_of_one_socket_are_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)):
        again = os.dup(one.fileno())
        assert same_file(one.fileno()) == {one.fileno(), again}
        os.close(again)
        assert same_file(one.fileno()) == {one.fileno()}


@only_linux
def test_a_loop_looks_no_more_at_a_descriptor_and_others_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, select.epoll() as first, select.epoll() as second:
        again = os.dup(listening.fileno())
        first.register(listening.fileno(), select.EPOLLIN)
        second.register(again, select.EPOLLIN)
        before = os.listdir("/dev/fd")
        assert unwatch({listening.fileno()})
        assert not unwatch({listening.fileno()})
        assert os.listdir("/dev/fd") == before
        with socket.create_connection(listening.getsockname(), 5):
            assert second.poll(5) == [(again, select.EPOLLIN)]
            assert first.poll(0) == []
        os.close(again)
