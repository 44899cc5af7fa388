"""What `turnout publish` says while gates run for minutes: here, and on a server."""

import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

import onnx_models
from processes import TURNOUT, serving_in_thread
from registry_wire import beginning
from terminals import Terminal, eventually
from turnout.rpc.registry.uploads import UploadMethods
from turnout.testing import Served
from turnout_proto.v1 import registry_pb2 as pb
from turnout_proto.v1.registry_pb2_grpc import RegistryServiceStub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_GATE = r"publishing: gate load"
"""The gate that runs the model, whose run does not end."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return onnx_models.save(onnx_models.endless(), tmp_path / "m.onnx")


@dataclass
class Asked:
    """What the server was asked about uploads.

    Attributes:
        ids: The upload of each question.
        older: Whether the server answers as a release that knows no progress.
        refused: Number of questions that it has refused.
    """

    ids: list[str] = field(default_factory=list)
    older: bool = False
    refused: int = 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    seen, describe = Asked(), UploadMethods.DescribeUpload

    async def recorded(self: UploadMethods, request: pb.DescribeUploadRequest) -> pb.DescribeUploadResponse:
        seen.ids.append(request.upload_id)
        if seen.older:
            request.ClearField("progress")
        try:
            return await describe(self, request)
        except BaseException:
            seen.refused += 1
            raise

    monkeypatch.setattr(UploadMethods, "DescribeUpload", recorded)
    return seen


@pytest.fixture
def server(tmp_path: Path, asked: Asked) -> Iterator[Served]:
    with serving_in_thread(tmp_path / "models") as running:
        yield running


def test_a_terminal_shows_the_gate_that_runs_in_the_same_words_here_and_on_a_server(
    source: Path, server: Served, tmp_path: Path
) -> None:
    seen: list[str] = []
    for where, words in (
        (("--models", tmp_path / "here"), _GATE),
        (("--server", server.control), _GATE + r", for \d+ s"),
    ):
        terminal = Terminal("publish", "m", "1.0.0", str(source), *map(str, where))
        try:
            eventually(lambda words=words, of=terminal: re.search(words, of.text), lambda of=terminal: of.text[-300:])
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.process.wait(60) in (1, 130)
        finally:
            terminal.close()
        seen.append(terminal.text)
    assert "uploading" not in seen[0]
    assert seen[1].index("uploading") < seen[1].index("publishing")


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["piped", "json"])
def test_a_command_without_anyone_to_see_it_asks_for_no_progress(
    source: Path, server: Served, asked: Asked, options: tuple[str, ...]
) -> None:
    arguments = ("publish", "m", "1.0.0", str(source), "--server", server.control, *options)
    terminal = Terminal(*arguments) if options else None
    process: Any = (
        subprocess.Popen([*TURNOUT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if terminal is None
        else terminal.process
    )
    try:
        with grpc.insecure_channel(server.control) as channel:
            registry = RegistryServiceStub(channel)
            own = registry.BeginUpload(beginning({"model.onnx": source.read_bytes()})).upload_id
            describe = pb.DescribeUploadRequest(upload_id=own, progress=True)

            def runs_for_long() -> bool:
                now = registry.DescribeUpload(describe).progress
                asked.ids.pop()  # this question
                return now.gate == "load" and now.seconds > 3

            eventually(runs_for_long, lambda: process.poll())
        assert asked.ids == []
        process.send_signal(signal.SIGINT)
        written = terminal.text.encode() if terminal is not None else b"".join(process.communicate(timeout=60))
        assert b"gate" not in written
    finally:
        process.kill()
        process.wait()
        if terminal is not None:
            terminal.close()


def test_an_older_server_is_asked_once_and_its_publish_goes_on(source: Path, server: Served, asked: Asked) -> None:
    asked.older = True
    terminal = Terminal("publish", "m", "1.0.0", str(source), "--server", server.control)
    try:
        eventually(lambda: asked.refused > 0, lambda: terminal.text[-300:])
        with pytest.raises(subprocess.TimeoutExpired):  # for as long as several more questions would take
            terminal.process.wait(4)
        assert len(asked.ids) == 1
        with grpc.insecure_channel(server.control) as channel, pytest.raises(grpc.RpcError, match="is being published"):
            RegistryServiceStub(channel).AbandonUpload(pb.AbandonUploadRequest(upload_id=asked.ids[0]))
        assert "gate" not in terminal.text
    finally:
        terminal.close()
