"""`turnout publish --server` and `turnout fetch`: no file system in common with the server."""

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_models
from processes import serving, serving_in_thread, turnout
from registry_wire import beginning, pieces
from turnout.registry.storage.repository import Repository
from turnout_proto.v1.registry_pb2_grpc import RegistryServiceStub

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model of 4 MiB, nearly all of it in a file beside it."""
    weights = numpy_helper.from_array(np.ones((1024, 1024), np.float32), "w")
    proto = onnx_models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [onnx_models.tensor("x", TensorProto.FLOAT, ["batch", 1024])],
        [onnx_models.tensor("y", TensorProto.FLOAT, ["batch", 1024])],
        [weights],
    )
    home = tmp_path / "work"
    home.mkdir()
    (home / "weights.data").write_bytes(onnx_models.move_out(proto.graph.initializer[0], "weights.data"))
    return onnx_models.save(proto, home / "model.onnx")


def test_publish_release_predict_and_fetch_through_the_server(tmp_path: Path) -> None:
    source = onnx_models.save(onnx_models.scaled(3), tmp_path / "m.onnx")
    meta = tmp_path / "meta.toml"
    meta.write_text('description = "by CI"\n[training]\nseed = 7\n')
    with serving_in_thread(tmp_path / "models") as server:
        arguments = ("publish", "m", "1.0.0", source, "--meta", meta, "--server", server.control, "--release", "--json")
        output = json.loads(turnout(*arguments).stdout)
        assert (output["created"], output["standing"]) == (True, "released")
        assert output["gates"][0]["gate"] == "integrity"
        again = json.loads(turnout(*arguments).stdout)
        assert (again["created"], again["digest"]) == (False, output["digest"])
        turnout("load", "m@1.0.0", "--server", server.control)
        turnout("predict", "m", "--input", "x=random", "--server", server.control)
        turnout("publish", "m", "1.1.0", source, "--server", server.control)
        late = turnout("publish", "m", "1.1.0", source, "--server", server.control, "--release", "--json")
        assert json.loads(late.stdout)["standing"] == "released"
        released = turnout("release", "m@1.1.0", "--server", server.control, "--json")
        assert json.loads(released.stdout)["changed"] is False
        fetched = json.loads(
            turnout("fetch", "m@1.0.0", "--to", tmp_path / "got", "--server", server.control, "--json").stdout
        )
        assert fetched["digest"] == output["digest"]
        full = turnout("fetch", "m@1.0.0", "--to", tmp_path / "got", "--server", server.control, check=False)
        assert full.returncode == 1
        assert "exists" in full.stderr
    published = tmp_path / "models" / "m" / "1.0.0"
    names = sorted(path.name for path in published.iterdir())
    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == names
    assert all((tmp_path / "got" / name).read_bytes() == (published / name).read_bytes() for name in names)


def test_a_command_whose_connection_is_cut_goes_on_by_itself(tmp_path: Path, source: Path) -> None:
    with serving_in_thread(tmp_path / "models") as server, cutting(server.control, after=2_000_000) as (address, cuts):
        output = turnout("publish", "m", "1.0.0", source, "--server", address, "--json")
        assert json.loads(output.stdout)["created"]
        assert cuts == [1]
    assert Repository(tmp_path / "models").scan().published[0].digest == json.loads(output.stdout)["digest"]


def test_a_refused_model_ends_the_command_with_the_gates_words(tmp_path: Path) -> None:
    bad = onnx_models.scaled(3)
    bad.graph.node[0].op_type = "NoSuchOperator"
    source = onnx_models.save(bad, tmp_path / "m.onnx")
    with serving_in_thread(tmp_path / "models") as server:
        output = turnout("publish", "m", "1.0.0", source, "--server", server.control, "--json", check=False)
    error = json.loads(output.stderr)["error"]
    assert (output.returncode, error["kind"]) == (3, "GateRefused")
    assert json.loads(output.stdout)["refused_by"] == "integrity"
    assert error["violations"][0]["field"] == "integrity"


def test_a_number_that_is_taken_ends_the_command_as_it_does_on_the_disk(tmp_path: Path) -> None:
    with serving_in_thread(tmp_path / "models") as server:
        for factor, code in ((1, 0), (1, 0), (2, 4)):
            source = onnx_models.save(onnx_models.scaled(factor), tmp_path / "m.onnx")
            output = turnout("publish", "m", "1.0.0", source, "--server", server.control, check=False)
            assert output.returncode == code, output.stderr


def test_a_server_killed_in_the_middle_of_an_upload_leaves_a_clean_repository(tmp_path: Path, source: Path) -> None:
    models = tmp_path / "models"
    files = {"model.onnx": source.read_bytes(), "weights.data": (source.parent / "weights.data").read_bytes()}

    async def half(control: str) -> None:
        async with grpc.aio.insecure_channel(control) as channel:
            registry = RegistryServiceStub(channel)
            begun = await registry.BeginUpload(beginning(files))
            call = registry.UploadFiles()
            for sent in list(pieces(begun.upload_id, files, size=100_000))[:4]:
                await call.write(sent)
            async with asyncio.timeout(60):
                while not sum((await registry.BeginUpload(beginning(files))).received):
                    await asyncio.sleep(0.01)
            call.cancel()

    with serving(models) as server:
        asyncio.run(half(server.control))
        assert len(_staged(models)) == 1
        server.send(signal.SIGKILL)
        server.wait()
    assert Repository(models).scan().published == ()
    with serving(models) as server:
        assert _staged(models) == []
        output = turnout("publish", "m", "1.0.0", source, "--server", server.control, "--json")
        assert json.loads(output.stdout)["created"]
    assert _staged(models) == []


def test_where_no_server_answers_the_command_says_so(tmp_path: Path, source: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        output = turnout("fetch", "m@1.0.0", "--to", tmp_path / "got", "--server", address, check=False)
    assert output.returncode == 1
    assert "no server answers" in output.stderr
    assert not (tmp_path / "got").exists()


def _staged(models: Path) -> list[str]:
    return [name for name in os.listdir(models / ".staging") if name != ".lock"]


@contextmanager
def cutting(target: str, after: int) -> Iterator[tuple[str, list[int]]]:
    """Stands before a server, and cuts the first connection on which so many bytes came."""
    host, port = target.rsplit(":", 1)
    listener = socket.create_server(("127.0.0.1", 0))
    cuts: list[int] = []
    opened: list[socket.socket] = []

    def carry(source: socket.socket, to: socket.socket, bound: int | None) -> None:
        carried = 0
        with suppress(OSError):
            while data := source.recv(65536):
                to.sendall(data)
                carried += len(data)
                if bound is not None and carried > bound and not cuts:
                    cuts.append(1)
                    break
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection((host, int(port)))
            opened.extend((client, server))
            threading.Thread(target=carry, args=(client, server, after), daemon=True).start()
            threading.Thread(target=carry, args=(server, client, None), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", cuts
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        for end in opened:
            end.close()
