"""Keys stay with their version, whatever weights come and go (docs/decisions/0009-*.md), on a real server."""

import math

import pytest

from onnx_models import scaled
from routing_wire import ask, policy, put

KEYS = [f"user-{n}" for n in range(2000)]


@pytest.fixture(autouse=True)
def versions(publish_model) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "1.1.0", scaled(2), release=False)
    publish_model("m", "1.2.0", scaled(3), release=False)


async def owners(server) -> dict[str, str]:
    """Who answers each key."""
    return dict(zip(KEYS, [answer.version for answer in await ask(server, KEYS)], strict=True))


def of(owned: dict[str, str], version: str) -> set[str]:
    return {key for key, owner in owned.items() if owner == version}


async def test_twenty_thousand_keyed_requests_are_split_by_weight_and_no_key_meets_two_versions(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=0.05))
    met: dict[str, set[str]] = {key: set() for key in KEYS}
    for _ in range(10):
        for key, answer in zip(KEYS, await ask(server, KEYS), strict=True):
            met[key].add(answer.version)
            assert answer.factor == {"1.0.0": 1, "1.1.0": 2}[answer.version]
    assert all(len(versions) == 1 for versions in met.values())
    share = sum(versions == {"1.1.0"} for versions in met.values()) / len(KEYS)
    assert abs(share - 0.05) <= 6 * math.sqrt(0.05 * 0.95 / len(KEYS))


async def test_ramping_up_keeps_every_key_and_ramping_down_gives_exactly_the_first_set_back(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=0.05))
    first = of(await owners(server), "1.1.0")
    await put(server, policy("1.0.0", v1_1_0=0.25))
    grown = of(await owners(server), "1.1.0")
    assert first < grown
    assert abs(len(grown) / len(KEYS) - 0.25) <= 6 * math.sqrt(0.25 * 0.75 / len(KEYS))
    await put(server, policy("1.0.0", v1_1_0=0.05))
    assert of(await owners(server), "1.1.0") == first


async def test_a_second_canary_takes_no_key_of_the_first(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=0.1))
    first = of(await owners(server), "1.1.0")
    for weight in (0.05, 0.3, 0.9, 0.1):
        await put(server, policy("1.0.0", v1_1_0=0.1, v1_2_0=weight))
        owned = await owners(server)
        assert of(owned, "1.1.0") == first
        assert abs(len(of(owned, "1.2.0")) / len(KEYS) - weight) <= 6 * math.sqrt(weight * (1 - weight) / len(KEYS))


async def test_reverting_restores_the_very_same_keys(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=0.25))
    first = await owners(server)
    await put(server, policy("1.0.0"))
    await put(server, policy("1.0.0", v1_2_0=0.25))
    assert of(await owners(server), "1.2.0") != of(first, "1.1.0")  # another trial draws other keys
    from routing_wire import control_of
    from turnout_proto.v1 import traffic_pb2 as pb

    async with control_of(server) as control:
        state = (await control.RevertTraffic(pb.RevertTrafficRequest(model="m", epoch=1))).state
    assert state.epoch == 4
    assert await owners(server) == first


async def test_without_keys_one_per_cent_of_a_thousand_requests_is_ten(start_server) -> None:
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=0.01))
    for _ in range(4):
        canary = sum(answer.role == "canary" for answer in await ask(server, [""] * 1000))
        assert abs(canary - 10) <= 2


async def test_a_restart_and_a_second_server_answer_each_key_the_same(start_server) -> None:
    server = await start_server()
    state = await put(server, policy("1.0.0", v1_1_0=0.2, v1_2_0=0.1))
    first = await owners(server)
    other = await start_server()
    assert (await ask(other, ["a"]))[0].epoch == state.epoch
    assert await owners(other) == first


async def test_a_header_carries_the_key_of_what_has_none(start_server) -> None:
    server = await start_server(routing={"key_header": "x-user"})
    await put(server, policy("1.0.0", v1_1_0=0.5))
    owned = await owners(server)
    for key in KEYS[:20]:
        header = (("x-user", key), ("x-routing-key", "somebody else"))
        (answer,) = await ask(server, [""], metadata=header)
        assert answer.version == owned[key]
        (own,) = await ask(server, [KEYS[30]], metadata=header)
        assert own.version == owned[KEYS[30]]
