"""`turnout token`: bearer tokens, in the state store."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from turnout.cli.durations import read_duration
from turnout.cli.options import ChangeOptions, DiskTarget, argument, flag, option
from turnout.cli.output import facts, reporting, table

if TYPE_CHECKING:
    from turnout.state.tokens import TokenRecord

_LONGEST_DAYS = 3650

_NONE = "no tokens; `turnout token create NAME --role ROLE --model PATTERN` creates one"

application = typer.Typer()


@application.command()
def create(
    name: Annotated[str, argument("NAME", "Name of its bearer; the caller's identity is token:NAME.")],
    role: Annotated[list[str], option("--role", "ROLE", "predict, read, publish, operate or admin; may be repeated.")],
    model: Annotated[
        list[str], option("--model", "PATTERN", "Models that it is valid for; * matches anything. May be repeated.")
    ],
    expires: Annotated[str, option("--expires", "TIME", "When it expires: 30d, 12h, or never.")] = "90d",
    change: ChangeOptions = ChangeOptions(),
    target: DiskTarget = DiskTarget(),
) -> None:
    """Create a token and print it. It is shown only once: the state store keeps only its hash.

    The token grants exactly these roles on these models, whatever the policy file grants to others. To replace a
    token, create another with the same name, hand it out, and revoke the old one by its id.
    """
    from turnout.auth.credentials.tokens import check_name, check_scope, new_token
    from turnout.cli.workspace import Workspace, actor_or_login
    from turnout.state.tokens import TokenRecord

    with reporting(as_json=target.as_json) as out:
        roles, patterns = check_scope(role, model)
        ends = _ends(expires)
        who = actor_or_login(change.actor)
        text, token_id, digest = new_token()
        workspace = Workspace.open(target)
        with workspace.store() as store:
            now = store.now().astimezone(UTC)
            until = None if ends is None else now + ends
            record = TokenRecord(token_id, check_name(name), digest, roles, patterns, now, until, actor=who)
            store.create_token(record, actor=who, reason=change.reason)
            out.note("store it where only its bearer can read it; it is not shown again")
        if not workspace.settings.auth.enabled:
            out.note("servers require tokens only if [auth] enabled = true")
        out.show(_body(record, now) | {"token": text}, Text(text))


@application.command(name="list")
def list_(
    every: Annotated[bool, flag("--all", "Include expired and revoked tokens.")] = False,
    target: DiskTarget = DiskTarget(),
) -> None:
    """List tokens with their names, roles, models and expiry. The tokens themselves are not shown."""
    from turnout.cli.workspace import Workspace

    with reporting(as_json=target.as_json) as out:
        workspace = Workspace.open(target)
        found: list[TokenRecord] = []
        now = datetime.now(UTC)
        if workspace.has_store():
            with workspace.store() as store:
                found, now = store.tokens(), store.now()
        displayed = [one for one in found if every or one.state(now) == "active"]
        columns = ("NAME", "ID", "ROLES", "MODELS", "EXPIRES", "STATE", "CREATED BY")
        rows = [
            (one.name, one.id, ", ".join(one.roles), ", ".join(one.models), _when(one.expires), one.state(now),
             one.actor)
            for one in displayed
        ]  # fmt: skip
        out.show({"tokens": [_body(one, now) for one in displayed]}, table(columns, rows) if rows else _NONE)


@application.command()
def revoke(
    name_or_id: Annotated[str, argument("NAME|ID", "Id of one token, or a name, for all tokens with that name.")],
    change: ChangeOptions = ChangeOptions(),
    target: DiskTarget = DiskTarget(),
) -> None:
    """Revoke tokens at once: calls that use them are refused, and their streams end."""
    from turnout.cli.workspace import Workspace, actor_or_login

    with reporting(as_json=target.as_json) as out:
        who = actor_or_login(change.actor)
        with Workspace.open(target).store() as store:
            revoked = store.revoke_token(name_or_id, actor=who, reason=change.reason)
            now = store.now()
        pairs = [(one.name, f"{one.id} is revoked") for one in revoked]
        body = {"revoked": [_body(one, now) | {"state": "revoked"} for one in revoked]}
        out.show(body, facts(pairs) if pairs else "already revoked")


def _ends(text: str) -> timedelta | None:
    if text == "never":
        return None
    seconds = read_duration(text, longest_days=_LONGEST_DAYS)
    return timedelta(seconds=max(seconds, 1.0))


def _when(time: datetime | None) -> str:
    return "never" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _body(record: "TokenRecord", now: datetime) -> dict[str, Any]:
    return {
        "id": record.id, "name": record.name, "roles": list(record.roles), "models": list(record.models),
        "created": record.created.isoformat(),
        "expires": record.expires.isoformat() if record.expires else None,
        "state": record.state(now), "created_by": record.actor,
    }  # fmt: skip
