"""Converts routing state to messages, and messages to policies."""

import math

from semver import Version

from turnout.errors import InvalidRequest
from turnout.registry.manifest.names import parse_version
from turnout.rollout.reporting.messages import timestamp
from turnout.routing.active_policies import AppliedPolicy
from turnout.routing.default_answers import RoutingTable
from turnout.routing.explain import RouteExplanation
from turnout.routing.policy import UNITS, Canary, Policy, PolicyState, Shadow
from turnout.routing.shadow.lane import Lane
from turnout.routing.shadow.ledger import Disagreement, OutputRecord
from turnout.routing.traffic_shares import shares
from turnout.rpc.codec import ROLES, route_message
from turnout.serving.data_plane.inference import ServingRole
from turnout.serving.versions.catalog import ModelEntry
from turnout.state.policies import PolicyRecord
from turnout_proto import tensors
from turnout_proto.v1 import traffic_pb2 as pb

_MAX_PARTS = 1000
"""Maximum number of canaries, and of shadows, in a policy."""


def read_policy(message: pb.Policy) -> Policy:
    """Converts a message to a policy. Raises InvalidRequest if the policy is invalid."""
    for field, parts in (("canaries", len(message.canaries)), ("shadows", len(message.shadows))):
        if parts > _MAX_PARTS:
            raise InvalidRequest.at(f"policy.{field}", f"expected at most {_MAX_PARTS}")
    return Policy(
        parse_version(message.baseline),
        tuple(
            Canary(parse_version(c.version), read_share(c.weight, f"policy.canaries[{index}].weight"))
            for index, c in enumerate(message.canaries)
        ),
        tuple(
            Shadow(parse_version(s.version), read_share(s.rate, f"policy.shadows[{index}].rate"))
            for index, s in enumerate(message.shadows)
        ),
        read_share(message.twin, "policy.twin"),
    )


def read_share(share: float, field: str) -> int:
    """Converts a weight or rate to units of 0.0001.

    Raises:
        InvalidRequest: The value is not a multiple of 0.0001 between 0 and 1.
    """
    units = round(share * UNITS) if 0 <= share <= 1 else -1  # 1e306 would overflow to infinity
    if units < 0 or not math.isclose(units / UNITS, share, abs_tol=1e-9):
        raise InvalidRequest.at(field, f"expected a share of 0 to 1 in steps of {1 / UNITS}, got {share:g}")
    return units


def answers_message(answers: RoutingTable) -> pb.Answers:
    """Converts a routing table to a message."""
    return pb.Answers(
        selectors=[
            pb.SelectorAnswer(
                selector=one.selector,
                parts=[
                    pb.AnswerPart(
                        version=str(part.version),
                        share=part.weight / UNITS,
                        role=ROLES[ServingRole.CANARY if part.canary else ServingRole.BASELINE],
                        rollout=part.rollout,
                    )
                    for part in one.parts
                ],
            )
            for one in answers.selectors
        ],
        notes=answers.notes,
    )


def state_message(
    known: ModelEntry, applied: AppliedPolicy | None, answers: RoutingTable, diverted: Version | None = None
) -> pb.TrafficState:
    """Returns the traffic state of a model.

    `diverted` is the version that receives all traffic after an unrecorded rollback; None if the policy applies.
    """
    if applied is None:
        return pb.TrafficState(model=known.name, answers=answers_message(answers), diverted=str(diverted or ""))
    policy = applied.state.policy
    return pb.TrafficState(
        model=known.name,
        epoch=applied.epoch,
        policy=_policy_message(policy),
        frozen=applied.state.frozen,
        shares=[
            pb.TrafficShare(
                version=share.version,
                role=ROLES[share.role],
                desired=share.desired,
                applied=share.applied,
                decisions=share.decisions,
                deviation=share.deviation,
            )
            for share in ([] if policy is None else shares(known, applied, policy, diverted))
        ],
        changed_at=timestamp(applied.changed_at),
        actor=applied.actor,
        reason=applied.reason,
        action=applied.action,
        answers=answers_message(answers),
        diverted=str(diverted or ""),
    )


def epoch_message(record: PolicyRecord, state: PolicyState) -> pb.TrafficState:
    """Returns the traffic state recorded for an epoch."""
    return pb.TrafficState(
        model=record.model,
        epoch=record.epoch,
        policy=_policy_message(state.policy),
        frozen=state.frozen,
        changed_at=timestamp(record.time),
        actor=record.actor,
        reason=record.reason,
        action=record.action,
    )


def explanation_message(explanation: RouteExplanation) -> pb.ExplainRouteResponse:
    """Converts an explanation of how a request would be routed to a message."""
    return pb.ExplainRouteResponse(
        steps=[pb.RouteStep(subject=step.subject, finding=step.finding) for step in explanation.steps],
        chances=[
            pb.RouteChance(route=route_message(route), chance=chance)
            for route, chance in sorted(explanation.chances.items(), key=lambda item: -item[1])
        ],
        refusal="" if explanation.refusal is None else explanation.refusal.message,
        slot=explanation.slot,
    )


def shadow_message(lane: Lane, worst: int) -> pb.ShadowReport:
    """Returns the report of a shadow, with at most `worst` disagreements."""
    ledger = lane.ledger
    return pb.ShadowReport(
        version=lane.pair.shadow,
        baseline=lane.pair.baseline,
        state=lane.closed or "open",
        outcomes=dict(ledger.outcomes),
        dropped=dict(ledger.dropped),
        agreement=ledger.agreement,
        noise_runs=ledger.noise.runs,
        noise_disagreements=ledger.noise.disagreements,
        outputs=[_output_message(name, record) for name, record in sorted(ledger.outputs.items())],
        worst=[_disagreement_message(disagreement) for disagreement in ledger.worst[:worst]],
    )


def _output_message(name: str, record: OutputRecord) -> pb.ShadowOutput:
    ranked = record.ranked
    return pb.ShadowOutput(
        name=name,
        compared=record.compared,
        mismatches=dict(record.mismatches),
        max_abs=record.max_abs,
        mean_abs=record.sum_abs / record.measured if record.measured else 0.0,
        top1=record.sum_top1 / ranked if ranked else None,
        top_k=record.sum_top_k / ranked if ranked else None,
        measured=record.measured,
        ranked=ranked,
    )


def _disagreement_message(disagreement: Disagreement) -> pb.Disagreement:
    worst = disagreement.comparison.worst
    assert worst is not None, "what disagrees does so in some output"
    message = pb.Disagreement(
        request_id=disagreement.request_id,
        time=timestamp(disagreement.time),
        output=worst.name,
        kind=str(worst.kind),
        detail=worst.detail,
        max_abs=worst.max_abs,
        max_rel=worst.max_rel,
        rmse=worst.rmse,
        cosine=worst.cosine,
        margin=worst.margin,
        severity=disagreement.comparison.severity,
    )
    for name, array in disagreement.inputs.items():
        tensors.append(message.inputs, name, array)
    return message


def _policy_message(policy: Policy | None) -> pb.Policy | None:
    if policy is None:
        return None
    return pb.Policy(
        baseline=str(policy.baseline),
        canaries=[pb.Canary(version=str(c.version), weight=c.weight / UNITS) for c in policy.canaries],
        shadows=[pb.Shadow(version=str(s.version), rate=s.rate / UNITS) for s in policy.shadows],
        twin=policy.twin / UNITS,
    )
