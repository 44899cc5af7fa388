"""What several workers tell of traffic and shadows is what one server would tell that had all of the requests."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.routing.shadow.compare import AnswerComparison, MismatchKind, OutputComparison
from turnout.routing.shadow.ledger import Disagreement, Ledger
from turnout.rpc.control.messages import shadow_message
from turnout.rpc.control.pooled import pooled_activity, pooled_shadows, pooled_traffic
from turnout.telemetry.metrics.shadow import ShadowRecorder
from turnout_proto.v1 import activity_pb2, traffic_pb2
from turnout_proto.v1.catalog_pb2 import VersionState
from turnout_proto.v1.prediction_pb2 import Role

distances = st.floats(0, 100)


@st.composite
def comparisons(draw: st.DrawFn) -> AnswerComparison:
    kind = draw(st.sampled_from([None, MismatchKind.VALUE, MismatchKind.TOP1]))
    share = draw(st.sampled_from([None, 0.5, 1.0]))
    severity = 0.0 if kind is None else draw(st.floats(1, 3))
    output = OutputComparison(
        "y", kind, "", 4, draw(distances), 0.0, 0.0, 1.0, 0, top1=share, top_k=share, severity=severity
    )
    return AnswerComparison((output,))


class Lane(SimpleNamespace):
    """As far as a report goes, a lane."""

    def __init__(self, copies) -> None:
        ledger = Ledger(ShadowRecorder("m", "2.0.0"), 3)
        super().__init__(ledger=ledger, pair=SimpleNamespace(shadow="2.0.0", baseline="1.0.0"), closed="")
        for comparison, again in copies:
            if ledger.compare(comparison, 1, 0.01):
                ledger.keep(Disagreement("id", datetime(2026, 1, 1, tzinfo=UTC), comparison, {}))
            if again is not None:
                ledger.repeat(again)


@given(st.lists(st.lists(st.tuples(comparisons(), st.none() | comparisons()), max_size=8), min_size=1, max_size=3))
def test_the_report_of_all_is_the_report_of_one_that_compared_everything(parts) -> None:
    first, *others = ([shadow_message(Lane(part), 3)] for part in parts)
    (pooled,) = pooled_shadows(first, [report for one in others for report in one], 3)
    whole = shadow_message(Lane([copy for part in parts for copy in part]), 3)
    assert [one.severity for one in pooled.worst] == [one.severity for one in whole.worst]
    for output, expected in zip(pooled.outputs, whole.outputs, strict=True):
        for field in ("mean_abs", "top1", "top_k"):
            assert getattr(output, field) == pytest.approx(getattr(expected, field))
            assert output.HasField(field) == expected.HasField(field) if field != "mean_abs" else True
    if whole.HasField("agreement"):
        assert pooled.agreement == pytest.approx(whole.agreement)
    for report in (pooled, whole):
        report.ClearField("worst")
        report.ClearField("agreement")
        for output in report.outputs:
            for field in ("mean_abs", "top1", "top_k"):
                output.ClearField(field)
    assert pooled == whole


def state(epoch: int, baseline: int, canary: int) -> traffic_pb2.TrafficState:
    shares = [
        traffic_pb2.TrafficShare(version="1.0.0", role=Role.ROLE_BASELINE, applied=0.75, decisions=baseline),
        traffic_pb2.TrafficShare(version="2.0.0", role=Role.ROLE_CANARY, applied=0.25, decisions=canary),
        traffic_pb2.TrafficShare(version="3.0.0", role=Role.ROLE_SHADOW, applied=0.5),
    ]
    return traffic_pb2.TrafficState(model="m", epoch=epoch, shares=shares)


def test_decisions_of_one_epoch_are_summed_and_held_against_their_weights() -> None:
    own = state(4, 80, 20)
    pooled_traffic(own, [state(4, 60, 40), state(3, 1000, 0)])  # the last has not followed yet
    assert [share.decisions for share in own.shares] == [140, 60, 0]
    assert [share.deviation for share in own.shares] == pytest.approx([-10 / 37.5**0.5, 10 / 37.5**0.5, 0])


def activity(process: str, requests: int, state: int) -> activity_pb2.GetActivityResponse:
    role = activity_pb2.RoleActivity(role="baseline", requests=requests, failures=1, latency=[requests, 0], weight=1.0)
    version = activity_pb2.VersionActivity(
        model="m", version="1.0.0", state=state, inflight=2, queue_depth=3, queue_fill=requests / 100, roles=[role]
    )
    return activity_pb2.GetActivityResponse(process=process, seconds=requests, unrouted=5, versions=[version])


def test_activity_is_summed_and_a_version_is_as_far_as_the_last_worker_has_it() -> None:
    pooled = pooled_activity(
        activity("a", 10, VersionState.VERSION_STATE_READY), [activity("b", 30, VersionState.VERSION_STATE_LOADING)]
    )
    (version,) = pooled.versions
    assert (pooled.unrouted, pooled.seconds, pooled.process) == (10, 10, "a+b")
    assert (version.state, version.inflight, version.queue_depth) == (VersionState.VERSION_STATE_LOADING, 4, 6)
    assert version.queue_fill == 0.3
    (role,) = version.roles
    assert (role.requests, role.failures, list(role.latency), role.weight) == (40, 2, [40, 0], 1.0)
