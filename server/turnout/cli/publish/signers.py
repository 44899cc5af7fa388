"""Options for the signing key, or for a signature made elsewhere."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from turnout.cli.options import option
from turnout.errors import InvalidRequest

if TYPE_CHECKING:
    from turnout.config import Signing
    from turnout.registry.signing.signer import KeySigner, MadeElsewhere

PASSPHRASE_VARIABLE = "TURNOUT_KEY_PASSPHRASE"  # noqa: S105 - a name; also in turnout.config.sources, slow to import

PassphraseOption = Annotated[
    Path | None,
    option(
        "--passphrase-file",
        "FILE",
        f"File with the passphrase of the private key. (default: the variable {PASSPHRASE_VARIABLE})",
    ),
]
CertificateOption = Annotated[
    Path | None,
    option(
        "--certificate",
        "FILE",
        "The key's certificate, then any intermediate certificates (PEM). (default: a bare key)",
    ),
]


def key_signer(key: Path, passphrase_file: Path | None, certificate: Path | None) -> "KeySigner":
    """Returns a signer that uses a key file.

    Raises:
        ConfigError: The key, its passphrase or its certificate cannot be used.
    """
    from turnout.registry.signing.certificates import SignerCertificate
    from turnout.registry.signing.keys import PrivateKey
    from turnout.registry.signing.signer import KeySigner

    private = PrivateKey.load(key, passphrase(passphrase_file))
    return KeySigner(private, None if certificate is None else SignerCertificate.load(certificate))


def made_elsewhere(bundle: Path, public_key: Path | None, trusted: "Signing") -> "MadeElsewhere":
    """Checks a signature bundle that already exists in a file, and returns a signer for it.

    If `public_key` is None, the key that made the signature must be one of the trusted keys.

    Raises:
        ConfigError: A file cannot be used.
        InvalidRequest: The file is not a model signature, or another key made it.
    """
    from turnout.registry.signing.bundle import Bundle
    from turnout.registry.signing.keys import PublicKey
    from turnout.registry.signing.signer import MadeElsewhere, made_by
    from turnout.registry.storage.attestations import MAX_BYTES
    from turnout.registry.storage.files import read_named

    data = read_named(bundle, "signature", MAX_BYTES)
    key = None if public_key is None else PublicKey.load(public_key)
    if key is None:
        try:
            read = Bundle.from_bytes(data)
        except ValueError as error:
            raise InvalidRequest.at("--signature", f"expected an OpenSSF model signature, but {error}") from None
        known = map(PublicKey.parse, trusted.trusted_keys)
        key = None if read.certificates else next((one for one in known if made_by(one, read)), None)
        if key is None and not read.certificates:
            raise InvalidRequest.at(
                "--public-key", "expected the key to check the signature with: it is none of signing.trusted_keys"
            )
    return MadeElsewhere.read(data, key, "--signature")


def passphrase(file: Path | None) -> str:
    """Returns the passphrase of the key; "" if none is given. Raises ConfigError if the file cannot be used."""
    from turnout.config.files import read_secret

    return os.environ.get(PASSPHRASE_VARIABLE, "") if file is None else read_secret("--passphrase-file", str(file))
