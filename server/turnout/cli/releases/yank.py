"""`turnout yank` and `turnout unyank`."""

from typing import Annotated

from turnout.cli.options import ActorOption, DiskTarget, VersionArgument, flag, option
from turnout.cli.output import reporting

_WhyOption = Annotated[str, option("--reason", "WHY", "Reason to record, and to show to clients that pin the version.")]


def yank(
    version: VersionArgument,
    reason: _WhyOption,
    actor: ActorOption = None,
    target: DiskTarget = DiskTarget(),
) -> None:
    """Withdraw a version: ranges and the empty selector skip it, and its number is never used again.

    Pins to it are refused, or answered with a warning, depending on `routing.yanked_pins`. A version that the policy in
    force, a rollout or a tag needs cannot be yanked. Running servers follow within a second.
    """
    from turnout.cli.releases.answers_view import show_change
    from turnout.cli.releases.event_view import was_text
    from turnout.cli.workspace import ModelVersions, Workspace, actor_or_login, exact_reference
    from turnout.releases.release import ReleaseStateWriter
    from turnout.rollout.changes.operations import Operations
    from turnout.state.release_status import ReleaseStatus

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        workspace = Workspace.open(target)
        workspace.require_repository()
        with workspace.store() as store:
            release_writer = ReleaseStateWriter(workspace.repository, store)
            before = release_writer.yank(name, exact, actor=actor_or_login(actor), reason=reason)
            answers = Operations(workspace.repository, store).answers(name)
            warning = release_writer.rollback_target(name).yank_warning(name, exact)
            default = ModelVersions.of(name, workspace.scan(), store.release_state()).default
        changed = before is not ReleaseStatus.YANKED
        outcome = f"is yanked; it was {was_text(before)}" if changed else "was yanked before; nothing changed"
        left = f"{default} is the highest released version now" if default else "no released version is left"
        body = {
            "model": name,
            "version": str(exact),
            "changed": changed,
            "previous_standing": before,
            "default_version": None if default is None else str(default),
            "warnings": [warning] if warning else [],
        }
        warnings = [f"warning: {warning}"] if warning else []
        show_change(out, body, answers, f"{name} {exact} {outcome}; {left}", *warnings)


def unyank(
    version: VersionArgument,
    reason: _WhyOption,
    i_know_why: Annotated[bool, flag("--i-know-why", "Required, because the version was yanked for a reason.")] = False,
    actor: ActorOption = None,
    target: DiskTarget = DiskTarget(),
) -> None:
    """Make a yanked version a candidate again. To give it general traffic again, release it."""
    from turnout.cli.releases.answers_view import show_change
    from turnout.cli.workspace import Workspace, actor_or_login, exact_reference
    from turnout.errors import ChangeRefused
    from turnout.releases.release import ReleaseStateWriter
    from turnout.rollout.changes.operations import Operations

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        workspace = Workspace.open(target)
        workspace.require_repository()
        with workspace.store() as store:
            if not i_know_why:
                why = store.release_state().of(name).reasons.get(exact)
                was = f" ({why})" if why else ""
                raise ChangeRefused(f"{name} {exact} was yanked for a reason{was}; to bring it back, use --i-know-why")
            release_writer = ReleaseStateWriter(workspace.repository, store)
            changed = release_writer.unyank(name, exact, actor=actor_or_login(actor), reason=reason)
            answers = Operations(workspace.repository, store).answers(name)
        outcome = "is a candidate again" if changed else "was not yanked; nothing changed"
        body = {"model": name, "version": str(exact), "changed": changed}
        show_change(out, body, answers, f"{name} {exact} {outcome}")
