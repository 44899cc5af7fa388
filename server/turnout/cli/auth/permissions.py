"""`turnout auth`: what a caller may do, and why."""

from typing import TYPE_CHECKING, Annotated

import typer

from turnout.auth.identity import KINDS, Identity
from turnout.auth.policy.policy import AccessDecision, AccessPolicy, decide
from turnout.auth.roles import AccessRole, AccessScope
from turnout.cli.options import ConfigOption, DiskTarget, JsonOption, argument, option
from turnout.cli.output import facts, reporting
from turnout.errors import ConfigError, InvalidRequest
from turnout.text.quantities import count_text

if TYPE_CHECKING:
    from turnout.cli.workspace import Workspace

application = typer.Typer()


@application.command()
def explain(
    identity: Annotated[
        str, argument("IDENTITY", "For example spiffe://..., dns:NAME, token:NAME, jwt:ISSUER/NAME, local.")
    ],
    action: Annotated[str, argument("ACTION", "predict, read, publish, operate or admin.")],
    model: Annotated[str, argument("MODEL", 'A model\'s name; "" for the server itself.')],
    also: Annotated[
        list[str] | None,
        option("--also", "NAME", "Another name of the caller, such as group:ISSUER/NAME; may be repeated."),
    ] = None,
    target: DiskTarget = DiskTarget(),
) -> None:
    """Show whether a caller may do something with a model, and which rule decides. Exits with 1 if not."""
    from turnout.auth.policy.policy_file import load_policy
    from turnout.cli.workspace import Workspace

    with reporting(as_json=target.as_json) as out:
        if action not in list(AccessRole):
            raise InvalidRequest.at("action", f"expected one of {', '.join(AccessRole)}, got {action[:32]!r}")
        workspace, caller = Workspace.open(target), Identity(identity, tuple(also or ()))
        auth = workspace.settings.auth
        policy = load_policy(auth.policy)
        decision = _decide(workspace, policy, caller, AccessRole(action), model)
        limit = policy.limit_of(caller)
        outcome = "allowed" if decision.allowed else "denied"
        if not auth.enabled:
            out.note("auth.enabled is false: servers allow every call; this is what the policy would decide")
        body = {"allowed": decision.allowed, "rule": decision.rule, "limit": None if limit is None else limit.name}
        pairs = [(outcome, decision.rule), *([("limit", limit.name)] if limit is not None else [])]
        out.show(body, facts(pairs))
        if not decision.allowed:
            raise typer.Exit(1)


@application.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Read the policy file as a server would, and report errors in it."""
    from turnout.auth.policy.policy_file import load_policy
    from turnout.config import load_settings

    with reporting(as_json=as_json) as out:
        file = load_settings(config).settings.auth.policy
        if not file:
            raise ConfigError("auth.policy names no file to check: set it in turnout.toml or with --config")
        policy = load_policy(file)
        grants, limits = len(policy.grants), len(policy.limits)
        out.show(
            {"file": file, "grants": grants, "limits": limits},
            f"{file}: {count_text(grants, 'grant')}, {count_text(limits, 'limit')}",
        )


def _decide(
    workspace: "Workspace", policy: AccessPolicy, caller: Identity, role: AccessRole, model: str
) -> AccessDecision:
    name, kinds = caller.name, [kind for kind in KINDS if kind not in ("*", "group:")]
    if not name.startswith(tuple(kinds)):
        raise InvalidRequest.at("identity", f"expected one that begins with {', '.join(kinds)}, got {name[:64]!r}")
    if name.startswith("token:"):
        scopes = _scopes_of_tokens(workspace, name.removeprefix("token:"))
        if not scopes:
            return AccessDecision(False, "no active token has that name")
        return decide(scopes, role, model)
    if name == "local" and not workspace.settings.auth.loopback:
        return AccessDecision(False, "auth.loopback is false")
    return decide(policy.scopes_of(caller), role, model)


def _scopes_of_tokens(workspace: "Workspace", name: str) -> list[AccessScope]:
    from turnout.auth.credentials.tokens import scope_of

    if not workspace.has_store():
        return []
    with workspace.store() as store:
        now = store.now()
        return [scope_of(one) for one in store.tokens() if one.name == name and one.state(now) == "active"]
