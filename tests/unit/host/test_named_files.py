"""What is named as a file and is none: nobody waits for its writer, or reads it without end."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from semver import Version

import onnx_models
from turnout.cli.rollout.plan_file import read_plan_file
from turnout.config import Transfers
from turnout.errors import TurnoutError
from turnout.registry.gates.plan import read_plan
from turnout.registry.publishing.metadata import read_metadata
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.signing.certificates import Authorities, SignerCertificate
from turnout.registry.signing.keys import PrivateKey, PublicKey
from turnout.registry.sources.source import local_source
from turnout.registry.storage import files
from turnout.registry.storage.golden import case_names
from turnout.registry.storage.repository import Repository
from turnout.registry.transfer.collect import collect

NO_FILES: dict[str, Callable[[Path], Any]] = {
    "FIFO": os.mkfifo,
    "directory": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
}


def model(home: Path) -> Path:
    return onnx_models.save(onnx_models.matmul(4), home / "m.onnx")


def with_golden(home: Path, name: str) -> None:
    request = PublishRequest("m", Version(1), model(home), golden=(home / name,))
    publish(Repository(home / "models"), request)


def sourced(path: Path) -> None:
    with local_source(str(path), Transfers(max_file_bytes=1, max_upload_bytes=1)):
        pass


NAMED: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "the model": ("a.onnx", sourced),
    "the model of a publish": (
        "a.onnx", lambda path: publish(Repository(path.parent / "models"), PublishRequest("m", Version(1), path)),
    ),
    "the model of an upload": ("a.onnx", lambda path: collect(PublishRequest("m", Version(1), path))),
    "a golden case": ("a.npz", lambda path: with_golden(path.parent, path.name)),
    "a golden case by itself": ("a.npz", case_names),
    "metadata": ("a.toml", read_metadata),
    "a private key": ("a.pem", PrivateKey.load),
    "a trusted key": ("a.pem", lambda path: PublicKey.parse(str(path))),
    "a signer's certificate": ("a.pem", SignerCertificate.load),
    "an authority": ("a.pem", lambda path: Authorities.load([str(path)])),
    "the gates' plan": ("gates.toml", lambda path: read_plan(path.parent, "m")),
    "a rollout's plan": ("a.toml", read_plan_file),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("what", NAMED)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the socket is left bound on purpose
def test_what_is_no_file_is_told_at_once(tmp_path: Path, what: str, kind: str) -> None:
    name, read = NAMED[what]
    NO_FILES[kind](tmp_path / name)
    with pytest.raises(TurnoutError, match=f"is a {kind}, expected a regular file"):
        read(tmp_path / name)


def test_a_file_that_grows_while_it_is_copied_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = model(tmp_path)
    opened = files.open_outside

    @contextmanager
    def growing(path: Path) -> Iterator[BinaryIO]:
        with opened(path) as file:
            yield Growing(file)  # type: ignore[misc]

    class Growing:
        """A file that someone appends to whenever it is read."""

        def __init__(self, file: BinaryIO) -> None:
            self.file = file

        def fileno(self) -> int:
            return self.file.fileno()

        def read(self, size: int = -1) -> bytes:
            with source.open("ab") as more:
                more.write(b"more" * (1 << 20))
            return self.file.read(size)

    monkeypatch.setattr("turnout.registry.onnx.model_files.open_outside", growing)
    with pytest.raises(TurnoutError, match=r"model\.onnx grew while it was copied"):
        publish(Repository(tmp_path / "models"), PublishRequest("m", Version(1), source))
    assert source.stat().st_size < 1 << 24
