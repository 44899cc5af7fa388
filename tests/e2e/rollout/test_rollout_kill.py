"""Servers that are killed in every state of a rollout, and what the next one makes of it."""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

import onnx_models
from ports import free_port
from processes import ServerProcess, serving
from rollout_wire import Lookups, replayed, settled
from turnout.config import Settings
from turnout.rollout.machine.attempt import Rollout
from turnout.routing.policy import PolicyState
from turnout.state.event_log.events import EventKind
from turnout.state.rollouts import RolloutRecord
from turnout.state.store import StateStore
from turnout_proto.v1 import rollout_pb2 as pb
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TICK_SECONDS = 0.1

# `turnout` with a fault: the controller stops for good where HOLD says, and says so by a file. "STATE:recorded" is
# between the record of a state and the traffic that it wishes; "STATE:applied" after that traffic was put in force and
# before that is recorded; "STATE:withdrawing" before traffic and release are withdrawn. And it writes down what it
# took up from the record, before anything is made of it.
HOLDING = """
import asyncio, json, os
from pathlib import Path
from turnout.__main__ import main
from turnout.rollout.engine.enforcement import Enforcement
from turnout.rollout.engine.engine import RolloutEngine

state, place = os.environ.get("HOLD", ":").split(":")
marks = Path(os.environ["MARKS"])
apply, advance = Enforcement.apply, RolloutEngine._advance
put, withdraw = Enforcement._put, Enforcement._withdraw

async def hold():
    (marks / "held").touch()
    await asyncio.Event().wait()

async def held(self, active, *more):
    rollout = active.rollout
    here = active.saved and state == ("paused" if rollout.pauses else str(rollout.state))
    if here and place == "recorded":
        await hold()
    await apply(self, active, *more)
    if here and place == "applied":
        await hold()

async def putting(self, active, *more):
    if state == str(active.rollout.state) and place == "withdrawing":
        await hold()
    await put(self, active, *more)

async def withdrawing(self, active, *more):
    if state == str(active.rollout.state) and place == "withdrawing":
        await hold()
    await withdraw(self, active, *more)

async def advancing(self, active, *more):
    if not (marks / "taken.json").exists():
        text = json.dumps(active.rollout.to_json())
        (marks / "writing").write_text(text)
        (marks / "writing").rename(marks / "taken.json")
    await advance(self, active, *more)

Enforcement.apply, RolloutEngine._advance = held, advancing
Enforcement._put, Enforcement._withdraw = putting, withdrawing
main()
"""

PLAN = {
    "steps": [{"weight": 0.25, "soak_s": 0.4}, {"weight": 0.5, "soak_s": 0.4}],
    "shadow": {"rate": 1.0, "duration_s": 0.3, "agreement": 0.9, "min_samples": 20},
    "metrics": ["errors"],
    "alpha": 1e-6,
    "beta": 0.5,
    "min_requests": 10,
    "threshold_samples": 50,
    "warm_requests": 2,
    "step_deadline_s": 100.0,
    "watch_s": 0.4,
}
"""Promotes soon, and rolls back only what is plainly worse: the machines that this runs on are busy.

A p90 whose threshold was found while they were busier than ever is exceeded too seldom to be sure of it within minutes.
"""


class Load:
    """Clients that call one address, whoever listens there.

    Attributes:
        versions: Who answered.
        codes: Of the calls that failed.
        make: Makes their requests.
    """

    def __init__(self) -> None:
        self.versions: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.make = Lookups()


@asynccontextmanager
async def load_on(address: str, count: int = 4) -> AsyncIterator[Load]:
    load, over = Load(), asyncio.Event()
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
    async with grpc.aio.insecure_channel(address, options=[*options, ("grpc.min_reconnect_backoff_ms", 50)]) as channel:
        stub = PredictionServiceStub(channel)

        async def client() -> None:
            number = 0
            while not over.is_set():
                number += 1
                try:
                    answer = await stub.Predict(load.make(number), timeout=100)
                    load.versions[answer.route.version] += 1
                except grpc.aio.AioRpcError as error:
                    load.codes[error.code().name] += 1
                    await asyncio.sleep(0.05)  # or they take a core from the server that starts
                await asyncio.sleep(0.02)

        clients = [asyncio.create_task(client()) for _ in range(count)]
        try:
            yield load
        finally:
            over.set()
            await asyncio.gather(*clients)


class House:
    """One repository, and the servers that serve it one after another at one address."""

    def __init__(self, models: Path, marks: Path) -> None:
        self.models, self.marks = models, marks
        marks.mkdir(exist_ok=True)
        self.address = f"127.0.0.1:{free_port()}"
        self.store = StateStore.open(Settings(models=models).state_url)
        self.killed: Rollout | None = None

    def serving(self, hold: str = ":", tick_seconds: float = TICK_SECONDS):
        for mark in self.marks.iterdir():
            mark.unlink()
        environment = {"HOLD": hold, "MARKS": str(self.marks), "TURNOUT_ROLLOUT__TICK_S": str(tick_seconds)}
        return serving(self.models, program=HOLDING, grpc=self.address, **environment)

    @property
    def record(self) -> RolloutRecord:
        return self.store.rollouts("m", limit=1)[0]

    @property
    def rollout(self) -> Rollout:
        return Rollout.from_json(self.record.document)

    def kinds(self) -> list[str]:
        attempt = self.record.attempt
        events = [e for e in self.store.events("m", 1000) if e.kind == EventKind.ROLLOUT]
        return [e.payload["kind"] for e in reversed(events) if e.payload["attempt"] == attempt]

    def policy(self) -> PolicyState:
        return PolicyState.from_json(self.store.policies()["m"].document)

    def release_statuses(self) -> dict[str, str]:
        return {
            str(v): str(release_status)
            for v, release_status in self.store.release_state().of("m").release_statuses.items()
        }

    def check_evidence(self) -> None:
        """The evidence is what the recorded ticks come to, to the very number."""
        rollout = self.rollout
        assert (
            replayed(rollout.plan, [body for *_, body in self.store.rollout_ticks("m", rollout.attempt)])
            == rollout.evidence
        )

    async def check_taken(self) -> None:
        """The server took up what the killed one had recorded, and nothing else."""
        taken = self.marks / "taken.json"
        await settled(taken.exists, lambda: "nobody took the rollout up")
        assert self.killed is not None
        assert Rollout.from_json(json.loads(taken.read_text())) == self.killed

    async def kill_when_held(self, server: ServerProcess, state: str) -> None:
        def seen() -> object:
            return state, self.kinds(), self.rollout, server.log.read_text()

        await settled((self.marks / "held").exists, seen, limit=240.0)  # a verdict takes some hundreds of requests
        server.send(signal.SIGKILL)
        server.wait()
        self.killed = self.rollout
        self.check_evidence()


@pytest.fixture
def house(publish_model, models, tmp_path):
    publish_model("m", "1.0.0", onnx_models.look_up_safely())
    publish_model("m", "1.1.0", onnx_models.look_up(), release=False)
    built = House(models, tmp_path / "marks")
    yield built
    built.store.close()


async def start(server: ServerProcess, **changes: object) -> None:
    async with grpc.aio.insecure_channel(server.control) as channel:
        control = ControlServiceStub(channel)

        async def asked() -> bool:
            try:
                await control.StartRollout(
                    pb.StartRolloutRequest(model="m", version="1.1.0", plan_json=json.dumps(PLAN | changes))
                )
            except grpc.aio.AioRpcError as error:  # nothing is loaded yet
                if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                    return False
                raise
            return True

        deadline = time.monotonic() + 60
        while not await asked():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def command(server: ServerProcess, what: int) -> None:
    async with grpc.aio.insecure_channel(server.control) as channel:
        await ControlServiceStub(channel).CommandRollout(
            pb.CommandRolloutRequest(model="m", command=what, change=pb.RolloutChange(actor="ann"))
        )


async def test_a_good_candidate_goes_through_every_step_once_whichever_state_its_servers_are_killed_in(house) -> None:
    places = [
        "validating:recorded", "shadowing:recorded", "ramping:recorded", "soaking:applied", "deciding:recorded",
        "ramping:applied", "promoting:recorded", "watching:applied",
    ]  # fmt: skip
    async with load_on(house.address) as load:
        for number, place in enumerate(places):
            with house.serving(place) as server:
                if number == 0:
                    await start(server)
                else:
                    await house.check_taken()
                await house.kill_when_held(server, place)
        with house.serving() as server:
            await house.check_taken()
            await settled(lambda: house.record.final, lambda: (house.rollout, server.log.read_text()))
    assert house.kinds() == [
        "start", "validating", "shadowing", *("ramping", "soaking", "deciding") * 2, "promoting", "watching",
        "succeeded",
    ]  # fmt: skip
    house.check_evidence()
    policy = house.policy().policy
    assert policy is not None
    assert (str(policy.baseline), policy.canaries) == ("1.1.0", ())
    assert set(load.versions) == {"1.0.0", "1.1.0"}
    assert set(load.codes) <= {"UNAVAILABLE"}, load.codes


async def test_a_pause_and_a_rollback_outlive_the_servers_that_are_killed_in_them(house) -> None:
    async with load_on(house.address) as load:
        with house.serving("paused:recorded") as server:
            await start(server, steps=[{"weight": 0.25, "soak_s": 600.0}])
            await settled(lambda: house.rollout.state == "soaking", lambda: (house.kinds(), server.log.read_text()))
            pausing = asyncio.create_task(command(server, pb.ROLLOUT_COMMAND_PAUSE))
            await house.kill_when_held(server, "paused")
            with pytest.raises(grpc.aio.AioRpcError):
                await pausing
        paused = house.killed
        assert [p.actor for p in paused.pauses] == ["ann"]
        for place in ("aborting:recorded", "aborting:applied"):
            with house.serving(place) as server:
                await house.check_taken()
                await settled(lambda: load.versions["1.1.0"], lambda: load.versions)
                load.make.bad = True  # a verdict is looked for while it is paused
                await house.kill_when_held(server, place)
        assert (house.killed.step, house.killed.step_s) == (paused.step, paused.step_s), "a pause is no progress"
        with house.serving() as server:
            await house.check_taken()
            await settled(lambda: house.record.final, lambda: (house.rollout, server.log.read_text()))
    assert house.rollout.state == "rolled_back"
    kinds = house.kinds()
    assert kinds[kinds.index("pause") :] == ["pause", "verdict", "aborting", "rolled_back"]
    house.check_evidence()
    policy = house.policy().policy
    assert policy is not None
    assert (str(policy.baseline), policy.canaries, policy.twin) == ("1.0.0", (), 0)
    assert set(load.codes) <= {"UNAVAILABLE", "INTERNAL"}, load.codes


async def test_a_rollback_after_promotion_withdraws_the_release_although_its_server_is_killed_before(house) -> None:
    """Killed before the one write that gives the traffic back and withdraws the release."""
    async with load_on(house.address) as load:
        with house.serving("watching:applied") as server:
            # A baseline that keeps 5 % has so few requests that thousands are wanted for a verdict.
            await start(server, watch_s=300.0, holdback=0.4)
            await house.kill_when_held(server, "watching")
        load.make.bad = True
        with house.serving("aborting:withdrawing") as server:
            await house.kill_when_held(server, "aborting")
        assert house.release_statuses() == {"1.0.0": "released", "1.1.0": "released"}
        assert str(house.policy().policy.baseline) == "1.1.0"
        with house.serving() as server:
            await house.check_taken()
            await settled(lambda: house.record.final, lambda: (house.rollout, server.log.read_text()))
    assert house.rollout.state == "rolled_back"
    assert house.release_statuses() == {"1.0.0": "released"}
    house.check_evidence()


async def test_one_of_two_servers_drives_and_the_other_takes_over_when_it_is_killed(house, tmp_path) -> None:
    tick_seconds = 2.0  # four of them are a lease, which a process keeps that gets no CPU for some seconds
    with house.serving(tick_seconds=tick_seconds) as first:
        await start(first)
        drivers = {house.record.driver}
        with serving(house.models, TURNOUT_ROLLOUT__TICK_S=str(tick_seconds)) as second:
            number = house.record.number
            await settled(lambda: house.record.number > number + 2, lambda: house.rollout)
            drivers.add(house.record.driver)
            assert len(drivers) == 1, "who has the lease drives on"
            first.send(signal.SIGKILL)
            first.wait()
            last, killed = house.record, house.rollout
            await settled(lambda: house.record.driver != last.driver, lambda: second.log.read_text())
            taken = house.record
            assert (taken.changed - last.driven_until).total_seconds() >= 0, "never before the lease is over"
            assert Rollout.from_json(taken.document).step == killed.step
            await command(second, pb.ROLLOUT_COMMAND_ABORT)
            await settled(lambda: house.record.final, lambda: house.rollout)
    assert house.kinds()[-3:] == ["abort", "aborting", "rolled_back"]
