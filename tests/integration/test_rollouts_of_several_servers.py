"""Several servers on one state store: one verdict, from what all of them saw."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from onnx_models import look_up, look_up_safely
from rollout_wire import FINAL, LONG, TICK, Lookups, check_evidence, clients, in_state, latest, settled, start, until

pytest_plugins = ["postgres_fixture"]

STATES = ["sqlite", "postgresql"]


@pytest.fixture
def pair(publish_model):
    """A baseline that always answers, and a candidate that raises on some requests."""
    publish_model("m", "1.0.0", look_up_safely())
    publish_model("m", "1.1.0", look_up(), release=False)


def of(server):
    """What a server knows of the model's rollout."""
    return [r for r in server.services.rollouts.running if r.model == "m"]


async def test_what_another_server_saw_takes_the_candidate_back(pair, start_server) -> None:
    """The one that drives sees 12 healthy requests a second; of the other's, a third of the candidate's fail."""
    driver = await start_server(rollout=TICK)
    other = await start_server(rollout=TICK)
    bad = Lookups()
    async with AsyncExitStack() as stack:
        quiet = await stack.enter_async_context(clients(driver, Lookups(), count=1, pause=0.08))
        busy = await stack.enter_async_context(clients(other, bad, count=4, pause=0.01))
        await start(driver, "1.1.0", LONG)
        await until(driver, in_state("soaking"))
        await settled(lambda: other.services.policies.current["m"].state.policy.canaries, lambda: "followed")
        assert [len(s.services.rollouts.active) for s in (driver, other)] == [1, 0]
        bad.bad = True
        last = (await until(driver, in_state(*FINAL)))[-1]
        assert last.state == "rolled_back"
        assert not quiet.codes, "the driver's own requests all went well"
        await settled(lambda: not other.services.policies.current["m"].state.policy.canaries)
        harmed = busy.codes.total()
        for _ in range(2):
            busy.answers.clear()
            await settled(lambda: busy.answers.total() > 30)
        assert set(busy.answers) == {"1.0.0"}
        assert harmed < 200, busy.codes
    errors = next(m for m in last.metrics if m.name == "errors")
    assert errors.canary_bad >= 3
    await check_evidence(driver)
