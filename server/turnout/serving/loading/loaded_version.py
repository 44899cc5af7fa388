"""A version in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

from turnout.serving.batching.active_plan import PlanInForce
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.batching.warmup import WarmUp
from turnout.serving.cuda_graphs import preparation
from turnout.serving.cuda_graphs.plan import NO_GRAPHS, GraphPlan
from turnout.serving.inputs.dimensions import InputDimension
from turnout.serving.isolation.hazards import IN_THIS_PROCESS, Isolation
from turnout.serving.isolation.pool import ChildPool
from turnout.serving.sessions.session import MakeRunner, Run, Session
from turnout.serving.tensorrt.precision import FULL, Precision
from turnout.serving.tensorrt.shapes import NO_PROFILE, ShapeProfile


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version in memory, warmed up.

    Attributes:
        sessions: One session for each device; empty if the version is isolated.
        runners: Factories of a `Run` for each runner thread.
        run: Runs on the calling thread; only on the CPU.
        in_force: How requests are batched, also after a run has contradicted the proof.
        inline_bytes: Maximum size of inputs with which a request runs in less than the configured threshold, and so on
            the event loop itself; 0 if there is none.
        memory_bytes: Bytes that loading took, by device.
        pool: Child processes of the version; None if it is not isolated.
        isolation: Where the version runs, and why.
        graphs: Which runs are captured as CUDA graphs, or why none are.
        tensorrt: Whether the version runs on TensorRT, at which precision, and why; "" if TensorRT was not requested.
        shapes: Shapes for which TensorRT has built engines.
        in_step: Groups of dimensions of inputs that must be 0 together or not at all.
        never_empty: Dimensions of inputs, by name and axis, that must not be 0.
    """

    sessions: Sequence[Session]
    runners: Sequence[MakeRunner]
    run: Run
    in_force: PlanInForce
    warmth: WarmUp
    inline_bytes: int
    memory_bytes: dict[str, int]
    seconds: float
    pool: ChildPool | None = None
    isolation: Isolation = IN_THIS_PROCESS
    graphs: GraphPlan = NO_GRAPHS
    precision: Precision = FULL
    tensorrt: str = ""
    shapes: ShapeProfile = NO_PROFILE
    in_step: Sequence[Sequence[InputDimension]] = ()
    never_empty: frozenset[InputDimension] = frozenset()

    @property
    def plan(self) -> BatchPlan:
        """How requests are batched now."""
        return self.in_force.plan

    def discard(self) -> None:
        """Frees the resources of a version that was never put into service."""
        if self.pool is not None:
            self.pool.close()
        preparation.close(self.runners)
        for session in self.sessions:
            session.close()

    def free(self) -> None:
        """Frees captured graphs and closes their sessions, after all runs have ended; waits for threads."""
        preparation.close(self.runners)
        for session in self.sessions:
            if session.captures:
                session.close()

    @property
    def engine(self) -> "Session | ChildPool":
        """Session or pool for the first device, which has the providers and the device."""
        return self.sessions[0] if self.pool is None else self.pool

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers that the sessions run on."""
        return self.engine.providers
