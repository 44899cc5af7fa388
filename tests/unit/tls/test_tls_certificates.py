"""When changed files come into force, and when what is wrong with them is said."""

from pathlib import Path
from typing import Any

import pytest

from certificates import Authority, put
from turnout.config import TlsSettings
from turnout.errors import ConfigError
from turnout.telemetry.metrics.tls import TlsRecorder
from turnout.tls.certificates import Certificates
from turnout.tls.identity import ServerIdentity

AUTHORITY = Authority.make()


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.message: list[tuple[str, str]] = []

    def info(self, event: str, **about: Any) -> None:
        self.message.append(("info", event))

    def warning(self, event: str, **about: Any) -> None:
        self.message.append(("warning", about["reason"]))

    def error(self, event: str, **about: Any) -> None:
        self.message.append(("error", about["reason"]))


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def certificates(tmp_path: Path, log: Log) -> Certificates:
    cert, key = AUTHORITY.issue("before").write(tmp_path, "server")
    tls = TlsSettings(cert=str(cert), key=str(key), http={"enabled": False}, control={"enabled": False})  # type: ignore[arg-type]
    loaded = Certificates(tls, TlsRecorder(), log)  # type: ignore[arg-type] # as far as it is used
    loaded.load()
    return loaded


def subject(certificates: Certificates) -> str:
    identity = certificates.of("grpc")
    assert identity is not None
    return identity.subject


async def test_what_is_alike_changes_nothing(certificates: Certificates, log: Log) -> None:
    before = certificates.of("grpc")
    await certificates.reload()
    assert certificates.of("grpc") is before
    assert log.message == []


async def test_of_a_pair_one_file_comes_first_and_that_is_no_fault(
    certificates: Certificates, log: Log, tmp_path: Path
) -> None:
    after = AUTHORITY.issue("after")
    put(tmp_path / "server.pem", after.pem)
    await certificates.reload(patient=True)
    assert subject(certificates) == "CN=before"
    put(tmp_path / "server.key", after.key)
    await certificates.reload(patient=True)
    assert subject(certificates) == "CN=after"
    assert log.message == [("info", "tls certificate changed")]


async def test_a_pair_that_stays_apart_is_told_once(certificates: Certificates, log: Log, tmp_path: Path) -> None:
    put(tmp_path / "server.key", AUTHORITY.issue().key)
    for _ in range(3):
        await certificates.reload(patient=True)
    assert [level for level, _ in log.message] == ["error"]
    put(tmp_path / "server.key", b"")
    for _ in range(3):
        await certificates.reload(patient=True)
    assert [level for level, _ in log.message] == ["error", "error"]
    AUTHORITY.issue("after").write(tmp_path, "server")
    await certificates.reload(patient=True)
    assert log.message[2:] == [("info", "tls certificate changed"), ("info", "tls files can be used again")]


async def test_who_asks_for_it_is_told_at_once(certificates: Certificates, log: Log, tmp_path: Path) -> None:
    (tmp_path / "server.key").unlink()
    await certificates.reload()
    assert log.message == [("error", f"tls.key: there is no file {tmp_path / 'server.key'}")]


async def test_what_a_transport_refuses_is_not_in_force(certificates: Certificates, log: Log, tmp_path: Path) -> None:
    async def refuse(identity: ServerIdentity) -> None:
        raise ConfigError(f"not {identity.subject}")

    certificates.on_change("grpc", refuse)
    AUTHORITY.issue("after").write(tmp_path, "server")
    await certificates.reload()
    assert subject(certificates) == "CN=before"
    assert log.message == [("error", "not CN=after")]
