"""Who signed a version, and what is refused where a signature is required: at the gate, at the load, on the wire."""

import asyncio
import base64
import json
import stat
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from semver import Version

from onnx_models import save, scaled
from turnout.config import ModelOverrides, Settings, Signing
from turnout.errors import ConfigError, InvalidModel, NotTrusted
from turnout.registry import attestations
from turnout.registry.publish import DEFAULT_GATES, PublishRequest, publish
from turnout.registry.repository import Repository
from turnout.registry.signing import DigestSignature, PrivateKey, PublicKey
from turnout.registry.trust import SignatureGate, Trust, keep
from turnout.serving.lifecycle import LifecycleState
from turnout.state.store import StateStore
from wire import X, refusal, request, stub_of

ONE, TWO = Version(1), Version(2)


@pytest.fixture
def repository(models: Path) -> Repository:
    return Repository(models)


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    return PrivateKey.create(tmp_path / "key.pem")


@pytest.fixture
def stranger(tmp_path: Path) -> PrivateKey:
    return PrivateKey.create(tmp_path / "stranger.pem")


def required(*keys: PrivateKey) -> Signing:
    return Signing(require_signature=True, trusted_keys=tuple(str(k.public) for k in keys))


def sign(repository: Repository, version: Version, key: PrivateKey) -> None:
    keep(repository, "m", version, key.sign(repository.find("m", version).digest))


def test_a_private_key_is_readable_by_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    made = PrivateKey.create(tmp_path / "key.pem")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert PrivateKey.load(tmp_path / "key.pem").public == made.public
    with pytest.raises(ConfigError, match="never overwritten"):
        PrivateKey.create(tmp_path / "key.pem")
    assert "PRIVATE" not in repr(made)


def test_a_trusted_key_is_a_pem_file_or_base64(tmp_path: Path, key: PrivateKey) -> None:
    (tmp_path / "public.pem").write_text(key.public.pem)
    assert PublicKey.parse(str(tmp_path / "public.pem")) == PublicKey.parse(str(key.public)) == key.public
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    encoded = other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "ec.pem").write_bytes(encoded)
    for wrong in (tmp_path / "ec.pem", tmp_path / "nothing.pem", tmp_path / "key.pem", "AAAA", "\0"):
        with pytest.raises(ConfigError):
            PublicKey.parse(str(wrong))
    with pytest.raises(ConfigError, match="holds no Ed25519 private key"):
        PrivateKey.load(tmp_path / "public.pem")


def test_a_signature_can_be_checked_without_turnout(repository, key: PrivateKey, publish_model) -> None:
    digest = publish_model("m", "1.0.0", scaled(1))
    sign(repository, ONE, key)
    (file,) = (repository.root / "m" / ".attestations" / "1.0.0").glob("signature-*.json")
    body = json.loads(file.read_text())
    assert (body["digest"], body["key_id"]) == (digest, key.public.id)
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(body["public_key"]))
    public.verify(base64.b64decode(body["signature"]), f"turnout.v1 version {digest}\n".encode())


def test_what_lies_beside_a_version_is_no_part_of_it(repository, key: PrivateKey, publish_model) -> None:
    digest = publish_model("m", "1.0.0", scaled(1))
    sign(repository, ONE, key)
    assert repository.verify("m", ONE).digest == digest
    listing = repository.scan()
    assert (len(listing.published), listing.problems) == (1, ())


@pytest.mark.parametrize("change", ["signature", "public_key", "digest", "not json", "a list", "other algorithm"])
def test_a_signature_that_was_tampered_with_counts_for_nothing(
    repository, key: PrivateKey, stranger: PrivateKey, publish_model, change: str
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    published = repository.find("m", ONE)
    body = json.loads(key.sign(published.digest).to_bytes())
    match change:
        case "signature":
            value = bytearray(base64.b64decode(body["signature"]))
            value[0] ^= 1
            body["signature"] = base64.b64encode(value).decode()
        case "public_key":
            body["public_key"] = str(stranger.public)
        case "digest":
            body["digest"] = "sha256:" + "0" * 64
        case "other algorithm":
            body["algorithm"] = "none"
    text = {"not json": "{", "a list": "[1]"}.get(change, json.dumps(body))
    attestations.write(repository, "m", ONE, f"signature-{key.public.id}.json", text.encode())
    with pytest.raises(NotTrusted, match=r"m 1\.0\.0: "):
        Trust.of(required(key, stranger)).check(repository, published)


def test_only_a_trusted_key_counts(repository, key: PrivateKey, stranger: PrivateKey, publish_model) -> None:
    publish_model("m", "1.0.0", scaled(1))
    published = repository.find("m", ONE)
    trust = Trust.of(required(key))
    with pytest.raises(NotTrusted, match=r"it is not signed, and signing\.require_signature asks for that"):
        trust.check(repository, published)
    sign(repository, ONE, stranger)
    with pytest.raises(NotTrusted, match=f"it is signed by {stranger.public.id} only, which is not trusted"):
        trust.check(repository, published)
    sign(repository, ONE, key)
    assert {one.key: str(one.worth) for one in trust.check(repository, published)} == {
        key.public.id: "trusted",
        stranger.public.id: "unknown key",
    }
    assert len(Trust().check(repository, published)) == 2


def test_to_require_signatures_and_trust_nobody_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trusted_keys names no key"):
        Trust.of(Signing(require_signature=True))


def test_an_unsigned_version_is_not_published_where_a_signature_is_required(
    repository, tmp_path: Path, key: PrivateKey, stranger: PrivateKey
) -> None:
    source = save(scaled(1), tmp_path / "m.onnx")
    wanted = PublishRequest("m", ONE, source)
    for signer in (None, stranger):
        gates = (*DEFAULT_GATES, SignatureGate(Trust.of(required(key)), repository, signer))
        with pytest.raises(InvalidModel, match="gate signature failed") as caught:
            publish(repository, wanted, gates=gates)
        assert [violation.field for violation in caught.value.violations] == ["signature"]
        assert repository.published() == ()
    gate = SignatureGate(Trust.of(required(key)), repository, key)
    result = publish(
        repository,
        wanted,
        gates=(*DEFAULT_GATES, gate),
        attest=lambda candidate: keep(repository, "m", ONE, key.sign(candidate.digest)),
    )
    assert result.report.results[-1].verdict.evidence == f"signed by {key.public.id}"
    Trust.of(required(key)).check(repository, repository.find("m", ONE))


def test_a_signature_of_other_content_that_a_dead_publish_left_is_left_out(
    repository, key: PrivateKey, publish_model
) -> None:
    keep(repository, "m", ONE, key.sign("sha256:" + "1" * 64))
    publish_model("m", "1.0.0", scaled(1))
    published = repository.find("m", ONE)
    assert Trust.of(Signing(trusted_keys=(str(key.public),))).check(repository, published) == []


def test_a_link_in_the_place_of_a_signature_is_not_followed(
    repository, tmp_path: Path, key: PrivateKey, publish_model
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    published = repository.find("m", ONE)
    outside = tmp_path / "signature.json"
    outside.write_bytes(key.sign(published.digest).to_bytes())
    home = attestations.directory(repository, "m", ONE)
    home.mkdir(parents=True, exist_ok=True)
    (home / "signature-x.json").symlink_to(outside)
    with pytest.raises(NotTrusted):
        Trust.of(required(key)).check(repository, published)


async def test_an_unsigned_version_is_not_loaded_and_the_rest_is_served(
    repository, publish_model, start_server, key: PrivateKey
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    sign(repository, ONE, key)
    server = await start_server(signing=required(key))
    assert server.services.catalog.snapshot.models["m"].versions[TWO].state is LifecycleState.FAILED
    async with stub_of(server) as stub:
        refused = await refusal(stub.Predict(request("m", "2.0.0", x=X)))
        assert (await stub.Predict(request("m", x=X))).route.version == "1.0.0"
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.message == (
        "m 2.0.0 could not be loaded: m 2.0.0: it is not signed, and signing.require_signature asks for that"
    )


async def test_a_version_that_is_signed_later_is_served_within_a_moment(
    repository, models: Path, publish_model, start_server, key: PrivateKey
) -> None:
    digest = publish_model("m", "1.0.0", scaled(1))
    server = await start_server(signing=required(key))
    sign(repository, ONE, key)
    with StateStore.open(Settings(models=models).state_url) as store:
        store.record_signed("m", ONE, digest, key.public.id, actor="ada", reason="")
    catalog = server.services.catalog
    async with asyncio.timeout(20):
        await catalog.wait_for(lambda snapshot: snapshot.models["m"].versions[ONE].handle is not None)


async def test_what_is_not_signed_stays_refused_while_other_things_change(
    repository, models: Path, publish_model, start_server, key: PrivateKey
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    sign(repository, ONE, key)
    server = await start_server(signing=required(key))
    catalog = server.services.catalog
    states: set[LifecycleState] = set()
    async with stub_of(server) as stub:
        for number in range(5):
            await asyncio.to_thread(server.services.declarer.set_tag, "m", f"t{number}", ONE, actor="ada", reason="")
            while f"t{number}" not in catalog.snapshot.models["m"].declarations.tags:
                states.add(catalog.snapshot.models["m"].versions[TWO].state)
                refused = await refusal(stub.Predict(request("m", "2.0.0", x=X)))
                assert refused.code is grpc.StatusCode.FAILED_PRECONDITION, "never UNAVAILABLE, as if it were loading"
    assert states == {LifecycleState.FAILED}


async def test_one_model_may_ask_for_what_the_others_do_not(publish_model, start_server, key: PrivateKey) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("n", "1.0.0", scaled(1))
    server = await start_server(model={"m": ModelOverrides(signing=required(key))})
    states = {name: entry.versions[ONE].state for name, entry in server.services.catalog.snapshot.models.items()}
    assert states == {"m": LifecycleState.FAILED, "n": LifecycleState.READY}


async def test_a_server_with_a_key_that_is_none_does_not_start(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    with pytest.raises(ConfigError, match="is missing"):
        await start_server(signing=Signing(require_signature=True, trusted_keys=("no/such/key.pem",)))


def test_a_signature_comes_back_as_it_was_made(key: PrivateKey) -> None:
    made = key.sign("sha256:" + "a" * 64)
    assert DigestSignature.from_bytes(made.to_bytes()) == made
    assert made.fits("sha256:" + "a" * 64)
    assert not made.fits("sha256:" + "b" * 64)
