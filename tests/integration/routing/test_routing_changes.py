"""Changes of policies on a real server: under load, raced, refused, frozen, remembered."""

import asyncio
import itertools
import time
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from onnx import TensorProto

from onnx_models import identity, scaled
from routing_wire import ask, control_of, policy, put, read
from turnout_proto.v1 import control_pb2
from turnout_proto.v1 import traffic_pb2 as pb
from wire import X, refusal, request, stub_of


@pytest.fixture(autouse=True)
def versions(publish_model) -> None:
    for minor, release in ((0, True), (1, False), (2, False), (3, True)):
        publish_model("m", f"1.{minor}.0", scaled(minor + 1), release=release)
    publish_model("m", "2.0.0", identity(TensorProto.INT32), release=False)


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The status of a call that has to fail."""
    error = await refusal(call)
    return error.code, error.message


async def test_a_hundred_changes_under_load_fail_no_request_and_every_answer_fits_its_epoch(start_server) -> None:
    server = await start_server()
    allowed: dict[int, set[tuple[str, str]]] = {}

    def note(state: pb.TrafficState) -> None:
        if state.HasField("policy"):
            canaries = {(c.version, "canary") for c in state.policy.canaries if c.weight}
            allowed[state.epoch] = canaries | {(state.policy.baseline, "baseline")}
        else:
            allowed[state.epoch] = {("1.3.0", "baseline")}

    note(await put(server, policy("1.0.0", v1_1_0=0.5)))
    done = asyncio.Event()
    seen: list[tuple[int, tuple[str, str]]] = []

    async def unary(number: int) -> None:
        async with stub_of(server) as stub:
            while not done.is_set():
                answer = read(await stub.Predict(request("m", "^1" if number % 2 else "", x=X)))
                seen.append((answer.epoch, (answer.version, answer.role)))
                await asyncio.sleep(0.004)

    async def streamed() -> None:
        while not done.is_set():
            answers = await ask(server, [f"k{n}" for n in range(50)])
            seen.extend((answer.epoch, (answer.version, answer.role)) for answer in answers)
            await asyncio.sleep(0.01)

    clients = [asyncio.create_task(unary(n)) for n in range(4)] + [asyncio.create_task(streamed()) for _ in range(4)]
    async with control_of(server) as control:
        for number in itertools.count():
            if len(allowed) > 100:
                break
            match number % 4:
                case 0:
                    note(await put(server, policy("1.0.0", v1_1_0=0.3, v1_2_0=0.3)))
                case 1:
                    ramp = pb.RampTrafficRequest(model="m", canary=pb.Canary(version="1.2.0", weight=(number % 7) / 10))
                    note((await control.RampTraffic(ramp)).state)
                case 2:
                    note(await put(server, policy("1.3.0", v1_1_0=0.9)))
                case 3:
                    note((await control.RevertTraffic(pb.RevertTrafficRequest(model="m", epoch=1 + number // 3))).state)
    done.set()
    await asyncio.gather(*clients)
    assert len({epoch for epoch, _ in seen}) > 20
    for epoch, who in seen:
        assert who in allowed[epoch], epoch


async def test_a_change_decided_on_an_old_epoch_changes_nothing(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0"), actor="alice", reason="first")
    async with control_of(server) as control:
        late = pb.SetTrafficRequest(
            model="m", policy=policy("1.0.0", v1_1_0=0.5), change=pb.TrafficChange(expected_epoch=0)
        )
        code, message = await refused(control.SetTraffic(late))
        assert code is grpc.StatusCode.ABORTED
        assert message == "the policy of m is at epoch 1 by now, not 0 (by alice: first); look again"
        assert (await control.GetTraffic(pb.GetTrafficRequest(model="m"))).models[0].epoch == 1


async def test_of_ten_changes_on_one_epoch_one_wins_and_without_an_epoch_all_get_their_turn(start_server) -> None:
    server = await start_server()
    other = await start_server()  # on the same state store: the race is decided in the database
    await put(server, policy("1.0.0"))
    async with control_of(server) as one, control_of(other) as two:

        async def race(number: int, expected: int | None) -> str:
            change = pb.TrafficChange(actor=str(number), expected_epoch=expected)
            wanted = policy("1.0.0", v1_1_0=(number + 1) / 100)
            try:
                await (one, two)[number % 2].SetTraffic(pb.SetTrafficRequest(model="m", policy=wanted, change=change))
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        outcomes = await asyncio.gather(*(race(n, 1) for n in range(10)))
        assert sorted(outcomes) == ["ABORTED"] * 9 + ["OK"]
        assert set(await asyncio.gather(*(race(n + 20, None) for n in range(4)))) == {"OK"}
        epochs = (await one.ListTrafficHistory(pb.ListTrafficHistoryRequest(model="m"))).epochs
        assert [state.epoch for state in epochs] == [6, 5, 4, 3, 2, 1]


async def test_the_history_tells_who_did_what_and_why(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=0.05), actor="alice", reason="try it")
    async with control_of(server) as control:
        who = pb.TrafficChange(actor="bob", reason="looks good")
        await control.RampTraffic(
            pb.RampTrafficRequest(model="m", canary=pb.Canary(version="1.1.0", weight=0.25), change=who)
        )
        await control.FreezeTraffic(pb.FreezeTrafficRequest(model="m", frozen=True, change=who))
        epochs = (await control.ListTrafficHistory(pb.ListTrafficHistoryRequest(model="m", limit=2))).epochs
    assert [(s.epoch, s.action, s.actor, s.reason, s.frozen) for s in epochs] == [
        (3, "freeze", "bob", "looks good", True),
        (2, "ramp", "bob", "looks good", False),
    ]
    assert [c.weight for c in epochs[1].policy.canaries] == [0.25]
    assert all(s.changed_at.seconds for s in epochs)


async def test_a_policy_that_is_set_again_makes_no_epoch(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=0.05))
    assert (await put(server, policy("1.0.0", v1_1_0=0.05))).epoch == 1


async def test_in_a_freeze_no_user_meets_a_canary_that_they_did_not_meet_before(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=0.2))  # epoch 1
    await put(server, policy("1.0.0"))
    await put(server, policy("1.0.0", v1_1_0=0.3))  # epoch 3: another trial, with other keys
    await put(server, policy("1.0.0", v1_1_0=0.2))  # epoch 4: fewer of the same
    await put(server, policy("1.0.0", v1_1_0=0.3))
    keys = [f"user-{number}" for number in range(300)]
    met = {key for key, one in zip(keys, await ask(server, keys), strict=True) if one.role == "canary"}
    async with control_of(server) as control:
        await control.FreezeTraffic(pb.FreezeTrafficRequest(model="m", frozen=True))
        code, message = await refused(control.RevertTraffic(pb.RevertTrafficRequest(model="m", epoch=1)))
        assert (code, "frozen" in message) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        await control.RevertTraffic(pb.RevertTrafficRequest(model="m", epoch=4))
    left = {key for key, one in zip(keys, await ask(server, keys), strict=True) if one.role == "canary"}
    assert left < met


async def test_in_a_freeze_only_what_takes_traffic_back_is_taken(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.3.0"))
    await put(server, policy("1.0.0", v1_1_0=0.5))
    async with control_of(server) as control:
        await control.FreezeTraffic(pb.FreezeTrafficRequest(model="m", frozen=True))
        for wanted in (policy("1.0.0", v1_1_0=0.6), policy("1.0.0", v1_1_0=0.1, v1_2_0=0.1)):
            code, message = await refused(control.SetTraffic(pb.SetTrafficRequest(model="m", policy=wanted)))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "frozen (epoch 3)" in message
        code, _ = await refused(control.ClearTraffic(pb.ClearTrafficRequest(model="m")))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        await put(server, policy("1.0.0", v1_1_0=0.1))
        state = await put(server, policy("1.3.0"))  # it was the baseline before
        assert state.frozen
        await control.FreezeTraffic(pb.FreezeTrafficRequest(model="m", frozen=False))
    assert not (await put(server, policy("1.0.0", v1_1_0=0.6))).frozen


@pytest.mark.parametrize(
    ("wanted", "code", "says"),
    [
        (policy("1.0.0", v1_1_0=1.5), "INVALID_ARGUMENT", "policy.canaries[0].weight: expected a share of 0 to 1"),
        (policy("1.0.0", v1_1_0=0.00005), "INVALID_ARGUMENT", "in steps of 0.0001"),
        (policy("1.0.0", v1_1_0=float("nan")), "INVALID_ARGUMENT", "policy.canaries[0].weight"),
        (policy("1.0.0", v1_1_0=0.6, v1_2_0=0.5), "INVALID_ARGUMENT", "canaries: their weights sum to 110.0000%"),
        (policy("1.0.0", v1_0_0=0.1), "INVALID_ARGUMENT", "1.0.0 is the baseline"),
        (policy("1.0.0", {"1.1.0": 0.1, "1.0.0": 0.1}), "INVALID_ARGUMENT", "1.0.0 is the baseline"),
        (pb.Policy(baseline="^1"), "INVALID_ARGUMENT", "version"),
        (policy(""), "INVALID_ARGUMENT", "version"),
        (policy("1.0.0", v1_9_0=0.1), "NOT_FOUND", "no version of m is '1.9.0'"),
        (policy("9.0.0"), "NOT_FOUND", "no version of m is '9.0.0'"),
        (policy("1.1.0"), "FAILED_PRECONDITION", "1.1.0 is a candidate: release it"),
        (policy("1.0.0", v2_0_0=0.1), "FAILED_PRECONDITION", "input x takes int32 where float32 was taken"),
        (policy("1.0.0", {"2.0.0": 0.1}), "FAILED_PRECONDITION", "shadow 2.0.0 does not fit"),
    ],
)
async def test_a_policy_that_cannot_be_is_refused_with_the_reason(start_server, wanted, code: str, says: str) -> None:
    server = await start_server()
    async with control_of(server) as control:
        status, message = await refused(control.SetTraffic(pb.SetTrafficRequest(model="m", policy=wanted)))
        assert (status.name, says in message) == (code, True), message
        assert (await control.GetTraffic(pb.GetTrafficRequest(model="m"))).models[0].epoch == 0
        status, _ = await refused(control.SetTraffic(pb.SetTrafficRequest(model="nobody", policy=wanted)))
        assert status.name in ("NOT_FOUND", "INVALID_ARGUMENT")


async def test_force_lets_a_signature_through_and_nothing_else(start_server) -> None:
    server = await start_server()
    assert (await put(server, policy("1.0.0", v2_0_0=0.1), force=True)).epoch == 1
    async with control_of(server) as control:
        wanted = pb.SetTrafficRequest(model="m", policy=policy("1.1.0"), change=pb.TrafficChange(force=True))
        assert (await refused(control.SetTraffic(wanted)))[0] is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_version_of_the_policy_stays_in_memory(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", {"1.2.0": 0.1}, v1_1_0=0.1))
    async with control_of(server) as control:
        for version, role in (("1.0.0", "the baseline"), ("1.1.0", "a canary"), ("1.2.0", "a shadow")):
            code, message = await refused(
                control.UnloadVersion(control_pb2.UnloadVersionRequest(model="m", version=version))
            )
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert f"{version} of m is not unloaded: it is {role} in the policy in force (epoch 1)" in message
            assert "take it out of the policy first: `turnout traffic set m" in message
        await control.UnloadVersion(control_pb2.UnloadVersionRequest(model="m", version="1.3.0"))


async def test_a_policy_keeps_its_versions_loaded_whatever_load_says(start_server) -> None:
    first = await start_server()
    await put(first, policy("1.0.0", v1_1_0=0.5))
    frugal = await start_server(model={"m": {"load": "latest:1"}})
    answers = await ask(frugal, [""] * 100)
    assert {(a.version, a.role) for a in answers} == {("1.0.0", "baseline"), ("1.1.0", "canary")}
    states = {e.version_text: str(e.state) for e in frugal.services.catalog.snapshot.model("m").versions.values()}
    assert states == {"1.0.0": "ready", "1.1.0": "ready", "1.2.0": "new", "1.3.0": "ready", "2.0.0": "ready"}


async def test_a_canary_that_cannot_be_loaded_elsewhere_leaves_its_share_to_the_baseline(start_server, models) -> None:
    first = await start_server()
    await put(first, policy("1.0.0", v1_1_0=0.5))
    file = models / "m" / "1.1.0" / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b" ")
    second = await start_server()
    assert {(a.version, a.role) for a in await ask(second, [""] * 50)} == {("1.0.0", "baseline")}
    assert {a.version for a in await ask(first, [""] * 50)} == {"1.0.0", "1.1.0"}
    async with control_of(second) as control:
        shares = (await control.GetTraffic(pb.GetTrafficRequest(model="m"))).models[0].shares
    assert [(s.version, s.desired, s.applied) for s in shares] == [("1.0.0", 0.5, 1.0), ("1.1.0", 0.5, 0.0)]


async def test_servers_on_one_state_store_follow_each_other_within_a_second(start_server) -> None:
    first, second = await start_server(), await start_server()
    seconds = []
    while not seconds or seconds[-1] >= 1.0:
        assert len(seconds) < 5, "a machine that stood still does not do so each time"
        epoch, began = (await put(first, policy("1.0.0", v1_1_0=1.0))).epoch, time.monotonic()
        async with asyncio.timeout(60):
            while (await ask(second, [""]))[0].epoch != epoch:
                await asyncio.sleep(0.02)
        seconds.append(time.monotonic() - began)
    assert (await ask(second, [""]))[0].version == "1.1.0"
