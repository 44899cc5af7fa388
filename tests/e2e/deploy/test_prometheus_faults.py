"""A real Prometheus scrapes two real servers in every kind of trouble at once: each kind's alert fires, no other."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from semver import Version

import rollout_wire
from held import held_runs
from onnx_models import scaled, slow
from prometheus_process import Prometheus, needs_prometheus, prometheus
from routing_wire import policy, put
from shadow_wire import PATIENT
from started_servers import make_settings
from turnout.app.server import Running, running
from turnout.config import ModelOverrides, QueueLimits, Runtime, ShadowLane
from turnout.state.store import StateStore
from turnout.telemetry.logging import make_logger
from wire import X, request

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), needs_prometheus]

HARD = {
    "steps": [{"weight": 0.5, "soak_s": 0.2}], "metrics": ["errors"], "min_requests": 1_000_000,
    "step_deadline_s": 1.0, "on_insufficient": "pause",
}  # fmt: skip
"""A plan that asks for more requests than come, and stands still for want of them."""

WAITING = 12
JOB = "job=turnout"


def alert(name: str, severity: str, *labels: str) -> tuple[str, ...]:
    return tuple(sorted((f"alertname={name}", f"severity={severity}", JOB, *labels)))


@asynccontextmanager
async def replica(directory: Path, models: Path) -> AsyncIterator[Running]:
    """Another server of the same models, with a state store of its own, and so epochs; its `full` has a short queue."""
    settings = make_settings(
        models,
        state=f"sqlite:///{directory / 'other.db'}",
        runtime=Runtime(runners=1),
        model={"full": ModelOverrides(limits=QueueLimits(max_queue_requests=WAITING))},
    )
    with StateStore.open(settings.state_url) as store:
        for model in ("m", "full"):
            store.release(model, Version(1), actor="test", reason="")
    async with running(settings, make_logger("json", "error")) as server:
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        yield server


async def test_each_kind_of_trouble_fires_its_own_alert_and_no_other(
    publish_model, start_server, models, tmp_path
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "1.1.0", scaled(3), release=False)  # a shadow that disagrees
    publish_model("thin", "1.0.0", scaled(2))
    publish_model("thin", "1.1.0", scaled(2), release=False)  # a rollout that sees too little
    publish_model("full", "1.0.0", slow())  # a queue that never empties, since a run does not end
    publish_model("barred", "1.0.0", scaled(2))  # what a setting keeps from being loaded
    publish_model("changed", "1.0.0", scaled(2))
    file = models / "changed" / "1.0.0" / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    server = await start_server(
        rollout=rollout_wire.TICK,
        model={"barred": ModelOverrides(runtime=Runtime(providers=["tensorrt"]))},
        shadow=ShadowLane(isolation="thread", **PATIENT),
    )
    looped = {"x": X, "n": np.array(1)}  # in a thread, which can be held without CPU
    async with AsyncExitStack() as stack, replica(tmp_path, models) as other:
        loads = [
            (server, lambda _: request("m", x=X), 1, 0.02),
            (server, lambda _: request("thin", x=X), 1, 0.05),
            # One runs, all others wait: none is refused. Not where the shadow is, which runs when nobody waits.
            (other, lambda _: request("full", **looped), WAITING, 0.0),
        ]
        for which, make, count, pause in loads:
            await stack.enter_async_context(rollout_wire.clients(which, make, count, pause, timeout_s=240.0))
        stack.enter_context(held_runs(other, "full"))
        await put(other, policy("1.0.0"))
        await put(server, policy("1.0.0", {"1.1.0": 1.0}))
        await put(server, policy("1.0.0", {"1.1.0": 0.9}))  # an epoch that the other does not have
        await rollout_wire.start(server, "1.1.0", HARD, model="thin")
        here, there = f"instance={server.http}", f"instance={other.http}"
        changed = ("model=changed", "version=1.0.0", "reason=digest_mismatch")
        expected = {
            alert("TurnoutDigestMismatch", "critical", here, *changed),
            alert("TurnoutDigestMismatch", "critical", there, *changed),
            alert("TurnoutLoadFailed", "warning", here, "model=barred", "version=1.0.0", "reason=config"),
            alert("TurnoutShadowDisagrees", "warning", "model=m", "version=1.1.0"),
            alert("TurnoutReplicasDisagree", "critical", "model=m"),
            alert("TurnoutReplicasDisagree", "critical", "model=thin"),  # the other knows of no rollout
            alert("TurnoutRolloutStuck", "warning", "model=thin", "version=1.1.0", "reason_kind=insufficient"),
            alert("TurnoutQueueSaturated", "warning", there, "model=full", "version=1.0.0"),
        }
        targets = f'{server.http}", "{other.http}'
        watching = await asyncio.to_thread(
            stack.enter_context, prometheus(tmp_path / "prometheus", targets, every="4s")
        )
        await asyncio.to_thread(fires, watching, expected)


def fires(watching: Prometheus, expected: set[tuple[str, ...]]) -> None:
    """Waits until all of `expected` fired, and for some evaluations more; nothing else may have."""
    begun = time.monotonic()
    try:
        watching.wait("the alerts fire", lambda: expected <= watching.ever_fired(time.monotonic() - begun + 5), 120)
    except AssertionError as error:
        fired = watching.ever_fired(time.monotonic() - begun + 5)
        raise AssertionError(f"missing: {expected - fired}; fired: {fired - expected}") from error
    evaluated = time.time()
    watching.wait(
        "whatever else might fire has had the time to",
        lambda: min(watching.now("timestamp(version:turnout_requests:rate5m)").values()) > evaluated + 4,
    )
    assert watching.ever_fired(time.monotonic() - begun + 5) == expected
