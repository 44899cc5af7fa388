"""`turnout sign`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from turnout.cli.options import ChangeOptions, DiskTarget, VersionArgument, option
from turnout.cli.output import reporting
from turnout.cli.publish.signers import CertificateOption, PassphraseOption, key_signer, made_elsewhere
from turnout.errors import InvalidRequest

if TYPE_CHECKING:
    from turnout.registry.signing.signer import Signer


def sign(
    version: VersionArgument,
    key: Annotated[
        Path | None, option("--key", "FILE", "Private key (PEM), created by `turnout key new` or OpenSSL.")
    ] = None,
    passphrase_file: PassphraseOption = None,
    certificate: CertificateOption = None,
    signature: Annotated[
        Path | None, option("--signature", "FILE", "Instead of a key: a signature made elsewhere by `model_signing`.")
    ] = None,
    public_key: Annotated[
        Path | None,
        option("--public-key", "FILE", "Public key (PEM) to check --signature with. (default: signing.trusted_keys)"),
    ] = None,
    change: ChangeOptions = ChangeOptions(),
    target: DiskTarget = DiskTarget(),
) -> None:
    """Sign all files of a version, after checking that each is what was published.

    The signature is an OpenSSF model signature (a Sigstore bundle). It is stored beside the version, outside its
    digest. Servers that refused the version try it again.

    If another tool has the key, such as an HSM, run `model_signing sign ... models/magika/3.3.0 --signature model.sig`,
    then pass the file with --signature.
    """
    from turnout.cli.workspace import Workspace, actor_or_login, exact_reference
    from turnout.releases.release import ReleaseStateWriter

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        if (key is None) == (signature is None):
            raise InvalidRequest.at("--key", "expected a key to sign with, or a --signature made elsewhere")
        workspace = Workspace.open(target)
        signer: Signer
        if key is not None:
            signer = key_signer(key, passphrase_file, certificate)
        else:
            assert signature is not None
            signer = made_elsewhere(signature, public_key, workspace.settings.for_model(name).signing)
        workspace.require_repository()
        who = actor_or_login(change.actor)
        with workspace.named(), workspace.store() as store:
            signed = ReleaseStateWriter(workspace.repository, store).sign(
                name, exact, signer, actor=who, reason=change.reason
            )
        number, digest = str(signed.published.manifest.version), signed.published.digest
        body = {"model": name, "version": number, "digest": digest, "key_id": signed.key}
        out.show(body, f"{name} {number} is signed by {signed.key} ({digest})")
