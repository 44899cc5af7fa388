"""What Turnout signs, `model_signing` verifies, and the other way round; with no network."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from semver import Version

import onnx_models
from certificates import Authority, Certified
from turnout.config import Signing
from turnout.errors import ConfigError, Conflict, DigestMismatch, Exhausted, InvalidRequest, NotTrusted, TurnoutError
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.signing.bundle import Bundle
from turnout.registry.signing.certificates import SignerCertificate
from turnout.registry.signing.keys import PrivateKey
from turnout.registry.signing.signer import KeySigner, MadeElsewhere
from turnout.registry.signing.trust import MAX_SIGNATURES, Trust, bundles, keep
from turnout.registry.storage import attestations
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository

ONE = Version(1)

SIGNS = (
    x509.KeyUsage(True, False, False, False, False, False, False, False, False),
    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with m 1.0.0: weights beside the model, a golden case, and its signer's key."""
    home = tmp_path_factory.mktemp("original")
    source = onnx_models.save_external(home / "work", location="deep/weights.data")
    np.savez(home / "one.npz", **{"inputs/x": np.ones((1, 64), np.float32)})
    publish(Repository(home / "models"), PublishRequest("m", ONE, source, golden=(home / "one.npz",)))
    key = PrivateKey.create(home / "key.pem")
    (home / "key.pub.pem").write_text(key.public.pem)
    return home


@pytest.fixture
def home(original: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    shutil.copytree(original, tmp_path / "home")
    return tmp_path / "home"


def found(home: Path) -> Published:
    return Repository(home / "models").find("m", ONE)


def version(home: Path) -> Path:
    return home / "models" / "m" / "1.0.0"


def signed_by_turnout(home: Path) -> Path:
    """Signs the version; returns the bundle's file."""
    repository, key = Repository(home / "models"), PrivateKey.load(home / "key.pem")
    keep(repository, "m", ONE, key.public.id, KeySigner(key).sign(found(home)))
    return attestations.directory(repository, "m", ONE) / f"bundle-{key.public.id}.sigstore.json"


def model_signing(*arguments: str | Path) -> tuple[bool, str]:
    """Runs a command of `model_signing` in this process; returns whether it succeeded, and what it said."""
    from model_signing._cli import main

    done = CliRunner().invoke(main, [*map(str, arguments)])
    return done.exit_code == 0, done.output


def cli_verifies(home: Path, signature: Path, public_key: Path) -> bool:
    return model_signing("verify", "key", version(home), "--signature", signature, "--public_key", public_key)[0]


def turnout_takes(home: Path) -> None:
    """Loads as a server does, as far as signatures and files go. Raises where it refuses."""
    repository, published = Repository(home / "models"), found(home)
    trusted = Signing(signatures="require", trusted_keys=(str(home / "key.pub.pem"),))
    Trust.of(trusted).check(repository, published)
    repository.verify("m", ONE, expected=published.digest)


def _flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _empty(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"")


def _to_link(path: Path) -> None:
    path.rename(path.parents[3] / "elsewhere")
    path.symlink_to(path.parents[3] / "elsewhere")


FILES = ("model.onnx", "deep/weights.data", "golden/one.npz", "manifest.json")
CHANGES: dict[str, Callable[[Path], object]] = {
    **{f"{name} flipped": lambda at, name=name: _flip(at / name) for name in FILES},
    **{f"{name} removed": lambda at, name=name: (at / name).unlink() for name in FILES},
    **{f"{name} renamed": lambda at, name=name: (at / name).rename(at / f"{name}.old") for name in FILES},
    **{f"{name} emptied": lambda at, name=name: _empty(at / name) for name in FILES},
    "model.onnx a link": lambda at: _to_link(at / "model.onnx"),
    "a file added": lambda at: (at / "more.data").write_bytes(b"x"),
    "a file added below": lambda at: (at / "golden" / "two.npz").write_bytes(b"x"),
    "a link added": lambda at: (at / "more.data").symlink_to("model.onnx"),
    "two files exchanged": lambda at: (
        (at / "model.onnx").rename(at / "x"),
        (at / "deep" / "weights.data").rename(at / "model.onnx"),
        (at / "x").rename(at / "deep" / "weights.data"),
    ),
}  # fmt: skip


def test_the_command_of_openssf_verifies_what_turnout_signed_and_signs_what_turnout_takes(home: Path) -> None:
    environment = os.environ | {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}  # nobody there
    command = [sys.executable, "-m", "model_signing"]

    def ran(*arguments: str | Path) -> str:
        done = subprocess.run(
            [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    made, public = signed_by_turnout(home), home / "key.pub.pem"
    assert "succeeded" in ran("verify", "key", version(home), "--signature", made, "--public_key", public)
    turnout_takes(home)
    made.unlink()
    with pytest.raises(NotTrusted, match="it is not signed"):
        turnout_takes(home)
    ran("sign", "key", version(home), "--signature", home / "model.sig", "--private_key", home / "key.pem")
    signer = MadeElsewhere.read((home / "model.sig").read_bytes(), PrivateKey.load(home / "key.pem").public)
    keep(Repository(home / "models"), "m", ONE, signer.key.id, signer.sign(found(home)))
    turnout_takes(home)


@pytest.mark.parametrize("change", CHANGES)
def test_neither_takes_a_version_of_which_anything_changed(home: Path, change: str) -> None:
    made = signed_by_turnout(home)
    CHANGES[change](version(home))
    with pytest.raises(TurnoutError) as refused:
        turnout_takes(home)
    assert not isinstance(refused.value, ConfigError | Conflict)
    assert not cli_verifies(home, made, home / "key.pub.pem")


def test_the_bytes_of_a_signed_version_are_told_from_its_signature(home: Path) -> None:
    signed_by_turnout(home)
    _flip(version(home) / "deep" / "weights.data")
    with pytest.raises(DigestMismatch, match=r"deep/weights\.data is not what was published"):
        turnout_takes(home)


def test_another_key_verifies_nothing(home: Path, tmp_path: Path) -> None:
    made = signed_by_turnout(home)
    (tmp_path / "other.pub.pem").write_text(PrivateKey.create(tmp_path / "other.pem").public.pem)
    assert cli_verifies(home, made, home / "key.pub.pem")
    assert not cli_verifies(home, made, tmp_path / "other.pub.pem")


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_every_curve_of_the_format_goes_both_ways(home: Path, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    form, plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()  # as openssl writes it
    (home / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    (home / "key.pub.pem").write_text(PrivateKey.load(home / "key.pem").public.pem)
    assert cli_verifies(home, signed_by_turnout(home), home / "key.pub.pem")
    sign = ("sign", "key", version(home), "--signature", home / "model.sig", "--private_key", home / "key.pem")
    assert model_signing(*sign)[0]
    theirs = Bundle.from_bytes((home / "model.sig").read_bytes())
    assert MadeElsewhere.read(theirs.to_bytes(), PrivateKey(key).public).sign(found(home)) == theirs


def signed_by_api(home: Path, configure: Callable[..., object]) -> bytes:
    from model_signing import hashing, signing

    config = signing.Config().use_elliptic_key_signer(private_key=home / "key.pem")
    config.set_hashing_config(configure(hashing.Config())).sign(version(home), home / "model.sig")
    return (home / "model.sig").read_bytes()


NOT_WHOLE: dict[str, tuple[Callable[..., object], str]] = {
    "without the model": (
        lambda config: config.set_ignored_paths(paths=["model.onnx"]), "it does not cover model.onnx",
    ),
    "without the weights": (
        lambda config: config.set_ignored_paths(paths=["deep"]), r"it does not cover deep/weights\.data",
    ),
    "without the manifest": (
        lambda config: config.set_ignored_paths(paths=["manifest.json"]), r"it does not cover manifest\.json",
    ),
    "shards": (lambda config: config.use_shard_serialization(), "it signs shards, expected whole files"),
    "blake3": (
        lambda config: config.use_file_serialization(hashing_algorithm="blake3"),
        "it hashes files by blake3, expected sha256",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_WHOLE)
def test_a_good_signature_over_less_than_the_whole_version_is_none(home: Path, kind: str) -> None:
    """`model_signing verify` itself is content with it: what is left out is up to whoever signs."""
    configure, why = NOT_WHOLE[kind]
    data = signed_by_api(home, configure)
    key = PrivateKey.load(home / "key.pem").public
    with pytest.raises((InvalidRequest, Conflict), match=why):
        MadeElsewhere.read(data, key).sign(found(home))
    attestations.write(Repository(home / "models"), "m", ONE, f"bundle-{key.id}.sigstore.json", data)
    with pytest.raises(NotTrusted):
        turnout_takes(home)


def certified(home: Path, certificate: Certified) -> tuple[KeySigner, Path]:
    """Returns who signs with a certificate that Turnout takes for one; and where its files are."""
    cert, key = certificate.write(home, "signer")
    return KeySigner(PrivateKey.load(key), SignerCertificate.load(cert)), cert


def trusting(home: Path, authority: Authority) -> Signing:
    (home / "authority.pem").write_bytes(authority.pem)
    return Signing(signatures="require", trusted_authorities=(str(home / "authority.pem"),))


@pytest.mark.parametrize("between", [False, True], ids=["directly", "intermediate"])
def test_certificates_go_both_ways(home: Path, between: bool) -> None:
    root = Authority.make("a root")
    issuer = root.intermediate() if between else root
    signer, cert = certified(home, issuer.issue("ada", hosts=(), extensions=SIGNS))
    repository, trust = Repository(home / "models"), Trust.of(trusting(home, root))
    keep(repository, "m", ONE, signer.key.id, signer.sign(found(home)))
    trust.check(repository, found(home))
    made = attestations.directory(repository, "m", ONE) / f"bundle-{signer.key.id}.sigstore.json"
    verify = ("verify", "certificate", version(home), "--signature", made, "--certificate_chain")
    assert model_signing(*verify, home / "authority.pem") == (True, "Verification succeeded\n")
    (home / "other.pem").write_bytes(Authority.make("another").pem)
    assert not model_signing(*verify, home / "other.pem")[0]
    made.unlink()

    own, *chain = x509.load_pem_x509_certificates(cert.read_bytes())
    (home / "own.pem").write_bytes(own.public_bytes(serialization.Encoding.PEM))
    (home / "chain.pem").write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain))
    sign = ("sign", "certificate", version(home), "--signature", home / "model.sig", "--private_key")
    chained = ("--signing_certificate", home / "own.pem", "--certificate_chain", home / "chain.pem")
    if not between:
        chained = (*chained[:3], home / "authority.pem")
    done, output = model_signing(*sign, home / "signer.key", *chained)
    assert done, output
    theirs = MadeElsewhere.read((home / "model.sig").read_bytes(), None)
    keep(repository, "m", ONE, theirs.key.id, theirs.sign(found(home)))
    assert [(one.key, str(one.worth)) for one in trust.check(repository, found(home))] == [(signer.key.id, "trusted")]


def test_only_the_certificates_of_trusted_authorities_count(home: Path) -> None:
    root = Authority.make("a root")
    signer, _ = certified(home, Authority.make("a root").issue("ada", hosts=(), extensions=SIGNS))
    repository = Repository(home / "models")
    keep(repository, "m", ONE, signer.key.id, signer.sign(found(home)))
    with pytest.raises(
        NotTrusted, match=r"its certificate was not issued by a trusted authority \(signing\.trusted_authorities"
    ):
        Trust.of(trusting(home, root)).check(repository, found(home))
    by_key = Signing(signatures="require", trusted_keys=(str(signer.key),))
    Trust.of(by_key).check(repository, found(home))


def test_however_many_strangers_sign_what_a_trusted_certificate_signed_counts(home: Path) -> None:
    root = Authority.make("a root")
    signer, _ = certified(home, root.issue("ada", hosts=(), extensions=SIGNS))
    repository, stranger = Repository(home / "models"), KeySigner(PrivateKey.create(home / "stranger.pem"))
    keep(repository, "m", ONE, signer.key.id, signer.sign(found(home)))
    theirs, strangers = stranger.sign(found(home)), MAX_SIGNATURES - 1
    for number in range(strangers):
        keep(repository, "m", ONE, f"{number:016x}", theirs)
    trust = Trust.of(trusting(home, root))
    assert signer.key.id in {one.key for one in trust.check(repository, found(home)) if one.worth == "trusted"}
    assert signer.key.id in str(bundles(repository, found(home)).keys()), "exports carry it too"
    with pytest.raises(Exhausted, match=r"m 1\.0\.0 has 256 signatures, which is the maximum"):
        keep(repository, "m", ONE, stranger.key.id, theirs)
    keep(repository, "m", ONE, signer.key.id, signer.sign(found(home)))  # replaces its own

    (attestations.directory(repository, "m", ONE) / f"bundle-{signer.key.id}.sigstore.json").unlink()
    with pytest.raises(NotTrusted, match=f"is signed by {stranger.key.id}, .* and {strangers - 3} more only: which is"):
        trust.check(repository, found(home))


UNFIT: dict[str, tuple[dict[str, object], str]] = {
    "a TLS server's": (
        {"extensions": (SIGNS[0], x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]))},
        "for something else than signing code",
    ),
    "for key agreement": (
        {"extensions": (x509.KeyUsage(False, False, False, False, True, False, False, False, False),)},
        "not for signing",
    ),
    "for nothing": ({}, "does not say that it is for signing"),
    "an authority's": ({"authority": True, "extensions": SIGNS}, "is that of an authority"),
    "ended": ({"days": -1, "extensions": SIGNS}, "the signer's certificate expired on"),
    "not begun": ({"starts": 1, "extensions": SIGNS}, "the signer's certificate is not valid before"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNFIT)
def test_a_certificate_that_is_not_for_signing_now_signs_nothing(home: Path, kind: str) -> None:
    options, why = UNFIT[kind]
    with pytest.raises(ConfigError, match=why):
        certified(home, Authority.make().issue("ada", hosts=(), **options))


@pytest.mark.parametrize("kind", UNFIT)
def test_what_was_signed_with_a_certificate_is_judged_as_of_its_beginning(home: Path, kind: str) -> None:
    """A version goes on being served when its signer's certificate ends; no other fault of it is forgiven."""
    root = Authority.make("a root")
    options, why = UNFIT[kind]
    made = root.issue("ada", hosts=(), **options)
    key = PrivateKey(made.private)
    plain = KeySigner(key).sign(found(home))
    der = made.certificate.public_bytes(serialization.Encoding.DER)
    bundle = Bundle(plain.payload, plain.signature, certificates=(der,))
    repository = Repository(home / "models")
    keep(repository, "m", ONE, key.public.id, bundle)
    trust = Trust.of(trusting(home, root))
    if kind in ("ended", "not begun"):
        trust.check(repository, found(home))
    else:
        with pytest.raises(NotTrusted, match=why):
            trust.check(repository, found(home))
    with pytest.raises(InvalidRequest, match=why):  # nobody signs with it now
        MadeElsewhere.read(bundle.to_bytes(), None)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_certificate_of_which_any_bit_changed_is_told_and_not_stumbled_over(home: Path) -> None:
    root = Authority.make("a root")
    made = root.issue("ada", hosts=(), extensions=SIGNS)
    plain, trust = KeySigner(PrivateKey(made.private)).sign(found(home)), Trust.of(trusting(home, root))
    der, seen = made.certificate.public_bytes(serialization.Encoding.DER), set[str]()
    signed = made.certificate.tbs_certificate_bytes  # outside of it, a bit may say the same in another way
    begins = der.index(signed)
    for place in range(begins, begins + len(signed)):
        for bit in (1, 16, 128):
            changed = der[:place] + bytes([der[place] ^ bit]) + der[place + 1 :]
            bundle = Bundle(plain.payload, plain.signature, certificates=(changed,))
            seen.add(str(trust.judge(found(home), bundle).worth))
            with suppress(InvalidRequest):  # kept or refused: its key made it, and nobody vouches for it
                MadeElsewhere.read(bundle.to_bytes(), None)
    assert seen == {"does not fit", "unknown key"}


def test_a_certificate_of_another_key_is_refused(home: Path, tmp_path: Path) -> None:
    cert, _ = Authority.make().issue("ada", hosts=(), extensions=SIGNS).write(home, "signer")
    with pytest.raises(ConfigError, match="is for another key"):
        KeySigner(PrivateKey.load(home / "key.pem"), SignerCertificate.load(cert))
    with pytest.raises(ConfigError, match="contains no certificate as PEM"):
        SignerCertificate.load(home / "key.pub.pem")
