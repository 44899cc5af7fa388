"""Shows traffic as tables, sentences and JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from turnout.cli.messages import message_body
from turnout.cli.output import table
from turnout.cli.releases.answers_view import answers_body, answers_lines, read_answers
from turnout.cli.traffic.policy_text import policy_text
from turnout.text.shares import share_text
from turnout_proto.v1 import prediction_pb2
from turnout_proto.v1 import traffic_pb2 as pb

_STRANGE = 4.0
"""Standard deviations from which a split is reported as wrong. By chance, one check in about 16,000 shows that."""


def _policy(policy: pb.Policy) -> str:
    canaries = [(canary.version, canary.weight) for canary in policy.canaries]
    return policy_text(
        policy.baseline, canaries, [(shadow.version, shadow.rate) for shadow in policy.shadows], policy.twin
    )


def sentence(state: pb.TrafficState) -> str:
    """Returns the policy in force in one sentence."""
    policy = _policy(state.policy) if state.HasField("policy") else "no policy, the highest release answers"
    return f"{state.model} is at epoch {state.epoch}: {policy}{'; frozen' if state.frozen else ''}"


def change_lines(state: pb.TrafficState) -> list[str]:
    """Returns the policy in force after a change, and the versions that answer from now on."""
    return [sentence(state), *answers_lines(read_answers(state.answers))]


def state_lines(state: pb.TrafficState) -> Iterator[RenderableType]:
    """Yields the lines and tables that show a model's traffic and the versions that answer."""
    none = "no policy: the highest released version answers"
    if not state.epoch:
        yield Text.assemble((state.model, "bold"), f"  {none}")
    else:
        frozen = "  frozen: only changes that take traffic back are accepted" if state.frozen else ""
        yield Text.assemble((state.model, "bold"), f"  epoch {state.epoch}, {_origin(state)}", (frozen, "bold yellow"))
        if not state.HasField("policy"):
            yield none
    if state.diverted:
        message = (
            f"{state.diverted} answers everything: a rollback is in force, and the state store has not recorded it yet"
        )
        yield Text(message, style="bold yellow")
    if state.HasField("policy"):
        yield from _shares(state)
    yield from answers_lines(read_answers(state.answers))


def _shares(state: pb.TrafficState) -> Iterator[RenderableType]:
    decided = sum(share.decisions for share in state.shares)
    # Requests are counted only if several versions answer.
    split = sum(share.role != prediction_pb2.ROLE_SHADOW for share in state.shares) > 1
    rows = []
    for share in state.shares:
        shadow = share.role == prediction_pb2.ROLE_SHADOW
        role = prediction_pb2.Role.Name(share.role).removeprefix("ROLE_").lower()
        seen = "" if shadow or not decided else share_text(share.decisions / decided)
        requests = f"{share.decisions:,}" if split and not shadow else ""
        applied = share_text(round(share.applied, 4))
        rows.append((share.version, role, share_text(share.desired), applied, seen, requests))
    columns = ("VERSION", "ROLE", "DESIRED", "APPLIED", "SEEN", "REQUESTS")
    yield table(columns, rows, right=("DESIRED", "APPLIED", "SEEN", "REQUESTS"))
    strange = [
        f"{share.version} is {share.deviation:+.1f} standard deviations off its share"
        for share in state.shares
        if abs(share.deviation) > _STRANGE
    ]
    if strange:
        why = "either a few routing keys send most of the requests, or the split is wrong"
        yield Text(f"sample ratio mismatch: {', '.join(strange)}; {why}", "bold yellow")


def history_rows(epochs: Sequence[pb.TrafficState]) -> Iterator[Sequence[str]]:
    """Yields a row for each epoch."""
    for state in epochs:
        policy = _policy(state.policy) if state.HasField("policy") else "none"
        when = state.changed_at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
        frozen = "; frozen" if state.frozen else ""
        yield str(state.epoch), when, state.action, policy + frozen, state.actor, state.reason


def explanation_rows(explained: pb.ExplainRouteResponse) -> Iterator[Sequence[RenderableType]]:
    """Yields a row for each step."""
    for number, step in enumerate(explained.steps, start=1):
        style = "" if step.subject != "answer" else ("bold red" if explained.refusal else "bold green")
        yield f"{number}.", Text(step.subject, "bold"), Text(step.finding, style)


def state_body(state: pb.TrafficState) -> dict[str, Any]:
    """Returns the JSON form of a traffic state."""
    body = message_body(state, without=("answers", "diverted"))
    return body | ({"answers": answers_body(read_answers(state.answers))} if state.HasField("answers") else {})


def explanation_body(explained: pb.ExplainRouteResponse) -> dict[str, Any]:
    """Returns the JSON form of an explanation."""
    body = message_body(explained, null=("refusal",), without=("warning",))
    return body | {"chances": [{**one.pop("route"), **one} for one in body["chances"]]}


def _origin(state: pb.TrafficState) -> str:
    when = state.changed_at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S UTC")
    why = f": {state.reason}" if state.reason else ""
    return f"{state.action} by {state.actor or 'an unnamed caller'} at {when}{why}"
