"""What the server remembers of callers takes a bounded amount of memory, whoever they are and whatever they ask for."""

import tracemalloc

import pytest

from turnout.auth.caller import Caller, Decisions
from turnout.auth.identity import Identity
from turnout.auth.known_callers import KnownCallers
from turnout.auth.roles import AccessRole, AccessScope, patterns


def scope(role: str, *models: str) -> AccessScope:
    return AccessScope(frozenset({AccessRole(role)}), patterns(models), "here")


def test_decisions_of_all_callers_are_cached_within_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.auth.caller._MOST_DECISIONS", 2000)
    decisions = Decisions()
    for number in range(10):
        caller = Caller(Identity(f"jwt:corp/{number}"), [scope("read", "m*")], "jwt", decisions=decisions)
        for n in range(900):
            assert not caller.may(AccessRole.READ, f"x{n}")
            assert caller.may(AccessRole.READ, f"m{n}".ljust(5000)), "no model has such a name"
        assert len(decisions) <= 2000
        assert number or len(decisions) == 900
    assert max(len(name) for _, _, name in decisions) <= 128


def test_decisions_are_forgotten_with_the_policy() -> None:
    decisions = Decisions()
    caller = Caller(Identity("dns:a"), [scope("read", "m*")], "certificate", decisions=decisions)
    other = Caller(Identity("dns:b"), [scope("read", "*")], "certificate", decisions=decisions)
    assert caller.may(AccessRole.READ, "m1")
    assert other.may(AccessRole.READ, "x")
    assert not caller.may(AccessRole.READ, "x"), "a decision is one caller's"
    caller.change([], None)
    assert not caller.may(AccessRole.READ, "m1")


def test_known_callers_are_bounded_by_their_memory() -> None:
    tracemalloc.start()
    try:
        known = KnownCallers()
        for n in range(1500):
            groups = tuple(f"group:corp/\N{GRINNING FACE}{group}".ljust(200) for group in range(100))
            caller = Caller(Identity(f"jwt:corp/{n}", groups), [], "jwt of corp, key 1", decisions=Decisions())
            known.add(n.to_bytes(64, "big"), caller)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 80 << 20
    assert 500 < len(known) < 1500
    assert known.find((1499).to_bytes(64, "big")) is caller
    assert known.find((0).to_bytes(64, "big")) is None


def test_known_callers_that_ended_leave_their_room_to_others() -> None:
    known = KnownCallers()
    for turn in range(3):
        callers = [Caller(Identity(f"jwt:corp/{n}", ("x" * 10_000,)), [], "jwt") for n in range(3000)]
        for n, caller in enumerate(callers):
            known.add(f"{turn} {n}", caller)
        assert len(known) == 3000
        for caller in callers:
            caller.change([scope("read", "m")] * 100, None)  # what a caller takes changes with the policy
            caller.ended = "revoked"
        known.remove_ended()
        assert len(known) == 0
