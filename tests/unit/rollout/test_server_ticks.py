"""What servers counted, put together: each tick once, in order, and none that came too late."""

import json
from dataclasses import replace

from turnout.rollout.engine.exchange.server_ticks import ServerTick, ShadowTick, gather
from turnout.rollout.evidence import Count, Evidence, Stratum, Tick, errors
from turnout.rollout.evidence.per_server import PerServer
from turnout.rollout.guards.circuit_breaker import Outcomes, SlotRecord


def part(number: int, server: str, bad: int = 0, requests: int = 10, seconds: float = 5.0) -> ServerTick:
    stratum = Stratum(server, {"errors": Count(requests, bad)}, {"errors": Count(10, 0)})
    slot = SlotRecord(server, 7, Outcomes(3, 1, 2), Outcomes(200, 0, 1), Outcomes(50, 0, 0))
    latency = {"canary": {"3": 2}, "baseline": {"10": 1}}
    shadow = ShadowTick(Count(requests, bad), "a run hangs" if bad else "", number)
    return ServerTick(number, seconds, 1, stratum, (slot,), latency, shadow, {"-112": 3})


def test_what_a_server_tells_comes_back_from_its_record() -> None:
    one = part(9, "ada", bad=2)
    assert ServerTick.from_json(9, "ada", json.loads(json.dumps(one.to_json()))) == one


def test_what_an_earlier_release_tells_has_no_copies_and_no_latencies() -> None:
    body = part(9, "ada", bad=2).to_json()
    del body["shadow"], body["recent"]
    one = ServerTick.from_json(9, "ada", body)
    assert (one.shadow, one.recent) == (ShadowTick(), {})


def test_ticks_of_several_servers_are_strata_of_one_and_each_is_taken_once() -> None:
    parts = [part(8, "bob"), part(7, "ada"), part(7, "bob", bad=1), part(6, "ada")]
    taken = gather(parts, {"ada": 6}, "ada", oldest=0)
    assert [[s.server for s in tick.strata] for tick in taken.ticks] == [["ada", "bob"], ["bob"]]
    assert [tick.seconds for tick in taken.ticks] == [5.0, 0.0], "time goes by for the driver alone"
    assert taken.latency[0] == {"canary": {"3": 4}, "baseline": {"10": 2}}
    assert taken.taken == {"ada": 7, "bob": 8}
    assert {one.server for one in taken.slots} == {"ada", "bob"}
    assert taken.copies == Count(30, 1)
    assert {name: one.number for name, one in taken.latest.items()} == taken.taken
    again = gather(parts, taken.taken, "ada", oldest=0)
    assert (again.ticks, again.taken, again.late, again.copies) == ([], {}, 0, Count())


def test_what_comes_too_late_is_left_out_counted_and_never_taken_after_all() -> None:
    taken = gather([part(3, "bob"), part(9, "bob"), part(2, "ada")], {}, "ada", oldest=5)
    assert [[s.server for s in tick.strata] for tick in taken.ticks] == [["ada"], ["bob"]]
    assert (taken.late, taken.taken, taken.copies) == (1, {"ada": 2, "bob": 9}, Count(20, 0))


def test_the_evidence_of_strata_is_that_of_their_product() -> None:
    """Three servers with the same traffic say what one with three such ticks says."""
    fresh = Evidence.start((errors(1.0),), 3600.0)
    strata = tuple(part(1, name, bad=3).stratum for name in ("ada", "bob", "eve"))
    together = fresh.taken(Tick(5.0, strata))
    apart = fresh.taken(Tick(5.0, strata[:1])).taken(Tick(0.0, strata[1:2])).taken(Tick(0.0, strata[2:]))
    assert abs(together.combined / apart.combined - 1) < 1e-9


def test_a_server_that_is_bad_alone_is_found_at_its_share_of_alpha() -> None:
    fresh = Evidence.start((errors(1.0),), 3600.0)
    known, whole = PerServer(), fresh
    names = ("ada", "bob", "eve")
    for number in range(40):
        strata = tuple(part(number, name, bad=4 if name == "eve" else 0, requests=10).stratum for name in names)
        good = Stratum("crowd", {"errors": Count(3000, 30)}, {"errors": Count(3000, 30)})
        tick = Tick(5.0, (*strata, good))
        known, whole = known.with_tick(tick, fresh), whole.taken(tick)
        if known.worse(0.005) is not None:
            break
    assert known.worse(0.005) == "eve"
    assert known.share == 0.5
    assert known.evidence["ada"].combined < 800
    text = json.dumps(known.to_json())
    assert PerServer.from_json(json.loads(text), fresh.metrics) == known


def test_one_server_alone_has_all_of_alpha() -> None:
    fresh = Evidence.start((errors(1.0),), 3600.0)
    known = replace(PerServer().with_tick(Tick(5.0, (part(1, "ada").stratum,)), fresh), taken={"ada": 1})
    assert (known.share, known.evidence, known.worse(0.5)) == (1.0, {}, None)
