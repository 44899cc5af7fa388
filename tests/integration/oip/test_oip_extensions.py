"""Statistics, settings and the repository, as clients of the Open Inference Protocol ask for them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from auth_wire import AUTH, bearer, make_token
from onnx_models import scaled, slow
from otlp_receiver import http_collector
from published import Publish
from routing_wire import control_of
from started_servers import StartServer, make_settings
from turnout.app.server import Running, running
from turnout.config import BatchingSettings, Oip, Runtime, Tracing
from turnout.telemetry.logging import LogForm, Threshold, make_logger
from turnout_proto.oip import inference_pb2 as pb
from turnout_proto.v1.control_pb2 import YankVersionRequest
from wire import X

ALLOWED = Oip(allow_repository_control=True, allow_settings_changes=True)
Code = grpc.StatusCode


@pytest.fixture
async def opened() -> AsyncIterator[Any]:
    """Returns clients of a server over HTTP, by token; closed at the end."""
    clients: list[httpx.AsyncClient] = []

    def client(server: Running, token: str = "") -> httpx.AsyncClient:
        clients.append(httpx.AsyncClient(base_url=f"http://{server.http}", headers=dict(bearer(token)), timeout=100))
        return clients[-1]

    yield client
    for one in clients:
        await one.aclose()


async def ask(server: Running, method: str, message: Any, token: str = "") -> Any:
    answer = getattr(pb, type(message).__name__.replace("Request", "Response"))
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        path = f"/inference.GRPCInferenceService/{method}"
        call = channel.unary_unary(path, type(message).SerializeToString, answer.FromString)
        return await call(message, metadata=bearer(token), timeout=100)


async def code(asked: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asked
    return caught.value.code()


def body(array: np.ndarray, **more: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
    return {"inputs": [tensor], **more}


@pytest.mark.both_transports
@pytest.mark.parametrize("inline", [300, 0], ids=["inline", "on a runner"])
async def test_statistics_are_what_was_asked_of_each_version(
    publish_model: Publish, start_server: StartServer, opened: Any, inline: int
) -> None:
    for version, factor in (("1.0.0", 2), ("1.1.0", 3)):
        publish_model("m", version, scaled(factor))
    publish_model("other", "1.0.0", scaled(1))
    server = await start_server(
        batching=BatchingSettings(only_where_it_pays=False), runtime=Runtime(inline_threshold_us=inline, runners=1)
    )
    client = opened(server)
    rows = {1: 3, 4: 2}
    for size, times in rows.items():
        for _ in range(times):
            answer = await client.post("/v2/models/m/versions/1.0.0/infer", json=body(np.repeat(X, size, axis=0)))
            assert answer.status_code == 200
    wrong = body(X.astype(np.float32).reshape(4))
    assert (await client.post("/v2/models/m/versions/1.0.0/infer", json=wrong)).status_code == 400
    assert (await client.post("/v2/models/m/versions/1.1.0/infer", json=body(X))).status_code == 200
    assert (await client.post("/v2/models/nobody/infer", json=body(X))).status_code == 404

    (statistics,) = (await client.get("/v2/models/m/versions/1.0.0/stats")).json()["model_stats"]
    stats = statistics["inference_stats"]
    assert (statistics["inference_count"], statistics["execution_count"]) == (11, 5)
    assert {name: stats[name]["count"] for name in stats} == {
        "success": 5, "fail": 1, "queue": 5, "compute_input": 5, "compute_infer": 5, "compute_output": 5,
        "cache_hit": 0, "cache_miss": 0,
    }  # fmt: skip
    assert stats["success"]["ns"] >= stats["queue"]["ns"] + stats["compute_infer"]["ns"] > 0
    assert stats["fail"]["ns"] > 0
    assert {one["batch_size"]: one["compute_infer"]["count"] for one in statistics["batch_stats"]} == rows
    assert sum(one["compute_infer"]["ns"] for one in statistics["batch_stats"]) == pytest.approx(
        stats["compute_infer"]["ns"], abs=5
    )
    assert statistics["last_inference"] > 1_700_000_000_000

    listed = (await client.get("/v2/models/m/stats")).json()["model_stats"]
    assert [(one["version"], one["inference_stats"]["success"]["count"]) for one in listed] == [
        ("1.0.0", 5), ("1.1.0", 1),
    ]  # fmt: skip
    everything = (await client.get("/v2/models/stats")).json()["model_stats"]
    assert [(one["name"], one["version"]) for one in everything] == [
        ("m", "1.0.0"), ("m", "1.1.0"), ("other", "1.0.0"),
    ]  # fmt: skip
    (spoken,) = (await ask(server, "ModelStatistics", pb.ModelStatisticsRequest(name="m", version="~1.0"))).model_stats
    assert spoken.inference_stats.success.count == 5
    assert [batch.batch_size for batch in spoken.batch_stats] == list(rows)
    assert await code(ask(server, "ModelStatistics", pb.ModelStatisticsRequest(name="q"))) is Code.NOT_FOUND
    bad = pb.ModelStatisticsRequest(name="m", version="^^")
    assert await code(ask(server, "ModelStatistics", bad)) is Code.INVALID_ARGUMENT


async def test_requests_that_share_a_run_are_each_an_answer_of_one_execution(
    publish_model: Publish, start_server: StartServer, opened: Any
) -> None:
    publish_model("slow", "1.0.0", slow())
    server = await start_server(
        batching=BatchingSettings(only_where_it_pays=False), runtime=Runtime(inline_threshold_us=0, runners=1)
    )
    client = opened(server)
    rounds = {"name": "n", "datatype": "INT64", "shape": [], "data": [20_000]}
    document = body(X)
    document["inputs"].append(rounds)
    answers = await asyncio.gather(*(client.post("/v2/models/slow/infer", json=document) for _ in range(6)))
    assert {answer.status_code for answer in answers} == {200}
    (statistics,) = (await client.get("/v2/models/slow/stats")).json()["model_stats"]
    assert (statistics["inference_count"], statistics["inference_stats"]["compute_infer"]["count"]) == (6, 6)
    runs = {one["batch_size"]: one["compute_infer"]["count"] for one in statistics["batch_stats"]}
    assert sum(runs.values()) == statistics["execution_count"]
    assert sum(size * count for size, count in runs.items()) == 6


async def test_the_repository_is_listed_and_changed_over_http(
    publish_model: Publish, start_server: StartServer, opened: Any
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "1.10.0", scaled(3))
    client = opened(await start_server(oip=ALLOWED))

    async def states(ready: Any = False) -> dict[str, str]:
        found = (await client.post("/v2/repository/index", json={"ready": ready})).json()
        return {one["version"]: one["state"] for one in found}

    assert (await client.get("/v2/models")).json() == {"models": ["m"]}
    assert list(await states()) == ["1.0.0", "1.10.0"]
    assert (await client.post("/v2/repository/index", json={"ready": 1})).status_code == 400
    assert (await client.post("/v2/repository/index", content=b"{")).status_code == 400
    assert (await client.post("/v2/repository/models/m@1.0.0/unload")).status_code == 200
    assert await states() == {"1.0.0": "UNAVAILABLE", "1.10.0": "READY"}
    assert await states(ready=True) == {"1.10.0": "READY"}
    assert (await client.get("/v2/models/m/versions/1.0.0/stats")).status_code == 409
    loaded = await client.post("/v2/repository/models/m@%5E1.0/load", json={"parameters": {}})
    assert (loaded.status_code, loaded.content) == (200, b"")
    assert (await client.post("/v2/repository/models/m@1.0.0/load")).status_code == 200
    assert await states() == {"1.0.0": "READY", "1.10.0": "READY"}
    for wrong, status in (
        ("m/load", 501), ("q/load", 404), ("q/unload", 404), ("m@9.0.0/load", 404), ("m@%5E%5E/load", 400),
    ):  # fmt: skip
        parameters = {"parameters": {"config": "{}"}} if status == 501 else {}
        assert (await client.post(f"/v2/repository/models/{wrong}", json=parameters)).status_code == status
    assert (await client.post("/v2/repository/models/m/load", json={"parameters": []})).status_code == 400
    large = await client.post("/v2/repository/index", content=b" " * 70_000)
    assert (large.status_code, "expected at most 65536 bytes" in large.json()["error"]) == (400, True)


async def test_a_model_that_is_unloaded_and_loaded_again_has_the_versions_that_it_had(
    publish_model: Publish, start_server: StartServer, opened: Any
) -> None:
    for version in ("1.0.0", "2.0.0", "3.0.0", "4.0.0"):
        publish_model("m", version, scaled(2))
    publish_model("m", "5.0.0-rc.1", scaled(3), release=False)
    server = await start_server(oip=ALLOWED)
    client = opened(server)

    async def ready() -> list[str]:
        return [one["version"] for one in (await client.post("/v2/repository/index", json={"ready": True})).json()]

    everything = await ready()
    assert everything == ["1.0.0", "2.0.0", "3.0.0", "4.0.0", "5.0.0-rc.1"]
    for load in ("m/load", "m@4/load"):
        assert (await client.post("/v2/repository/models/m/unload")).status_code == 200
        assert await ready() == []
        assert (await client.post(f"/v2/repository/models/{load}")).status_code == 200
        assert await ready() == (everything if load == "m/load" else ["4.0.0"])
    async with control_of(server) as control:
        await control.YankVersion(YankVersionRequest(model="m", version="1.0.0", reason="it leaks"))
    assert (await client.post("/v2/repository/models/m/load")).status_code == 200
    assert await ready() == everything[1:]


async def test_a_model_may_be_called_as_a_path_is(
    publish_model: Publish, start_server: StartServer, opened: Any
) -> None:
    publish_model("stats", "1.0.0", scaled(2))
    client = opened(await start_server())
    assert (await client.post("/v2/models/stats/infer", json=body(X))).status_code == 200
    assert (await client.get("/v2/models/stats/versions/1.0.0")).json()["name"] == "stats"
    (statistics,) = (await client.get("/v2/models/stats")).json()["model_stats"]
    assert (statistics["name"], statistics["inference_count"]) == ("stats", 1)
    assert (await client.get("/v2/models/stats/stats")).json()["model_stats"] == [statistics]


async def test_where_nothing_may_be_changed_everything_may_be_asked(
    publish_model: Publish, start_server: StartServer, opened: Any
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()
    client = opened(server)
    for path in ("/v2/logging", "/v2/trace/setting", "/v2/models/m/trace/setting"):
        assert (await client.get(path)).status_code == (await client.post(path)).status_code == 200
    for path, settings in (
        ("/v2/logging", {"log_verbose_level": 1}), ("/v2/trace/setting", {"trace_rate": "3"}),
        ("/v2/models/m/trace/setting", {"trace_rate": "3"}), ("/v2/repository/models/m/load", {}),
        ("/v2/repository/models/m/unload", {}),
    ):  # fmt: skip
        refused = await client.post(path, json=settings)
        assert (refused.status_code, "control listener" in refused.json()["error"]) == (403, True)


async def test_the_log_is_set_by_clients_until_the_settings_are_read_again(
    publish_model: Publish, start_server: StartServer, opened: Any
) -> None:
    server = await start_server(oip=ALLOWED, log={"format": "json"})
    client = opened(server)
    assert (await client.get("/v2/logging")).json() == {
        "log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0,
        "log_format": "json",
    }  # fmt: skip
    changed = await client.post("/v2/logging", json={"log_info": False, "log_format": "console"})
    assert (changed.json()["log_info"], changed.json()["log_format"]) == (False, "console")
    request = pb.LogSettingsRequest()
    request.settings["log_verbose_level"].uint32_param = 2
    request.settings["log_info"].bool_param = True
    assert (await ask(server, "LogSettings", request)).settings["log_verbose_level"].uint32_param == 1
    assert (await client.get("/v2/logging")).json()["log_verbose_level"] == 1
    for settings, status in (({"log_file": "x"}, 501), ({"log_warning": False}, 400), ({"log_info": [1]}, 400)):
        assert (await client.post("/v2/logging", json=settings)).status_code == status
    assert (await client.get("/v2/logging")).json()["log_verbose_level"] == 1


async def test_a_model_s_share_of_traces_is_its_own(
    publish_model: Publish, start_server: StartServer, opened: Any
) -> None:
    publish_model("a", "1.0.0", scaled(2))
    publish_model("b", "1.0.0", scaled(2))
    with http_collector() as collector:
        tracing = Tracing(endpoint=collector.endpoint, sample_ratio=1.0, interval_s=0.05)
        server = await start_server(oip=ALLOWED, tracing=tracing)
        client = opened(server)

        async def infer(model: str, times: int, **headers: str) -> None:
            for _ in range(times):
                await client.post(f"/v2/models/{model}/infer", json=body(X), headers=headers)

        off = await client.post("/v2/models/a/trace/setting", json={"trace_level": ["OFF"]})
        assert off.json()["trace_level"] == ["OFF"]
        parent = f"00-{'1' * 32}-{'2' * 16}-01"
        await infer("a", 3, traceparent=parent)
        await infer("a", 3)
        await infer("b", 2)
        assert {span.attributes["turnout.model"] for span in await collector.requests(2)} == {"b"}
        back = await client.post("/v2/models/a/trace/setting", json={"trace_level": None})
        assert back.json()["trace_level"] == ["TIMESTAMPS"]
        await client.post("/v2/trace/setting", json={"trace_rate": "0"})
        assert (await client.get("/v2/models/b/trace/setting")).json()["trace_rate"] == "0"
        await infer("b", 5)
        await infer("a", 1, traceparent=parent)
        spans = await collector.requests(3)
        assert sorted(span.attributes["turnout.model"] for span in spans) == ["a", "b", "b"]
        assert (await client.get("/v2/models/q/trace/setting")).status_code == 404


async def test_who_may_see_and_change_what_follows_their_roles(
    publish_model: Publish, start_server: StartServer, models: Path, opened: Any
) -> None:
    publish_model("mine", "1.0.0", scaled(2))
    publish_model("theirs", "1.0.0", scaled(2))
    reader = make_token(models, "reader", ["read"], ["mine"])
    operator = make_token(models, "operator", ["operate"], ["mine"])
    admin = make_token(models, "admin", ["admin"], ["*"])
    server = await start_server(oip=ALLOWED, auth=AUTH)
    as_reader, as_operator, as_admin = (opened(server, token) for token in (reader, operator, admin))

    assert (await as_reader.get("/v2/models")).json() == {"models": ["mine"]}
    assert [one["name"] for one in (await as_reader.get("/v2/models/stats")).json()["model_stats"]] == ["mine"]
    assert [one["name"] for one in (await as_reader.post("/v2/repository/index")).json()] == ["mine"]
    spoken = await ask(server, "ModelStatistics", pb.ModelStatisticsRequest(), reader)
    assert [one.name for one in spoken.model_stats] == ["mine"]
    assert (await as_reader.get("/v2/models/theirs/stats")).status_code == 403

    tracing = {"trace_rate": "3"}
    message = pb.TraceSettingRequest(model_name="mine")
    message.settings["trace_rate"].value.append("3")
    assert (await as_reader.get("/v2/models/mine/trace/setting")).status_code == 200
    assert (await as_reader.post("/v2/models/mine/trace/setting", json=tracing)).status_code == 403
    assert await code(ask(server, "TraceSetting", message, reader)) is Code.PERMISSION_DENIED
    assert (await as_operator.post("/v2/models/mine/trace/setting", json=tracing)).status_code == 409  # it is off
    assert await code(ask(server, "TraceSetting", message, operator)) is Code.FAILED_PRECONDITION
    assert (await as_operator.post("/v2/trace/setting", json=tracing)).status_code == 403
    assert (await as_operator.post("/v2/models/theirs/trace/setting", json=tracing)).status_code == 403
    assert (await as_operator.get("/v2/logging")).status_code == 403
    log = pb.LogSettingsRequest()
    log.settings["log_verbose_level"].uint32_param = 1
    assert await code(ask(server, "LogSettings", log, operator)) is Code.PERMISSION_DENIED
    assert (await as_admin.post("/v2/logging", json={"log_verbose_level": 1})).json()["log_verbose_level"] == 1
    assert (await as_admin.post("/v2/logging", json={"log_verbose_level": 0})).status_code == 200
    for path in ("mine", "mine@1.0.0", "mine@%5E1"):
        assert (await as_operator.post(f"/v2/repository/models/{path}/load")).status_code == 200
        assert (await as_reader.post(f"/v2/repository/models/{path}/unload")).status_code == 403
    assert (await as_operator.post("/v2/repository/models/theirs@1.0.0/unload")).status_code == 403


async def test_a_change_of_the_log_acts_at_once_and_stands_there_with_who_made_it(
    models: Path, opened: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    threshold, form = Threshold("warning"), LogForm("json")
    log = make_logger(form, threshold)
    async with running(make_settings(models, oip=ALLOWED), log, threshold=threshold, form=form) as server:
        client = opened(server)
        assert not (await client.get("/v2/logging")).json()["log_info"]
        await client.post("/v2/logging", json={"log_info": True})
        log.debug("not written")
        await client.post("/v2/logging", json={"log_verbose_level": 1})
        log.debug("enough")
        await client.post("/v2/logging", json={"log_format": "console", "log_verbose_level": 0})
        log.debug("not written")
    lines = [
        line
        for line in capfd.readouterr().err.splitlines()
        if "log settings" in line or "enough" in line or "not written" in line
    ]
    first, second, enough = map(json.loads, lines[:3])
    assert [(line["event"], line["threshold"], line["actor"]) for line in (first, second)] == [
        ("log settings changed", "info", ""), ("log settings changed", "debug", ""),
    ]  # fmt: skip
    assert enough["event"] == "enough"
    assert len(lines) == 4
    assert "log settings changed" in lines[3]
    assert not lines[3].startswith("{")
