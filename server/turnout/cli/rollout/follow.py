"""Follows a rollout, even through restarts of its server, or reads all of its ticks."""

import time
from collections.abc import Callable, Iterator

from turnout.cli.connection import Server
from turnout.cli.output import ServerRefused
from turnout.web.report.replay import Replay
from turnout_proto.v1 import rollout_pb2 as pb
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub

FINAL = ("succeeded", "rolled_back", "superseded", "failed")
"""States in which a rollout has ended."""

AGAIN = ("Unavailable", "Cancelled", "Unknown", "DeadlineExceeded")
"""Errors of a server that is temporarily unavailable."""

_TICKS_TIMEOUT = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0
_EARLY_ENDS, _EARLY_PAUSE = 20, 0.1
"""How often, and after how many seconds, to ask again at the end of a rollout: a server may report the final state a
moment before it records the event."""


class TimedOut(Exception):
    """Raised when the timeout expires while the rollout is still running."""


def follow(
    server: Server, model: str, notify: Callable[[str], None], *, attempt: int = 0, timeout: float | None = None
) -> Iterator[pb.Rollout]:
    """Yields a rollout each time it changes. The last one is in a final state.

    Args:
        server: The server to ask.
        model: Name of the model.
        notify: Receives a sentence when the server stops answering, and when it answers again.
        attempt: Number of the attempt; 0 for the latest, including attempts that start later.
        timeout: Maximum time in seconds; None for no limit.

    Raises:
        ServerRefused: The rollout does not exist or cannot be read, or no server answers the first call.
        TimedOut: The timeout expired.
    """
    end = None if timeout is None else time.monotonic() + timeout
    seen, gone, pause, early = False, False, _FIRST_PAUSE, 0
    while True:
        try:
            for rollout in _rollouts(server, model, attempt, end):
                if gone:
                    notify(f"the server at {server.address} is back")
                seen, gone, pause = True, False, _FIRST_PAUSE
                if rollout.state == "unreadable":
                    raise ServerRefused("Unimplemented", rollout.verdict)
                yield rollout
                if rollout.state in FINAL:
                    early += 1
                    if early > _EARLY_ENDS or any(event.kind == rollout.state for event in rollout.events):
                        return
        except ServerRefused as error:
            if end is not None and time.monotonic() >= end:
                raise TimedOut from None
            if not seen or error.kind not in AGAIN:
                raise
        if early:
            time.sleep(_EARLY_PAUSE)
            continue
        # A server that shuts down ends the stream, with or without an error.
        if not gone:
            gone = True
            notify(f"the server at {server.address} does not answer; the rollout is unchanged; trying again")
        time.sleep(pause if end is None else min(pause, _left(end)))
        pause = min(pause * 2, _LONGEST_PAUSE)


def _rollouts(server: Server, model: str, attempt: int, end: float | None) -> Iterator[pb.Rollout]:
    """Yields the rollouts that one connection sends."""
    with server.control() as control:
        request = pb.WatchRolloutRequest(model=model, attempt=attempt)
        for message in control.WatchRollout(request, timeout=None if end is None else _left(end)):
            yield message.rollout


def _left(end: float) -> float:
    """Returns the seconds until `end`, at least 0.01: gRPC refuses a deadline that has passed."""
    return max(end - time.monotonic(), 0.01)


def read_replay(control: ControlServiceStub, model: str, attempt: int) -> Replay:
    """Reads a rollout and its ticks, and recomputes its evidence from them. Attempt 0 is the latest.

    Raises:
        InvalidRequest: This release cannot read the server's answer.
    """
    request = pb.GetRolloutTicksRequest(model=model, attempt=attempt)
    whole = control.GetRolloutTicks(request, timeout=_TICKS_TIMEOUT)
    while whole.more:
        # By number, not 0: a later attempt may have started meanwhile.
        request = pb.GetRolloutTicksRequest(model=model, attempt=whole.rollout.attempt, after=whole.last_tick)
        page = control.GetRolloutTicks(request, timeout=_TICKS_TIMEOUT)
        whole.rollout.CopyFrom(page.rollout)
        whole.ticks_json.extend(page.ticks_json)
        whole.times.extend(page.times)
        whole.last_tick, whole.more = page.last_tick, page.more
    return Replay.of(whole)
