"""Versions whose runs are captured, served: on the CPU provider, which makes the same calls and captures nothing."""

import asyncio
import threading

import numpy as np
import pytest
from semver import Version
from typer.testing import CliRunner

from onnx_models import if_with_weights, leaky, matmul, scaled
from turnout.cli.main import application
from turnout.config import BatchingSettings, ModelOverrides, Runtime
from turnout.serving.cuda_graphs.graph_runner import GraphRunner
from turnout.serving.loading import loader
from turnout.serving.sessions.capture_gate import GatedSessions
from turnout.serving.sessions.providers import CPU, CUDA
from turnout.serving.versions import manager
from wire import answers_together, outputs_of, request, stub_of

ALWAYS = BatchingSettings(max_rows=8, only_where_it_pays=False)
GRAPHS = Runtime(cuda_graphs="auto")


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "CAPTURING", frozenset({CPU, CUDA}))


def _entry(server, model: str = "m"):
    return server.services.catalog.snapshot.models[model].versions[Version(1)]


@pytest.mark.usefixtures("on_the_cpu")
async def test_requests_of_all_sizes_are_answered_by_graphs_in_one_thread(
    publish_model, start_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[tuple[int, int]] = []
    really = GraphRunner.__call__

    def call(self, inputs, outputs):
        launched.append((len(inputs["x"]), threading.get_ident()))
        return really(self, inputs, outputs)

    monkeypatch.setattr(GraphRunner, "__call__", call)
    model = matmul()
    publish_model("m", "1.0.0", model)
    server = await start_server(batching=ALWAYS, runtime=GRAPHS)
    assert _entry(server).cuda_graphs == "captured for 1, 2, 4, 8 rows, proved against plain runs"
    random = np.random.default_rng(3)
    sent = [random.standard_normal((1 + i % 9, 64)).astype(np.float32) for i in range(60)]
    await answers_together(server, model, sent)
    assert len({ident for _, ident in launched}) == 1
    assert sum(rows for rows, _ in launched) == sum(len(x) for x in sent)


@pytest.mark.usefixtures("on_the_cpu")
async def test_unloading_ends_the_thread_that_captured_whether_it_had_requests_or_not(
    publish_model, start_server
) -> None:
    publish_model("m", "1.0.0", matmul())
    server = await start_server(runtime=GRAPHS)
    manager = server.parts.serving.manager
    for asked in (True, False):
        entry = _entry(server)
        (runner,) = entry.handle.loaded.runners
        if asked:
            async with stub_of(server) as stub:
                await stub.Predict(request("m", x=np.ones((1, 64), np.float32)))
        await asyncio.wait_for(manager.unload("m", Version(1)), 30)
        assert runner._ended.is_set()
        assert _entry(server).cuda_graphs == ""
        await manager.load("m", Version(1))


@pytest.mark.usefixtures("on_the_cpu")
async def test_where_a_capture_fails_the_version_is_served_without(
    publish_model, start_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil = GraphRunner._prove

    def prove(self, graph, batches, expected, differs) -> None:
        spoil(self, graph, batches, expected, lambda *_: graph.rows == 4)

    monkeypatch.setattr(GraphRunner, "_prove", prove)
    publish_model("m", "1.0.0", matmul())
    server = await start_server(batching=ALWAYS, runtime=GRAPHS)
    entry = _entry(server)
    assert entry.cuda_graphs == "off: output y of a graph of 4 rows differs from a plain run's"
    assert not entry.handle.loaded.sessions[0].captures
    async with stub_of(server) as stub:
        answer = await stub.Predict(request("m", x=np.ones((3, 64), np.float32)))
    assert outputs_of(answer)["y"].shape == (3, 64)


@pytest.mark.usefixtures("on_the_cpu")
async def test_versions_tell_whether_they_are_captured_and_why_not(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", matmul())
    publish_model("flow", "1.0.0", if_with_weights())
    publish_model("mixes", "1.0.0", leaky())
    server = await start_server(batching=ALWAYS, runtime=GRAPHS)
    assert _entry(server, "flow").cuda_graphs == "off: it has control flow (If)"
    assert _entry(server, "mixes").cuda_graphs == "captured for 1 row, proved against plain runs"
    done = await asyncio.to_thread(
        CliRunner().invoke, application(), ["show", "m@1.0.0", "--server", str(server.control), "--json"]
    )
    assert "captured for 1, 2, 4, 8 rows" in done.output, done.output
    families = {family.name: family for family in server.parts.base.metrics.snapshot()}
    values = {labels["model"]: value for labels, value in families["turnout_version_cuda_graphs"].series}
    assert values == {"m": 4, "flow": 0, "mixes": 1}


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        (Runtime(), ""),
        (GRAPHS, "off: it does not run on CUDA"),
    ],
    ids=["off", "auto"],
)
async def test_on_the_cpu_nothing_is_captured(publish_model, start_server, runtime: Runtime, reason: str) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(runtime=runtime)
    assert _entry(server).cuda_graphs == reason
    assert not _entry(server).handle.loaded.sessions[0].captures


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        (Runtime(cuda_graphs="auto", runners=2), "runners = 2"),
        (Runtime(cuda_graphs="auto", isolation="process"), "child processes"),
        (Runtime(), "the configuration says so"),
    ],
    ids=["runners", "isolation", "off"],
)
async def test_other_settings_may_rule_captures_out(publish_model, start_server, runtime: Runtime, reason: str) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(runtime=runtime)
    assert reason in _entry(server).cuda_graphs


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, False), ({"runtime": GRAPHS}, True), ({"model": {"other": ModelOverrides(runtime=GRAPHS)}}, True)],
    ids=["off", "all models", "another model"],
)
async def test_versions_keep_away_from_captures_only_where_a_model_may_be_captured(
    publish_model, start_server, monkeypatch: pytest.MonkeyPatch, settings, expected: bool
) -> None:
    gated_sessions = GatedSessions()
    monkeypatch.setattr(manager, "GATED", gated_sessions)
    publish_model("m", "1.0.0", scaled(2))
    await start_server(**settings)
    assert gated_sessions.add(gated_sessions) is expected
