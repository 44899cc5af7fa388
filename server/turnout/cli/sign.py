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
    from turnout.errors import ConfigError
    from turnout.registry import bundles
    from turnout.registry.signing import PrivateKey
    from turnout.registry.trust import keep

    with reporting(as_json=as_json) as out:
        name, exact = exact_reference(version)
        private = None if bundle else PrivateKey.load(key)
        workspace = Workspace.open(models, state, config)
        workspace.require_repository()
        with workspace.store() as store:
            known = store.published().get((name, str(exact)))
            published = workspace.repository.verify(name, exact, expected=known)
            manifest = published.manifest
            if private is None:
                by = bundles.sign(workspace.repository, name, manifest.version, key)
            else:
                by = private.public.id
                try:
                    keep(workspace.repository, name, manifest.version, private.sign(published.digest))
                except OSError as error:
                    raise ConfigError(f"the repository cannot be written to: {error.strerror}") from None
            who = actor_or_login(actor)
            store.record_signed(name, manifest.version, published.digest, by, actor=who, reason=reason)
        body = {
            "model": name,
            "version": str(manifest.version),
            "digest": published.digest,
            "key_id": by,
        }
        out.show(body, f"{name} {manifest.version} is signed by {by} ({published.digest})")
