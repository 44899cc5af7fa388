"""Whatever comes, leaves and is taken in whatever order: no request is lost, taken twice, or taken out of its turn."""

from hypothesis import given
from hypothesis import strategies as st

from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.batching.request_queue import QueuedRequest, RequestQueue

DELAY = 10.0
MAX_ROWS = 4

LINES = st.sampled_from([None, ("a",), ("b",), ("c",)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), LINES, st.integers(1, 6), st.sampled_from([None, 6.0, 100.0])),
        st.tuples(st.just("remove"), st.integers(0, 20)),
        st.tuples(st.just("take"), st.booleans()),
        st.tuples(st.just("wait"), st.floats(0.1, 12.0)),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from([0.0, DELAY]), st.sampled_from([0, MAX_ROWS]), st.sampled_from([1, 2, 3]))
def test_every_request_is_taken_once_or_removed(steps, max_delay: float, max_rows: int, parallel: int) -> None:
    share = BatchPlan(max_rows, parallel=parallel).share
    queue: RequestQueue[QueuedRequest] = RequestQueue(max_delay)
    now, inside, came = 100.0, [], []
    for step in steps:
        if step[0] == "add":
            request = QueuedRequest({}, (), step[2], 8, step[1], None if step[3] is None else now + step[3], now)
            ready = queue.add(request, max_rows)
            inside.append(request)
            came.append(request)
            assert ready == _is_ready(request.line, inside, max_delay, max_rows, now)
        elif step[0] == "remove":
            if step[1] < len(came):
                queue.remove(came[step[1]])
                inside = [one for one in inside if one is not came[step[1]]]
        elif step[0] == "wait":
            now += step[1]
            for request in [one for one in inside if one.deadline is not None and one.deadline <= now]:
                queue.remove(request)  # as who waits for it does
                inside.remove(request)
        else:
            batch = queue.take(now, max_rows, share=share, hold=step[1])
            waits = {one.line for one in inside}
            ready = {line for line in waits if not step[1] or _is_ready(line, inside, max_delay, max_rows, now)}
            assert bool(batch) == bool(ready)  # a ready line is taken whatever else is held
            assert {one.line for one in batch} <= ready
            assert len(batch) <= 1 or (batch[0].line is not None and sum(one.rows for one in batch) <= max_rows)
            if batch and batch[0].line is not None:
                line = [one for one in inside if one.line == batch[0].line]
                limit = max_rows if max_delay else share(sum(one.rows for one in line))
                fits = [sum(one.rows for one in line[:n]) <= limit for n in range(1, len(line) + 1)]
                assert len(batch) == max(sum(fits), 1)  # all that fit into its share, or one that fits into none
                assert line[: len(batch)] == batch  # the first come of its line, in their order
            inside = [one for one in inside if one not in batch]
        assert (queue.requests, queue.nbytes) == (len(inside), 8 * len(inside))
        assert (queue.due(max_rows) is None) == (not inside)
    assert queue.clear() and not queue.requests if inside else queue.clear() == []


@given(st.lists(LINES, min_size=1, max_size=30))
def test_a_line_waits_for_no_more_runs_than_there_are_lines(lines) -> None:
    queue: RequestQueue[QueuedRequest] = RequestQueue(0.0)
    for line in lines:
        queue.add(QueuedRequest({}, (), MAX_ROWS, 0, line, None, 0.0), MAX_ROWS)
    named = {line for line in lines if line is not None}
    alone = sum(line is None for line in lines)
    first_taken = {queue.take(0.0, MAX_ROWS)[0].line for _ in range(min(len(named) + alone, len(lines)))}
    assert named <= first_taken


def test_one_whose_deadline_passed_is_never_taken() -> None:
    queue: RequestQueue[QueuedRequest] = RequestQueue(0.0)
    late = QueuedRequest({}, (), 1, 0, ("a",), 1.0, 0.0)
    good = QueuedRequest({}, (), 1, 0, ("b",), 3.0, 0.0)
    for request in (late, good):
        queue.add(request, MAX_ROWS)
    assert queue.take(2.0, MAX_ROWS) == [good]
    assert queue.take(2.0, MAX_ROWS) == []
    assert queue.requests == 0


def _is_ready(line, inside, max_delay: float, max_rows: int, now: float) -> bool:
    waits = [one for one in inside if one.line == line]
    full = sum(one.rows for one in waits) >= max_rows
    return not max_delay or line is None or full or any(_held_until(one, max_delay) <= now for one in waits)


def _held_until(request: QueuedRequest, max_delay: float) -> float:
    if request.deadline is None:
        return request.admitted + max_delay
    return min(request.admitted + max_delay, request.admitted + (request.deadline - request.admitted) / 2)
