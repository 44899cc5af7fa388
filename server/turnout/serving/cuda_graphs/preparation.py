"""Captures the sessions of a version while it loads, each in the thread that will launch its graphs."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from turnout.errors import TurnoutError
from turnout.registry.compatibility.agreement import differs, tolerance_of
from turnout.registry.manifest.manifest import Manifest
from turnout.serving.batching.active_plan import PlanInForce
from turnout.serving.batching.batch_check import rows_to_try
from turnout.serving.cuda_graphs.graph_runner import GraphRunner, GraphsFailed, Row
from turnout.serving.cuda_graphs.plan import GraphPlan, off, plan_graphs
from turnout.serving.sessions.io_binding import Allocate, BoundRunner
from turnout.serving.sessions.prepared_runner import PreparedRunner
from turnout.serving.sessions.session import MakeRunner, Run, Session

StartThread = Callable[[Callable[[], None]], None]


def prepare(
    sessions: Sequence[Session], manifest: Manifest, in_force: PlanInForce, allocate: Allocate, start: StartThread
) -> tuple[GraphPlan, Sequence[PreparedRunner]]:
    """Captures a version's graphs on each of its sessions, by a batch plan with a sample.

    Returns what was captured, and a runner for each session; or why nothing was, and no runners. In the latter case the
    sessions must not be used again: a failed capture may leave a stream in an unusable state.
    """
    plan = plan_graphs(manifest.signature, in_force.plan)
    runners: list[PreparedRunner] = []
    if not plan.buckets:
        return plan, runners
    names = manifest.signature.output_names
    tolerances = {spec.name: tolerance_of(manifest, spec) for spec in manifest.signature.outputs}

    @contextlib.contextmanager
    def capturing(plan: GraphPlan, rows: Sequence[Row], session: Session) -> Iterator[Run]:
        with GraphRunner(session, plan, names, allocate, lambda: in_force.plan.max_rows >= 2) as runner:
            runner.capture(rows, lambda name, got, expected: differs(got, expected, tolerances[name]))
            yield runner

    try:
        rows = _rows(sessions[0].run, in_force, names)
        one_row = (*rows[0].values(), *sessions[0].run(rows[0], names))
        plan = plan.within(sum(array.nbytes for array in one_row))
        if not plan.buckets:
            return plan, runners
        for session in sessions:
            plainly = functools.partial(BoundRunner, session, allocate)
            runners.append(PreparedRunner(start, functools.partial(capturing, plan, rows, session), plainly))
    except (GraphsFailed, TurnoutError, TimeoutError) as error:
        close(runners)
        return off(error.message if isinstance(error, TurnoutError) else str(error)), []
    except BaseException:
        close(runners)
        raise
    return plan, runners


def close(runners: Sequence[MakeRunner]) -> None:
    """Ends the prepared threads among a version's runners and waits until their resources are freed."""
    for runner in runners:
        if isinstance(runner, PreparedRunner):
            runner.close()


def _rows(run: Run, in_force: PlanInForce, outputs: Sequence[str]) -> Sequence[Row]:
    """Returns different one-row inputs that a version runs on, the sample first."""
    sample = in_force.plan.sample
    assert sample is not None, "nothing is captured without"
    axes: Mapping[str, int] = in_force.plan.input_axes or dict.fromkeys(sample, 0)
    rows = [sample]
    for row in rows_to_try(sample, axes, ())[1:]:
        with contextlib.suppress(TurnoutError):
            run(row, outputs)
            rows.append(row)
    return rows
