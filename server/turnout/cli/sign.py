"""`turnout sign`."""

from pathlib import Path
from typing import Annotated

import typer

from turnout.cli.options import ActorOption, ConfigOption, JsonOption, ModelsOption, ReasonOption, StateOption
from turnout.cli.output import reporting


def sign(
    version: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="For example magika@3.2.0.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Private key, as `turnout key new` makes it.")],
    bundle: Annotated[
        bool,
        typer.Option("--bundle", metavar="", help="Make a Sigstore bundle, with an elliptic-curve key; an extra."),
    ] = False,
    actor: ActorOption = None,
    reason: ReasonOption = "",
    models: ModelsOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a version's digest, once every byte of it was read and is what was published.

    The signature lies beside the version, outside its digest. Servers that refused the version try it again.
    """
    from turnout.cli.workspace import Workspace, actor_or_login, exact_reference
    from turnout.registry import bundles
    from turnout.registry.signing import PrivateKey
    from turnout.routing.declarations import Declarer

    with reporting(as_json=as_json) as out:
        name, exact = exact_reference(version)
        private = None if bundle else PrivateKey.load(key)
        workspace = Workspace.open(models, state, config)
        workspace.require_repository()
        who = actor_or_login(actor)
        with workspace.store() as store:
            if private is None:
                known = store.published().get((name, str(exact)))
                published = workspace.repository.verify(name, exact, expected=known)
                exact = published.manifest.version
                by = bundles.sign(workspace.repository, name, exact, key)
                store.record_signed(name, exact, published.digest, by, actor=who, reason=reason)
            else:
                signed = Declarer(workspace.repository, store).sign(name, exact, private, actor=who, reason=reason)
                published, by = signed.published, signed.key
        manifest = published.manifest
        body = {
            "model": name,
            "version": str(manifest.version),
            "digest": published.digest,
            "key_id": by,
        }
        out.show(body, f"{name} {manifest.version} is signed by {by} ({published.digest})")
