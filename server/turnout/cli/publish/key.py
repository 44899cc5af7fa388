"""`turnout key`: keys for signing versions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from turnout.cli.options import JsonOption, argument, flag
from turnout.cli.output import CommandOutput, facts, reporting
from turnout.cli.publish.signers import PassphraseOption, passphrase

if TYPE_CHECKING:
    from turnout.registry.signing.keys import PublicKey

application = typer.Typer()

_File = Annotated[Path, argument("FILE", "The private key, as PEM.")]


@application.command()
def new(file: _File, passphrase_file: PassphraseOption = None, as_json: JsonOption = False) -> None:
    """Create an elliptic-curve key (P-256) in a new file that only you can read, and print its public part.

    The file is encrypted if a passphrase is given, in a file or in the environment.
    """
    from turnout.registry.signing.keys import PrivateKey

    with reporting(as_json=as_json) as out:
        _show(out, file, PrivateKey.create(file, passphrase(passphrase_file)).public)


@application.command()
def show(
    file: _File,
    pem: Annotated[bool, flag("--pem", "Print only the public key, as PEM.")] = False,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the public part of a key."""
    from turnout.registry.signing.keys import PrivateKey

    with reporting(as_json=as_json) as out:
        public = PrivateKey.load(file, passphrase(passphrase_file)).public
        if pem and not as_json:
            out.show(None, Text(public.pem.rstrip()))
        else:
            _show(out, file, public)


def _show(out: CommandOutput, file: Path, public: "PublicKey") -> None:
    body: dict[str, Any] = {"file": str(file), "key_id": public.id, "public_key": str(public), "pem": public.pem}
    setting = f'trusted_keys = ["{public}"]'
    out.show(body, facts([("key", public.id), ("public key", str(public)), ("to trust it", f"[signing] {setting}")]))
