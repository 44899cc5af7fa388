"""The HTTP listener: probes, metrics, JSON predictions."""

import asyncio
import itertools
import re
import subprocess

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from semver import Version

from debian import needs, program
from held import held_loads
from onnx_models import add_with_default, look_up, scaled
from turnout.config import ModelOverrides
from wire import X, refusal, request, stub_of

PROMTOOL = program("prometheus", "promtool")
needs_promtool = needs(PROMTOOL, "prometheus")


async def _get(server, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        return await client.get(path)


async def _post(server, path: str, body: object) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        return await client.post(path, json=body)


async def _samples(server) -> list:
    text = (await _get(server, "/metrics")).text
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


async def test_ready_only_once_everything_is_loaded_and_not_while_draining(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    with held_loads():
        server = await start_server(wait=False)
        assert (await _get(server, "/livez")).status_code == 200
        assert (await _get(server, "/readyz")).status_code == 503
    await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
    assert (await _get(server, "/readyz")).status_code == 200


async def test_curl_gets_a_prediction_with_its_version(publish_model, start_server) -> None:
    digest = publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "2.0.0", scaled(3))
    server = await start_server()
    answer = (await _post(server, "/predict/m/^1", {"inputs": {"x": [[1, 2, 3, 4.5]]}})).json()
    plain = (await _post(server, "/predict/m", {"inputs": {"x": [[1, 2, 3, 4]]}, "outputs": ["y"]})).json()
    assert answer["outputs"] == {"y": [[2, 4, 6, 9]]}
    assert (answer["version"], answer["role"], answer["digest"]) == ("1.0.0", "pinned", digest)
    assert (plain["version"], plain["role"]) == ("2.0.0", "baseline")


async def test_a_default_may_be_left_out(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", add_with_default())
    server = await start_server()
    assert (await _post(server, "/predict/m", {"inputs": {"x": [[1, 2, 3]]}})).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/predict/q", {"inputs": {"x": [[1]]}}, 404, None),
        ("/predict/m/9", {"inputs": {"x": [[1]]}}, 404, None),
        ("/predict/m/^^", {"inputs": {"x": [[1]]}}, 400, "version"),
        ("/predict/m", {"inputs": {"x": [[1, 2], [3]]}}, 400, "inputs.x"),
        ("/predict/m", {"inputs": {"x": "words"}}, 400, "inputs.x"),
        ("/predict/m", {"inputs": {"z": 1}}, 400, "inputs.z"),
        ("/predict/m", {"inputs": [1]}, 400, "inputs"),
        ("/predict/m", [1], 400, "body"),
        ("/predict/m", {"inputs": {}, "outputs": "y"}, 400, "outputs"),
    ],
)
async def test_what_cannot_be_answered_is_refused_with_the_field(
    publish_model, start_server, path, body, status, field
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    answer = await _post(await start_server(), path, body)
    assert answer.status_code == status
    assert [v["field"] for v in answer.json()["error"]["violations"]] == ([field] if field else [])


async def test_a_failure_in_the_model_is_a_500_with_a_request_id_and_no_path(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", look_up())
    answer = await _post(await start_server(), "/predict/m", {"inputs": {"index": [999]}})
    assert answer.status_code == 500
    assert answer.json()["error"]["request_id"]
    assert "/" not in answer.json()["error"]["message"]


async def test_a_body_past_the_bound_is_refused(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(limits={"http_max_body_bytes": 1000})
    answer = await _post(server, "/predict/m", {"inputs": {"x": [[1, 2, 3, 4]] * 1000}})
    assert answer.status_code == 400
    assert "1000 bytes" in answer.json()["error"]["message"]


async def test_the_metrics_say_what_happened_by_version_and_role(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    server = await start_server(model={"m": ModelOverrides(slo_ms=(0.0001,))})
    async with stub_of(server) as stub:
        for _ in range(3):
            await stub.Predict(request("m", x=X))
        await stub.Predict(request("m", "1.0.0", x=X))
        await refusal(stub.Predict(request("m", x=X.astype(np.float64))))
        await refusal(stub.Predict(request("not-a-model", x=X)))
    counted = {
        (s.labels["model"], s.labels["version"], s.labels["role"], s.labels["code"]): s.value
        for s in await _samples(server)
        if s.name == "turnout_requests_total"
    }
    assert counted["m", "1.0.0", "pinned", "INTERNAL"] == 0  # there before the first failure
    assert {labels: count for labels, count in counted.items() if count} == {
        ("m", "2.0.0", "baseline", "OK"): 3,
        ("m", "1.0.0", "pinned", "OK"): 1,
        ("m", "2.0.0", "baseline", "INVALID_ARGUMENT"): 1,
        ("", "", "", "NOT_FOUND"): 1,
    }
    by_name = {(s.name, s.labels.get("version"), s.labels.get("role")): s.value for s in await _samples(server)}
    assert by_name["turnout_request_duration_seconds_count", "2.0.0", "baseline"] == 4
    assert by_name["turnout_compute_duration_seconds_count", "2.0.0", "baseline"] == 3
    assert by_name["turnout_slo_exceeded_total", "1.0.0", "pinned"] == 1
    weights = {
        (s.labels["version"], s.labels["kind"]): s.value
        for s in await _samples(server)
        if s.name == "turnout_traffic_weight"
    }
    assert weights == {("2.0.0", "desired"): 1, ("2.0.0", "applied"): 1}


async def test_no_label_comes_from_a_client_and_nothing_is_created(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server()
    async with stub_of(server) as stub:
        await refusal(stub.Predict(request("intruder-model", x=X)))
        await refusal(stub.Predict(request("m", "intruder-tag", x=X)))
        await stub.Predict(request("m", request_id="intruder-id", x=X))
    text = (await _get(server, "/metrics")).text
    assert "intruder" not in text
    assert "_created" not in text


async def test_latency_buckets_are_fine_enough_to_compare_versions(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server()
    async with stub_of(server) as stub:
        await stub.Predict(request("m", x=X))
    bounds = [
        float(s.labels["le"])
        for s in await _samples(server)
        if s.name == "turnout_request_duration_seconds_bucket" and s.labels["le"] != "+Inf"
    ]
    assert bounds[0] == 250e-6
    assert bounds[-1] == 30.0
    assert all(high / low <= 1.5 for low, high in itertools.pairwise(bounds))


async def test_series_of_an_unloaded_version_go_after_a_grace_of_two_scrapes(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    server = await start_server()
    async with stub_of(server) as stub:
        await stub.Predict(request("m", x=X))
    await server.parts.serving.manager.unload("m", Version(2))

    async def has_series() -> bool:
        return any(
            s.name == "turnout_requests_total" and s.labels["version"] == "2.0.0" for s in await _samples(server)
        )

    assert [await has_series() for _ in range(3)] == [True, True, False]


@needs_promtool
@pytest.mark.slow
async def test_promtool_finds_nothing_to_complain_about(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server()
    async with stub_of(server) as stub:
        await stub.Predict(request("m", x=X))
    text = (await _get(server, "/metrics")).text
    done = await asyncio.to_thread(
        subprocess.run, [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True
    )
    validation_errors = [line for line in done.stderr.splitlines() if re.match("turnout_", line)]
    assert validation_errors == []


async def test_a_path_or_method_without_a_route_is_answered_like_other_errors(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()
    async with httpx.AsyncClient(base_url=f"http://{server.http}", trust_env=False) as client:
        nowhere = await client.get("/nowhere")
        wrong = await client.get("/predict/m")
        listed = await client.get("/v1/rollouts")
    assert (nowhere.status_code, wrong.status_code, listed.status_code) == (404, 405, 404)
    assert wrong.headers["allow"] == "POST"
    messages = [one.json()["error"]["message"] for one in (nowhere, wrong, listed)]
    assert messages == [
        "no route for GET /nowhere",
        "no route for GET /predict/m; this path takes POST",
        "no route for GET /v1/rollouts",
    ]
