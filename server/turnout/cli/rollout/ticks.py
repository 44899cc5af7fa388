"""Reads a rollout and all of its ticks from a server, page by page."""

from turnout.web.report.replay import Replay
from turnout_proto.v1 import rollout_pb2 as pb
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub

_TIMEOUT = 30.0


def read_replay(control: ControlServiceStub, model: str, attempt: int) -> Replay:
    """Reads a rollout and its ticks, and recomputes its evidence from them. Attempt 0 is the latest.

    Raises:
        InvalidRequest: This release cannot read the server's answer.
    """
    request = pb.GetRolloutTicksRequest(model=model, attempt=attempt)
    whole = control.GetRolloutTicks(request, timeout=_TIMEOUT)
    while whole.more:
        # By number, not 0: a later attempt may have started meanwhile.
        request = pb.GetRolloutTicksRequest(model=model, attempt=whole.rollout.attempt, after=whole.last_tick)
        page = control.GetRolloutTicks(request, timeout=_TIMEOUT)
        whole.rollout.CopyFrom(page.rollout)
        whole.ticks_json.extend(page.ticks_json)
        whole.times.extend(page.times)
        whole.last_tick, whole.more = page.last_tick, page.more
    return Replay.of(whole)
