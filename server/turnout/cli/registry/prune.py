"""`turnout prune`."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from turnout.cli.options import ActorOption, DiskTarget, argument, flag, option
from turnout.cli.output import NO_VERSION, reporting, table
from turnout.errors import ModelNotFound
from turnout.registry.manifest.names import check_model_name
from turnout.text.quantities import count_text, size_text

if TYPE_CHECKING:
    from turnout.releases.pruner import Removal


def prune(
    name: Annotated[str | None, argument("NAME", "One model. (default: all)")] = None,
    yes: Annotated[bool, flag("--yes", "Remove the versions. Without it, only the plan is shown.")] = False,
    keep_releases: Annotated[
        int | None,
        option(
            "--keep-releases", "N", "Latest releases to keep of each model. (default: retention.releases, 3)", min=1
        ),
    ] = None,
    newer_than: Annotated[
        int | None,
        option("--newer-than", "DAYS", "Keep versions up to this age. (default: retention.versions_days, 30)", min=0),
    ] = None,
    wait: Annotated[
        float, option("--wait", "SECONDS", "How long to wait for servers to unload each version.", min=0)
    ] = 30.0,
    actor: ActorOption = None,
    reason: Annotated[str, option("--reason", "WHY", "Reason to record with the change.")] = "pruned",
    target: DiskTarget = DiskTarget(),
) -> None:
    """Remove versions that nothing needs. First shows the plan: which versions go, which stay, and why.

    These stay: versions that answer plain requests; versions named by a policy, a rollout, a tag or `load`; versions
    that a rollback would return to; the latest releases; and recent versions. Running servers unload a version before
    its files are removed. The number of a pruned version is never used again. In an object store, files that belong to
    no version and are older than a day are removed too. Exits with 1 if a version could not be removed.
    """
    from turnout.cli.workspace import Workspace, actor_or_login
    from turnout.releases.adoption import adopt
    from turnout.releases.prune_plan import Keep
    from turnout.releases.pruner import Expired, Pruner, expire

    with reporting(as_json=target.as_json) as out:
        workspace = Workspace.open(target)
        known = workspace.scan().models
        if name is not None and check_model_name(name) not in known:
            with workspace.named():
                raise ModelNotFound.named(name, known)
        retention = workspace.settings.retention
        days = retention.versions_days if newer_than is None else newer_than
        keep = Keep(keep_releases or retention.releases, timedelta(days=days))
        who = actor_or_login(actor)
        removals: list[Removal] = []
        expired = Expired(0, 0)
        freed_unused = 0
        unused = workspace.repository.unused_files()
        with workspace.store() as store:
            if yes:
                workspace.repository.check_writable()
                adopt(workspace.repository, store, actor=who)
            pruner = Pruner(workspace.repository, store, workspace.settings)
            plans = {model: pruner.plan(model, keep, datetime.now(UTC)) for model in known if name in (None, model)}
            planned = [(model, one) for model, decisions in plans.items() for one in decisions]
            if yes:
                for model, decisions in plans.items():
                    removals += pruner.prune(model, decisions, keep, wait, actor=who, reason=reason)
                expired = expire(store, retention)
                unused = workspace.repository.unused_files()
                freed_unused = workspace.repository.remove_unused(unused) if unused.digests else 0
        going = [one for _, one in planned if one.goes]
        size = sum(one.size_bytes for one in going)
        freed = sum(one.freed_bytes for one in removals)
        refused = [one for one in removals if one.refused]
        body = {
            "plan": [
                {"model": model, "version": str(one.version), "goes": one.goes, "reasons": list(one.reasons),
                 "bytes": one.size_bytes}
                for model, one in planned
            ],
            "bytes": size,
            "done": yes,
            "freed_bytes": freed,
            "removed": [{"model": one.model, "version": str(one.version)} for one in removals if not one.refused],
            "refused": [{"model": r.model, "version": str(r.version), "reason": r.refused} for r in refused],
            "ticks_removed": expired.ticks,
            "events_removed": expired.events,
            "unused_bytes": unused.size_bytes,
            "freed_unused_bytes": freed_unused,
        }  # fmt: skip
        rows = [
            (f"{model} {p.version}", "goes" if p.goes else "stays", size_text(p.size_bytes), "; ".join(p.reasons))
            for model, p in planned
        ]
        view = table(("VERSION", "PLAN", "SIZE", "WHY"), rows, right=("SIZE",)) if rows else NO_VERSION
        if yes:
            lines = [f"{one.model} {one.version} is not removed: {one.refused}" for one in refused]
            lines.append(f"{len(removals) - len(refused)} removed, {size_text(freed)} freed")
            lines += [f"{expired.ticks} ticks of ended rollouts removed"] * bool(expired.ticks)
            lines += [f"{size_text(freed_unused)} of files that belong to no version removed"] * bool(freed_unused)
            lines += [f"{count_text(expired.events, 'event')} of policies and ended rollouts removed"] * bool(
                expired.events
            )
        elif going:
            lines = [f"{count_text(len(going), 'version')} would go, {size_text(size)}: run with --yes to remove"]
        else:
            lines = ["nothing would go"]
        if not yes and unused.digests:
            plural = "s" * (len(unused.digests) != 1)
            belong = f"file{plural} belong{'' if plural else 's'} to no version"
            lines.append(f"{len(unused.digests)} {belong}, {size_text(unused.size_bytes)}")
        out.show(body, view, *lines)
        if refused:
            raise typer.Exit(1)
