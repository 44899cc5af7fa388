"""docs/testing.md: its examples print what it says, and the stand-in and the fixture do what they promise."""

import asyncio
import re
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from onnx_models import save, scaled
from turnout.testing import serve
from turnout_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Prediction,
    ResourceExhausted,
    Role,
    Unknown,
    Violation,
)
from turnout_client.testing import FakeServer, Received

pytest_plugins = ["turnout.testing.fixtures"]

PAGE = (Path(__file__).parents[3] / "docs" / "testing.md").read_text()
EXAMPLES = re.findall(r'^```python title="([^"]+)"\n(.*?)^```$\n+```text\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("name", "program", "printed"), EXAMPLES, ids=[name for name, _, _ in EXAMPLES])
def test_examples_print_what_the_page_says(name, program, printed, tmp_path, monkeypatch, capsys) -> None:
    save(scaled(2), tmp_path / "scale.onnx")
    monkeypatch.chdir(tmp_path)
    exec(compile(program, name, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == printed


def test_there_are_two() -> None:
    assert [name for name, _, _ in EXAMPLES] == ["stand_in.py", "served.py"]


def test_the_fixture_serves_several_versions_and_another_server(turnout_serve, tmp_path) -> None:
    one, two = save(scaled(1), tmp_path / "one.onnx"), save(scaled(2), tmp_path / "two.onnx")
    both = turnout_serve({"m@1.0.0": one, "m@2.0.0": two})
    other = turnout_serve({"m@1.0.0": two})
    x = {"x": np.ones((1, 4), np.float32)}
    for server, version, wanted in ((both, "", 2.0), (both, "1.0.0", 1.0), (other, "^1", 2.0)):
        with Client(server.grpc) as client:
            assert client.predict("m", x, version=version)["y"][0, 0] == wanted


@pytest.mark.parametrize("reference", ["m", "m@", "m@1", "m@one", "@1.0.0"])
def test_what_is_no_version_is_refused_in_words(reference, tmp_path) -> None:
    with (
        pytest.raises(ValueError, match=r"NAME@VERSION|model name"),
        serve({reference: save(scaled(1), tmp_path / "m.onnx")}),
    ):
        pass


@pytest.mark.parametrize("transport", ["unary", "stream"])
async def test_the_stand_in_answers_both_kinds_of_client_with_routes_and_errors(transport) -> None:
    with FakeServer() as server:
        async with AsyncClient(server.target, transport=transport, retries=0) as client:
            with pytest.raises(NotFound, match="tell this server"):
                await client.predict("m", {"x": [1]}, request_id="a")
            server.answer("m", {"y": [1.0], "z": [b"\xff".hex()]}, version="1.0.0")
            server.answer("m", {"y": [2.0]}, version="2.0.0", role=Role.CANARY)
            plain = await client.predict("m", {"x": [1]}, routing_key="ann")
            pinned = await client.predict("m", {"x": [1]}, version="1.0.0", outputs=["z"])
            assert (plain["y"].tolist(), plain.version, plain.role) == ([2.0], "2.0.0", Role.CANARY)
            assert (list(pinned.outputs), pinned.version, pinned.role) == (["z"], "1.0.0", Role.PINNED)
            with pytest.raises(InvalidArgument, match="expected one of the outputs y") as refused:
                await client.predict("m", {"x": [1]}, outputs=["q"])
            assert refused.value.violations[0].field == "outputs"
            server.answer("m", ResourceExhausted("full", retry_after=0.25, violations=[Violation("x", "why")]))
            with pytest.raises(ResourceExhausted, match="full") as refused:
                await client.predict("m", {"x": [1]}, request_id="b")
            assert (refused.value.retry_after, refused.value.violations) == (0.25, (Violation("x", "why"),))
            assert refused.value.request_id == "b"
        assert [(one.version, one.routing_key, one.streamed) for one in server.received] == [
            ("", "", transport == "stream"), ("", "ann", transport == "stream"), ("1.0.0", "", transport == "stream"),
            ("", "", transport == "stream"), ("", "", transport == "stream"),
        ]  # fmt: skip
        assert server.received[1].inputs["x"].tolist() == [1]


@pytest.mark.parametrize("transport", ["unary", "stream"])
async def test_a_mistake_in_an_answer_is_told_and_ends_its_own_request_only(transport) -> None:
    with FakeServer() as server:
        server.answer("wrong", lambda _: {"y": [1 / 0]})
        server.answer("empty", lambda _: None)  # type: ignore[arg-type,return-value]
        server.answer("complex", {"y": [1j]})
        server.answer("m", {"y": ["text\0"]})
        async with AsyncClient(server.target, transport=transport) as client:
            ends = await asyncio.gather(
                *(client.predict(model, {}) for model in ("wrong", "m", "empty", "complex")), return_exceptions=True
            )
        assert len(server.received) == 4  # none is tried again
    assert [type(end) for end in ends] == [Unknown, Prediction, Unknown, Unknown]
    assert "the answer to 'wrong' raised ZeroDivisionError: division by zero" in str(ends[0])
    assert ends[1]["y"].tolist() == ["text\0"]


@pytest.mark.parametrize("transport", ["unary", "stream"])
async def test_a_slow_answer_delays_no_other(transport) -> None:
    release = threading.Event()

    def slow(_: Received) -> dict[str, list[int]]:
        release.wait(100)
        return {"y": [1]}

    with FakeServer() as server:
        server.answer("slow", slow)
        server.answer("m", {"y": [2]})
        async with AsyncClient(server.target, transport=transport, timeout=100) as client:
            waiting = asyncio.ensure_future(client.predict("slow", {}))
            assert (await client.predict("m", {}))["y"].tolist() == [2]
            assert not waiting.done()
            release.set()
            assert (await waiting)["y"].tolist() == [1]


def test_a_stand_in_serves_once() -> None:
    with FakeServer() as server:
        pass
    with pytest.raises(RuntimeError, match="serves once"), server:
        pass


def test_a_token_is_not_in_the_repr_of_a_request() -> None:
    with FakeServer() as server, Client(server.target, token="a-secret") as client:
        server.answer("m", {"y": [1]})
        client.predict("m", {})
        assert ("authorization", "Bearer a-secret") in server.received[0].metadata
        assert "a-secret" not in repr(server.received)


def test_a_client_waits_until_the_stand_in_was_told_of_a_model() -> None:
    with FakeServer() as server, Client(server.target, version="^1") as client:
        client.wait_ready(timeout=100)
        with pytest.raises(DeadlineExceeded, match="SERVICE_UNKNOWN"):
            client.wait_ready("m", timeout=3.0)
        server.answer("m", {"y": [1.0]})
        client.wait_ready("m", timeout=100)


def test_a_stand_in_that_is_left_answers_nobody_and_its_watchers_end() -> None:
    with FakeServer() as server, grpc.insecure_channel(server.target) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=100)
        assert next(watch)
        target = server.target
    with Client(target, retries=0) as client, pytest.raises(Exception, match=r".+"):
        client.predict("m", {"x": [1]}, timeout=0.5)
