"""`turnout yank` and `turnout unyank`."""

from typing import Annotated

from turnout.cli.options import ActorOption, TargetOptions, VersionArgument, flag, option
from turnout.cli.output import reporting
from turnout.errors import ChangeRefused, TurnoutError

_WhyOption = Annotated[str, option("--reason", "WHY", "Reason to record, and to show to clients that pin the version.")]


def yank(
    version: VersionArgument, reason: _WhyOption, actor: ActorOption = None, target: TargetOptions = TargetOptions()
) -> None:
    """Withdraw a version: ranges and the empty selector skip it, and its number is never used again.

    Pins to it are refused, or answered with a warning, depending on `routing.yanked_pins`. A version that the policy in
    force, a rollout or a tag needs cannot be yanked. Running servers follow within a second.
    """
    from turnout.cli.releases.answers_view import read_answers, show_change
    from turnout.cli.releases.event_view import was_text
    from turnout.cli.workspace import Workspace, actor_or_login, exact_reference
    from turnout.state.release_status import ReleaseStatus

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        who = actor_or_login(actor)
        before: str
        if target.server is not None:
            from turnout.cli.connection import CHANGE_SECONDS, Server
            from turnout.cli.messages import message_body
            from turnout_proto.v1 import control_pb2 as pb

            request = pb.YankVersionRequest(model=name, version=str(exact), actor=who, reason=reason)
            with Server.named(target).control() as control:
                response = control.YankVersion(request, timeout=CHANGE_SECONDS)
            changed, warnings = response.changed, list(response.warnings)
            before = message_body(response)["previous_standing"]
            answers = read_answers(response.answers)
        else:
            with Workspace.open(target).changes() as (release_writer, operations):
                before = release_writer.yank(name, exact, actor=who, reason=reason)
                answers = operations.answers(name)
                warning = release_writer.rollback_target(name).yank_warning(name, exact)
            changed, warnings = before != ReleaseStatus.YANKED, [warning] if warning else []
        default = answers.latest
        outcome = f"is yanked; it was {was_text(before)}" if changed else "was yanked before; nothing changed"
        left = f"{default} is the highest released version now" if default else "no released version is left"
        body = {
            "model": name,
            "version": str(exact),
            "changed": changed,
            "previous_standing": before,
            "default_version": None if default is None else str(default),
            "warnings": warnings,
        }
        show_change(
            out, body, answers, f"{name} {exact} {outcome}; {left}", *(f"warning: {warning}" for warning in warnings)
        )


def unyank(
    version: VersionArgument,
    reason: _WhyOption,
    i_know_why: Annotated[bool, flag("--i-know-why", "Required, because the version was yanked for a reason.")] = False,
    actor: ActorOption = None,
    target: TargetOptions = TargetOptions(),
) -> None:
    """Make a yanked version a candidate again. To give it general traffic again, release it."""
    from turnout.cli.releases.answers_view import read_answers, show_change
    from turnout.cli.workspace import Workspace, actor_or_login, exact_reference

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        who = actor_or_login(actor)
        try:
            if target.server is not None:
                from turnout.cli.connection import CHANGE_SECONDS, Server
                from turnout_proto.v1 import control_pb2 as pb

                request = pb.UnyankVersionRequest(
                    model=name, version=str(exact), actor=who, reason=reason, i_know_why=i_know_why
                )
                with Server.named(target).control() as control:
                    response = control.UnyankVersion(request, timeout=CHANGE_SECONDS)
                changed, answers = response.changed, read_answers(response.answers)
            else:
                with Workspace.open(target).changes() as (release_writer, operations):
                    changed = release_writer.unyank(name, exact, actor=who, reason=reason, i_know_why=i_know_why)
                    answers = operations.answers(name)
        except TurnoutError as error:
            why = next((one.description for one in error.violations if one.field == "i_know_why"), None)
            if why is None:
                raise
            raise ChangeRefused(f"{why}; to bring it back, use --i-know-why") from None
        outcome = "is a candidate again" if changed else "was not yanked; nothing changed"
        body = {"model": name, "version": str(exact), "changed": changed}
        show_change(out, body, answers, f"{name} {exact} {outcome}")
