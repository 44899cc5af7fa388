"""Shows which versions answer requests after a change. Used by every command that changes this."""

from typing import Any

from semver import Version

from turnout.cli.output import CommandOutput
from turnout.routing.default_answers import RoutingTable, SelectorAnswer, SelectorPart, answers_text
from turnout.routing.policy import UNITS
from turnout_proto.v1 import prediction_pb2
from turnout_proto.v1 import traffic_pb2 as pb


def read_answers(message: pb.Answers) -> RoutingTable:
    """Converts a server's message to a `RoutingTable`."""
    return RoutingTable(
        tuple(
            SelectorAnswer(
                one.selector,
                tuple(
                    SelectorPart(
                        Version.parse(part.version),
                        round(part.share * UNITS),
                        part.role == prediction_pb2.ROLE_CANARY,
                        part.rollout,
                    )
                    for part in one.parts
                ),
            )
            for one in message.selectors
        ),
        tuple(message.notes),
    )


def answers_body(answers: RoutingTable) -> dict[str, Any]:
    """Returns the versions that answer each selector, as JSON values."""
    return {
        "plain": _parts(answers.plain),
        "selectors": {one.selector: _parts(one.parts) for one in answers.selectors if one.selector},
        "notes": list(answers.notes),
    }


def show_change(out: CommandOutput, body: dict[str, Any], answers: RoutingTable, *sentences: str) -> None:
    """Prints what a command changed, and which versions answer from now on."""
    out.show(body | {"answers": answers_body(answers)}, *filter(None, sentences), *answers_lines(answers))


def answers_lines(answers: RoutingTable) -> list[str]:
    """Returns the versions that answer each selector, on one line; no line if an older server did not report them."""
    return [answers_text(answers)] if answers.selectors else []


def _parts(parts: tuple[SelectorPart, ...]) -> list[dict[str, Any]]:
    return [
        {
            "version": str(part.version),
            "share": part.weight / UNITS,
            "role": "canary" if part.canary else "baseline",
            "rollout": part.rollout or None,
        }
        for part in parts
    ]
