"""Which selectors a policy decides on, on a real server."""

import grpc
import pytest

from onnx_models import scaled
from routing_wire import ask, policy, put

pytestmark = pytest.mark.both_transports

KEYS = [f"user-{n}" for n in range(300)]


@pytest.fixture(autouse=True)
def digests(publish_model) -> dict[str, str]:
    return {
        "2.9.0": publish_model("m", "2.9.0", scaled(2)),
        "3.2.0": publish_model("m", "3.2.0", scaled(3)),
        "3.3.0": publish_model("m", "3.3.0", scaled(4), release=False),
        "3.4.0": publish_model("m", "3.4.0", scaled(5), release=False),
        "4.0.0": publish_model("m", "4.0.0", scaled(6)),
    }


async def who(server, selector: str) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for answer in await ask(server, KEYS, selector):
        counts[answer.version, answer.role] = counts.get((answer.version, answer.role), 0) + 1
    return counts


async def test_a_pin_a_digest_and_a_tag_are_never_touched_by_a_policy(start_server, digests, models) -> None:
    from semver import Version

    from turnout.config import Settings
    from turnout.state.store import StateStore

    with StateStore.open(Settings(models=models).state_url) as store:
        store.set_tag("m", "stable", Version(2, 9), actor="", reason="")
    server = await start_server()
    await put(server, policy("3.2.0", v3_3_0=1.0))
    for selector, version in (
        ("2.9.0", "2.9.0"), ("v3.2.0", "3.2.0"), ("3.4.0", "3.4.0"), (digests["3.4.0"], "3.4.0"), ("stable", "2.9.0"),
        ("latest", "4.0.0"), ("^2", "2.9.0"), ("^4", "4.0.0"),
    ):  # fmt: skip
        assert await who(server, selector) == {(version, "pinned"): len(KEYS)}, selector


async def test_a_range_meets_the_canary_only_while_the_canary_satisfies_it(start_server) -> None:
    server = await start_server()
    await put(server, policy("3.2.0", v3_3_0=0.5, v4_0_0=0.3))
    everyone = await who(server, "")
    assert everyone.keys() == {("3.2.0", "baseline"), ("3.3.0", "canary"), ("4.0.0", "canary")}
    within = await who(server, "^3")
    assert within == {
        ("3.2.0", "baseline"): everyone["3.2.0", "baseline"] + everyone["4.0.0", "canary"],
        ("3.3.0", "canary"): everyone["3.3.0", "canary"],
    }
    assert await who(server, "~3.2") == {("3.2.0", "baseline"): len(KEYS)}
    assert await who(server, ">=3.2") == everyone


async def test_a_candidate_that_is_no_canary_is_never_reached_by_range_latest_or_nothing(start_server) -> None:
    server = await start_server()
    for wanted in (None, policy("3.2.0"), policy("3.2.0", v3_3_0=0.5)):
        if wanted is not None:
            await put(server, wanted)
        for selector in ("", "^3", "*", "latest", ">=3.3 <4"):
            try:
                counts = await who(server, selector)
            except AssertionError as error:  # what is refused is not reached either
                assert "no released version" in str(error)  # noqa: PT017 - the stream's own status is the assertion
                assert selector == ">=3.3 <4"
                continue
            assert "3.4.0" not in {version for version, _ in counts}, selector


async def test_without_a_policy_the_highest_release_answers_and_with_one_the_baseline(start_server) -> None:
    server = await start_server()
    assert await who(server, "") == {("4.0.0", "baseline"): len(KEYS)}
    await put(server, policy("3.2.0"))
    assert await who(server, "") == await who(server, "^3") == {("3.2.0", "baseline"): len(KEYS)}
    from routing_wire import control_of
    from turnout_proto.v1 import traffic_pb2 as pb

    async with control_of(server) as control:
        await control.ClearTraffic(pb.ClearTrafficRequest(model="m"))
        assert (await control.GetTraffic(pb.GetTrafficRequest(model="m"))).models[0].epoch == 2
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control.RampTraffic(pb.RampTrafficRequest(model="m", canary=pb.Canary(version="3.3.0", weight=0.1)))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert await who(server, "") == {("4.0.0", "baseline"): len(KEYS)}


async def test_who_asks_for_the_baseline_meets_no_canary(start_server) -> None:
    server = await start_server()
    await put(server, policy("3.2.0", v3_3_0=1.0))
    answers = await ask(server, KEYS, metadata=(("x-turnout-role", "baseline"),))
    assert {(a.version, a.role) for a in answers} == {("3.2.0", "baseline")}
