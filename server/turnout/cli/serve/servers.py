"""`turnout servers`."""

from typing import TYPE_CHECKING, Annotated

from rich.text import Text

from turnout.cli.options import ServerTarget, argument
from turnout.cli.output import reporting, table

if TYPE_CHECKING:
    from turnout_proto.v1 import servers_pb2 as pb


def servers(
    name: Annotated[str, argument("NAME", "One model. (default: all)")] = "", target: ServerTarget = ServerTarget()
) -> None:
    """Show the servers and workers that share the state store: which are alive, what each serves, which are behind."""
    from turnout.cli.connection import Server
    from turnout_proto.v1 import servers_pb2

    with reporting(as_json=target.as_json) as out, Server.named(target).control() as control:
        response = control.ListServers(servers_pb2.ListServersRequest(), timeout=30.0)
        rows = []
        for one in response.servers:
            alive = (
                Text("alive") if one.alive else Text(f"silent {one.silent.ToTimedelta().total_seconds():.0f} s", "red")
            )
            label = Text(one.name, "bold" if one.name == response.answered_by else "")
            models = [model for model in one.models if name in ("", model.model)]
            for number, model in enumerate(models or [servers_pb2.ServerModel()]):
                head = (label, alive, one.release) if number == 0 else ("", "", "")
                rows.append((*head, model.model, ", ".join(model.versions), _epoch_text(model)))
        body = {"answered_by": response.answered_by, "servers": [_body(one, name) for one in response.servers]}
        out.show(body, table(("SERVER", "STATE", "RELEASE", "MODEL", "READY", "EPOCH"), rows))


def _epoch_text(model: "pb.ServerModel") -> str:
    behind = f" ({model.behind} behind)" if model.behind else ""
    diverted = f", all to {model.diverted}: an unrecorded rollback" if model.diverted else ""
    return f"{model.epoch or ''}{behind}{diverted}"


def _body(one: "pb.ServerStatus", name: str) -> dict[str, object]:
    from turnout.cli.messages import message_body

    body = message_body(one, without=("silent",))
    models = [model for model in body["models"] if name in ("", model["model"])]
    return body | {"models": models, "silent_s": round(one.silent.ToTimedelta().total_seconds(), 3)}
