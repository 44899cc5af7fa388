"""Probes of rollouts on a real server, asked of a real endpoint that answers well, badly, or not at all."""

import gzip
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import httpx
import numpy as np
import pytest

from certificates import Authority
from http_endpoint import HANGS, Endpoint, answer, connections, drip, listening
from onnx_models import scaled
from ports import free_port
from rollout_wire import CAREFREE, TICK, clients, command, in_state, settled, start, until
from routing_wire import control_of
from started_servers import make_settings
from turnout.app.server import Running, running
from turnout.config import Probe, Settings
from turnout.config.rendering import render_toml
from turnout.errors import ConfigError
from turnout.rollout.analysis.prober import ProbeAnswer, ProbeContext, Prober
from turnout.telemetry.logging import make_logger
from turnout.threads import Threads
from turnout_proto.v1 import rollout_pb2 as pb
from wire import request

pytestmark = pytest.mark.slow

TOKEN = "correct-horse-battery"

ONE_STEP = CAREFREE | {"steps": [{"weight": 0.5, "soak_s": 0.3}], "probes": ["qa"]}


def probe(url: str, **more: object) -> dict[str, Probe]:
    return {"qa": Probe(**{"url": url, "interval_s": 0.2, "timeout_s": 30, "failure_limit": 1} | more)}


def ask(number: int):
    return request("m", x=np.full((1, 4), number, np.float32))


@pytest.fixture
def pair(publish_model):
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "1.1.0", scaled(2), release=False)


async def page_of(server: Running, path: str) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://{server.http}{path}")).text


def probed(rollout: pb.Rollout) -> pb.RolloutProbe:
    (one,) = rollout.probes
    return one


async def test_a_candidate_that_its_probe_passes_goes_through_and_is_told_of(pair, start_server) -> None:
    async with listening(Endpoint(answer(200, {"data": [{"ok": True}]}))) as endpoint:
        url = endpoint.url + "/check?model={model}&v={candidate}&over={baseline}"
        server = await start_server(
            rollout=TICK, probe=probe(url, json_path="$.data[0].ok", bearer_token=TOKEN, headers={"x-team": "ml"})
        )
        async with clients(server, ask):
            await start(server, "1.1.0", ONE_STEP)
            updates = await until(server, in_state("succeeded", "rolled_back"))
        assert updates[-1].state == "succeeded", updates[-1]
        measured = [probed(one) for one in updates if one.probes and one.probes[0].outcome]
        assert {(one.name, one.outcome, one.value, one.detail) for one in measured} == {("qa", "passed", "true", "")}
        assert all(one.time.seconds > 0 for one in measured)
    first = endpoint.asked[0]
    assert (first.method, first.target) == ("GET", "/check?model=m&v=1.1.0&over=1.0.0")
    assert first.headers["authorization"] == f"Bearer {TOKEN}"
    assert first.headers["x-team"] == "ml"


async def test_a_probe_that_fails_beyond_its_limit_takes_the_candidate_back_in_words(pair, start_server) -> None:
    async with listening(Endpoint(answer(200, 0.25))) as endpoint:
        server = await start_server(rollout=TICK, probe=probe(endpoint.url, fail_above=0.1))
        async with clients(server, ask):
            await start(server, "1.1.0", ONE_STEP)
            last = (await until(server, in_state("succeeded", "rolled_back")))[-1]
        assert last.state == "rolled_back"
        assert last.verdict == "probe qa failed 2 times in this step (1 allowed), the last: 0.25 is above 0.1"
        assert [e.text for e in last.events if e.kind == "probe"] == [
            "probe qa failed: 0.25 is above 0.1 (1 in this step, 1 allowed)",
            "probe qa failed: 0.25 is above 0.1 (2 in this step, 1 allowed)",
            last.verdict,
        ]
        scraped = await page_of(server, "/metrics")
        assert 'turnout_rollout_rollbacks_total{model="m",reason_kind="probe"} 1.0' in scraped
        assert 'turnout_probe_measurements_total{outcome="failed",probe="qa"} 2.0' in scraped


GZIPPED = gzip.compress(b"\0" * 100_000_000, 1)
HUNDRED_MB = 100 << 20

NO_MEASURE = {
    "hangs": (HANGS, "no answer within 0.5 s"),
    "500": (answer(500, True), "it answered 500"),
    "404": (answer(404, True), "it answered 404"),
    "a redirect": (answer(302, Location="http://127.0.0.1:1/"), "it answered 302, and redirects are not followed"),
    "a redirect without a place": (answer(304), "it answered 304, and redirects are not followed"),
    "NaN as JavaScript writes it": (answer(200, b"NaN"), "its answer is not JSON"),
    "garbage": (answer(200, b"\x00\xff{{{"), "its answer is not JSON"),
    "nothing": (answer(200), "its answer is not JSON"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "it does not speak HTTP as expected (RemoteProtocolError)"),
    "headers without an end": (
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000, "it does not speak HTTP as expected (RemoteProtocolError)"
    ),
    "hangs up": (b"", "it does not speak HTTP as expected (RemoteProtocolError)"),
    "hangs up in the body": (answer(200, b"tr")[:-1], "it does not speak HTTP as expected (RemoteProtocolError)"),
    "text": (answer(200, "true"), "expected a boolean, got text"),
    "null": (answer(200, None), "expected a boolean, got null"),
    "an object": (answer(200, {}), "expected a boolean, got an object"),
    "a list": (answer(200, [True]), "expected a boolean, got a list"),
    "a number without limits": (answer(200, 1), "it answered a number, and neither fail_above nor fail_below is set"),
    "deep": (answer(200, b"[" * 200_000), "its answer is not JSON"),
    "compressed": (
        answer(200, GZIPPED, Content_Encoding="gzip"), "its answer is compressed, although it was asked not to be"
    ),
}  # fmt: skip


@asynccontextmanager
async def prober(**configured: object) -> AsyncIterator[Callable[[], Awaitable[ProbeAnswer]]]:
    """Asks one probe about 1.1.0 of m."""
    threads = Threads("test")
    one = Prober("qa", Probe(**{"timeout_s": 30} | configured), threads)
    try:
        yield lambda: one.ask(ProbeContext("m", "1.1.0", "1.0.0"))
    finally:
        await one.close()
        threads.shutdown(wait=True)


@pytest.mark.parametrize("message", NO_MEASURE)
async def test_an_answer_that_is_no_measure_is_neither_pass_nor_fail(message) -> None:
    says, why = NO_MEASURE[message]
    timeout = 0.5 if says is HANGS else 30
    async with listening(Endpoint(says)) as endpoint, prober(url=endpoint.url, timeout_s=timeout) as asked:
        found = await asked()
    assert (found.outcome, found.detail) == ("inconclusive", why)


async def test_a_body_of_100_mb_is_not_read_to_its_end() -> None:
    async with listening(Endpoint(answer(200, b" " * HUNDRED_MB))) as endpoint, prober(url=endpoint.url) as asked:
        found = await asked()
        assert (found.outcome, found.detail) == ("inconclusive", "its answer has more than 256 KiB")
    assert endpoint.sent < HUNDRED_MB // 4


async def test_a_body_that_drips_is_given_up_with_the_time_of_the_whole_answer() -> None:
    async with connections(drip) as url, prober(url=url, timeout_s=0.5) as asked:
        assert (await asked()).detail == "no answer within 0.5 s"


async def test_a_redirect_leads_nowhere_and_nobody_is_told_the_token() -> None:
    async with listening(Endpoint(answer(200, True))) as elsewhere:
        redirect = answer(307, Location=elsewhere.url + "/metadata")
        async with listening(Endpoint(redirect)) as endpoint, prober(url=endpoint.url, bearer_token=TOKEN) as asked:
            assert (await asked()).outcome == "inconclusive"
    assert len(endpoint.asked) == 1
    assert not elsewhere.asked


async def test_of_https_the_certificate_is_verified_by_the_authorities_that_are_named(tmp_path) -> None:
    authority, other = Authority.make(), Authority.make("another")
    paths = [one.write(tmp_path, name)[0] for one, name in ((authority, "ca"), (other, "other"))]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.issue().write(tmp_path, "server"))
    elsewhere = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    elsewhere.load_cert_chain(*authority.issue(hosts=("elsewhere.example",)).write(tmp_path, "elsewhere"))
    async with listening(Endpoint(answer(200, True)), tls=tls) as endpoint:
        async with prober(url=endpoint.url, ca_file=str(paths[0])) as asked:
            assert (await asked()).outcome == "passed"
        for trusted in ("", str(paths[1])):
            async with prober(url=endpoint.url, ca_file=trusted, bearer_token=TOKEN) as asked:
                assert (await asked()).detail == "it cannot be connected to, or is not trusted"
        assert len(endpoint.asked) == 1, "who is not trusted is asked nothing, and told no token"
    async with (
        listening(Endpoint(answer(200, True)), tls=elsewhere) as endpoint,
        prober(url=endpoint.url, ca_file=str(paths[0])) as asked,
    ):
        assert (await asked()).detail == "it cannot be connected to, or is not trusted"


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("no PEM", "holds no certificates in PEM form")])
async def test_authorities_that_cannot_be_read_are_told_at_the_start(start_server, tmp_path, content, why) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    for settings, key in (
        ({"probe": probe("https://qa.example", ca_file=str(file))}, "probe.qa.ca_file"),
        ({"rollout": {"confirm_url": "https://qa.example", "confirm_ca_file": str(file)}}, "rollout.confirm_ca_file"),
    ):
        with pytest.raises(ConfigError) as caught:
            await start_server(**settings)
        assert caught.value.message.startswith(f"{key}: {file} {why}")


async def test_nobody_who_listens_is_neither_pass_nor_fail() -> None:
    async with prober(url=f"http://127.0.0.1:{free_port()}") as asked:
        found = await asked()
    assert (found.outcome, found.detail) == ("inconclusive", "it cannot be connected to, or is not trusted")


@pytest.mark.parametrize(
    ("message", "outcome", "value"),
    [(0.1, "passed", "0.1"), (0.100001, "failed", "0.100001"), (-1, "failed", "-1"), (0, "passed", "0")],
)
async def test_a_number_passes_within_its_limits(message, outcome, value) -> None:
    async with (
        listening(Endpoint(answer(200, {"a": [{"b c": message}]}))) as endpoint,
        prober(url=endpoint.url, json_path='$.a[0]["b c"]', fail_above=0.1, fail_below=0) as asked,
    ):
        found = await asked()
    assert (found.outcome, found.value) == (outcome, value)


async def test_a_boolean_is_no_number_and_what_is_not_there_is_said() -> None:
    async with listening(Endpoint(answer(200, {"a": True}))) as endpoint:
        async with prober(url=endpoint.url, json_path="$.a", fail_above=1) as asked:
            assert (await asked()).detail == "expected a number, got a boolean"
        async with prober(url=endpoint.url, json_path="$.a.b", fail_above=1) as asked:
            assert (await asked()).detail == "$.a has no 'b'"


async def test_a_token_file_is_read_each_time_and_a_bad_one_asks_nobody(tmp_path) -> None:
    file = tmp_path / "token"
    async with (
        listening(Endpoint(answer(200, True))) as endpoint,
        prober(url=endpoint.url, method="POST", bearer_token_file=str(file)) as asked,
    ):
        assert (await asked()).detail == "its bearer_token_file cannot be read"
        file.write_text("two\nlines")
        assert (await asked()).detail == "its bearer_token_file holds no token of printable ASCII"
        for token in ("first", "second"):
            file.write_text(token + "\n")
            assert (await asked()).outcome == "passed"
    assert [one.headers["authorization"] for one in endpoint.asked] == ["Bearer first", "Bearer second"]
    assert endpoint.asked[0].json["candidate"] == "1.1.0"


async def test_what_prometheus_says_of_a_bad_query_is_told_without_the_token() -> None:
    message = answer(400, {"status": "error", "errorType": "bad_data", "error": f"parse error near {TOKEN}\n\x1b[31m"})
    async with (
        listening(Endpoint(message)) as endpoint,
        prober(url=endpoint.url + "/prometheus/", query="up(", fail_above=1, bearer_token=TOKEN) as asked,
    ):
        assert (await asked()).detail == "Prometheus refused: parse error near *** [31m"
    assert endpoint.asked[0].target == "/prometheus/api/v1/query"


async def test_a_probe_that_nobody_can_ask_holds_a_step_until_it_can_be_asked(pair, start_server) -> None:
    """What happens at the deadline is in tests/unit/rollout/test_rollout_analysis.py."""
    async with listening(Endpoint(answer(503))) as endpoint:
        server = await start_server(rollout=TICK, probe=probe(endpoint.url, consecutive_error_limit=0))
        async with clients(server, ask):
            await start(server, "1.1.0", ONE_STEP)

            def waits_for_nothing_else(rollout: pb.Rollout) -> bool:
                (why,) = rollout.lacking if len(rollout.lacking) == 1 else ("",)
                return why.startswith("probe qa: inconclusive") and why.endswith("in a row: it answered 503")

            held = (await until(server, waits_for_nothing_else))[-1]
            assert (held.state, held.step) == ("deciding", 1), held
            assert (probed(held).outcome, probed(held).failed) == ("inconclusive", 0)
            assert [e.text for e in held.events if e.kind == "probe"] == [
                "probe qa is inconclusive, neither pass nor fail: it answered 503"
            ]
            before = len(endpoint.asked)
            still = (await until(server, lambda r: len(endpoint.asked) > before + 3))[-1]
            assert (still.state, list(still.pauses)) == ("deciding", [])
            endpoint.says = answer(200, True)
            last = (await until(server, in_state("succeeded", "rolled_back")))[-1]
            assert last.state == "succeeded", last
            assert "probe qa answers again, and passes: true" in [e.text for e in last.events]


async def test_a_probe_that_hangs_delays_no_tick_and_no_rollback(pair, start_server) -> None:
    async with listening(Endpoint(HANGS)) as endpoint:
        server = await start_server(rollout=TICK, probe=probe(endpoint.url, timeout_s=60))
        await start(server, "1.1.0", ONE_STEP)
        await settled(lambda: endpoint.asked)
        rollouts = server.parts.rollouts.engine
        for _ in range(5):
            before = rollouts.last_tick
            await settled(lambda before=before: rollouts.last_tick > before)
        assert rollouts.tick_duration < 30
        await command(server, pb.ROLLOUT_COMMAND_ABORT)
        await until(server, in_state("rolled_back"))
        assert len(endpoint.asked) == 1


async def test_a_probe_of_no_configuration_is_refused_with_the_nearest(pair, start_server) -> None:
    server = await start_server(rollout=TICK, probe=probe("http://127.0.0.1:9"))
    async with control_of(server) as control:
        wanted = {
            "probes": ["http://169.254.169.254/"],
            "steps": [{"weight": 0.5, "soak_s": 1, "probes": ["qaa"]}],
        }
        for call, message in (
            (control.StartRollout, pb.StartRolloutRequest),
            (control.PlanRollout, pb.PlanRolloutRequest),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(message(model="m", version="1.1.0", plan_json=json.dumps(wanted)))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == (
                "probes: there is no probe 'http://169.254.169.254/'; there are qa; "
                "steps[0].probes: there is no probe 'qaa', did you mean qa? There are qa"
            )
        planned = await control.PlanRollout(
            pb.PlanRolloutRequest(model="m", version="1.1.0", plan_json=json.dumps(ONE_STEP))
        )
        assert [(one.name, one.kind, one.condition) for one in planned.probes] == [("qa", "http", "true")]


async def test_a_plan_that_its_probe_would_hold_for_ever_is_told_beforehand(pair, start_server) -> None:
    server = await start_server(rollout=TICK, probe=probe("http://127.0.0.1:9", initial_delay_s=60))
    warnings = {}
    for deadline in (60.0, 60.5):
        plan = json.dumps(ONE_STEP | {"step_deadline_s": deadline})
        async with control_of(server) as control:
            planned = await control.PlanRollout(pb.PlanRolloutRequest(model="m", version="1.1.0", plan_json=plan))
        warnings[deadline] = [line for line in planned.missed if "probe" in line]
    assert warnings == {
        60.0: [
            "probe qa is first asked after 60 s (initial_delay_s), and step 1 waits 60 s at most: "
            "it would stand still there"
        ],
        60.5: [],
    }


async def test_a_probe_is_tried_by_hand_and_counts_for_no_rollout(pair, start_server) -> None:
    async with listening(Endpoint(answer(200, 0.5))) as endpoint:
        server = await start_server(rollout=TICK, probe=probe(endpoint.url + "/{candidate}", fail_above=0.1))
        async with control_of(server) as control:
            tried = await control.TryProbe(pb.TryProbeRequest(probe="qa", model="m", version="1.1.0"))
            assert (tried.outcome, tried.value, tried.detail) == ("failed", "0.5", "0.5 is above 0.1")
            assert (tried.baseline, tried.asked.condition) == ("1.0.0", "at most 0.1")
            for bad in (("nobody", "m", "1.1.0"), ("qa", "n", "1.1.0"), ("qa", "m", "9.0.0")):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await control.TryProbe(pb.TryProbeRequest(probe=bad[0], model=bad[1], version=bad[2]))
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert [one.target for one in endpoint.asked] == ["/1.1.0"]
        assert 'turnout_probe_measurements_total{outcome="failed",probe="qa"} 0.0' in await page_of(server, "/metrics")


async def test_another_driver_goes_on_asking_with_the_failures_that_were_counted(
    pair, start_server, models, monkeypatch
) -> None:
    """A driver that dies while it asks leaves no measurement behind, and loses none that it took."""
    monkeypatch.setattr("turnout.rollout.clock._LEASE_TICKS", 25)  # nobody else drives it before it dies
    async with listening(Endpoint(HANGS, first=deque([answer(200, False)]))) as endpoint:
        configured = {"rollout": TICK, "probe": probe(endpoint.url, timeout_s=60, failure_limit=1)}
        async with running(make_settings(models, **configured), make_logger("json", "warning")) as driver:
            await driver.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            other = await start_server(**configured)
            await start(driver, "1.1.0", ONE_STEP)
            await settled(lambda: len(endpoint.asked) == 2)
            await until(driver, lambda r: probed(r).failed == 1)
        endpoint.says = answer(200, False)
        last = (await until(other, in_state("succeeded", "rolled_back")))[-1]
    assert last.state == "rolled_back"
    assert last.verdict == "probe qa failed 2 times in this step (1 allowed), the last: it answered false"
    assert len(endpoint.asked) == 3


async def test_the_secrets_of_a_probe_are_in_nothing_that_is_told(pair, start_server, models, capfd) -> None:
    header = "a-header-that-is-secret"
    endpoint = Endpoint(lambda asked: answer(200, asked.headers["authorization"]))
    async with listening(endpoint):
        configured = probe(endpoint.url, bearer_token=TOKEN, headers={"x-key": header})
        server = await start_server(rollout=TICK, probe=configured)
        await start(server, "1.1.0", ONE_STEP)
        last = (await until(server, lambda r: bool(r.probes) and probed(r).inconclusive > 1))[-1]
        async with control_of(server) as control:
            listed = await control.ListProbes(pb.ListProbesRequest())
            tried = await control.TryProbe(pb.TryProbeRequest(probe="qa", model="m", version="1.1.0"))
        scraped = await page_of(server, "/metrics")
        page = await page_of(server, "/console/models/m/rollouts/1")
        assert "not asked yet" in page or "inconclusive" in page
    printed = render_toml(Settings(models=models, probe=configured), {})
    assert endpoint.asked[0].headers["authorization"] == f"Bearer {TOKEN}"
    for text in (str(last), str(listed), str(tried), scraped, page, printed, "".join(capfd.readouterr())):
        assert TOKEN not in text
        assert header not in text
