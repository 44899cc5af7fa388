"""Long work in threads ends at its next step once it is cancelled, with the cause it was cancelled for."""

import io
import threading
from pathlib import Path

import pytest
from semver import Version

import onnx_models
from turnout.cancellation import Cancellation, WorkCancelled, checkpoint, current
from turnout.errors import TurnoutError, UnavailableError
from turnout.registry.manifest.digest import stream_digest
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.staging import STAGING


class Endless(io.RawIOBase):
    """A stream without an end, as a large file is to whoever waits."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def read(self, size: int = -1) -> bytes:
        self.begun.set()
        return bytes(size)


def test_hashing_ends_when_it_is_cancelled() -> None:
    cancellation, source = Cancellation(), Endless()
    raised: list[BaseException] = []

    def work() -> None:
        with cancellation.applies():
            try:
                stream_digest(source)  # type: ignore[arg-type]
            except WorkCancelled as error:
                raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert source.begun.wait(100)
    cancellation.cancel(UnavailableError("the server stops"))
    cancellation.cancel(UnavailableError("said again"))
    thread.join(100)
    assert not thread.is_alive()
    assert [str(error) for error in raised] == ["the server stops"]


def test_it_is_no_finding_that_a_gate_could_report() -> None:
    assert not issubclass(WorkCancelled, TurnoutError)


def test_work_under_nobody_s_cancellation_goes_on() -> None:
    checkpoint()
    with Cancellation().applies():
        inner = current()
    assert current() is not inner
    checkpoint()


def test_a_publish_that_is_cancelled_while_it_copies_leaves_nothing(tmp_path: Path) -> None:
    cancellation, repository = Cancellation(), Repository(tmp_path / "models")
    source = onnx_models.save(onnx_models.matmul(), tmp_path / "m.onnx")
    with cancellation.applies(), pytest.raises(WorkCancelled):
        publish(
            repository,
            PublishRequest("m", Version(1), source),
            progress=lambda _: cancellation.cancel(UnavailableError("its client left")),
        )
    assert [path for path in (repository.root / STAGING).iterdir() if path.is_dir()] == []
    assert repository.published() == ()
