"""The budget of unsent answers counts bytes for exactly as long as they exist."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.admission.unread import CountedBytes, UnsentBudget, counts_of
from turnout.errors import Exhausted

LIMIT = 1000

_STEPS = st.lists(
    st.tuples(st.sampled_from(["reserve", "hold", "copy", "free", "release"]), st.integers(0, 3), st.integers(1, 400)),
    max_size=60,
)


@given(steps=_STEPS)
def test_what_is_counted_is_what_exists(steps: list[tuple[str, int, int]]) -> None:
    budget, refused = UnsentBudget(LIMIT), 0
    kept: list[tuple[int, int, CountedBytes]] = []
    for step, connection, number in steps:
        sizes = {id(data.unsent): (owner, size) for owner, size, data in kept if size}
        held = sum(size for _, size in sizes.values())
        share = sum(size for owner, size in sizes.values() if owner == connection)
        assert budget.held == held
        assert budget.crowded(connection) == (2 * share > LIMIT - held)
        if step == "reserve" and share + number > LIMIT - held:
            refused += 1
            with pytest.raises(Exhausted, match=r"limits\.max_unsent_bytes") as raised:
                budget.reserve(connection, number)
            assert raised.value.retry_after == 1.0
        elif step in ("reserve", "hold"):
            unsent = getattr(budget, step)(connection, number)
            kept.append((connection, number, CountedBytes.of(b"x" * number, unsent)))
            del unsent
        elif kept:
            owner, size, data = kept[number % len(kept)]
            if step == "copy":  # a piece of an answer that is sent by itself
                kept.append((owner, size, CountedBytes.of(b"y", data.unsent)))
            elif step == "free":
                kept.pop(number % len(kept))
            else:
                for unsent in counts_of([data, b"not counted"]):
                    unsent.release()
                kept = [(o, 0 if d.unsent is data.unsent else s, d) for o, s, d in kept]
                del unsent
            del data
    kept.clear()
    assert (budget.held, budget.refused) == (0, refused)


def test_an_answer_that_never_fits_is_not_worth_a_retry() -> None:
    with pytest.raises(Exhausted) as raised:
        UnsentBudget(LIMIT).reserve("connection", LIMIT + 1)
    assert raised.value.retry_after is None


def test_clients_that_do_not_read_leave_room_for_others() -> None:
    budget, held = UnsentBudget(LIMIT), []
    for connection in range(9):
        try:
            while True:
                held.append(budget.reserve(connection, 1))
        except Exhausted:
            pass
    assert budget.held < LIMIT
    assert budget.reserve("another", 1)


def test_threads_count_together() -> None:
    budget = UnsentBudget(1 << 30)

    def work() -> None:
        for _ in range(2000):
            CountedBytes.of(b"x", budget.reserve(threading.get_ident(), 7))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.held == 0
