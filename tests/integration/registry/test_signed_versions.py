"""Who signed a version, and what is refused where a signature is required: at the gate, at the load, on the wire."""

import asyncio
import base64
import copy
import functools
import json
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from semver import Version

from onnx_models import save, scaled
from turnout.config import ModelOverrides, Settings, Signing
from turnout.errors import ConfigError, Conflict, InvalidModel, InvalidRequest, NotTrusted
from turnout.registry.publishing.publish import DEFAULT_GATES, PublishRequest, publish
from turnout.registry.signing.bundle import Bundle, Statement, message
from turnout.registry.signing.keys import PrivateKey, PublicKey
from turnout.registry.signing.signer import KeySigner, MadeElsewhere
from turnout.registry.signing.trust import SignatureGate, Trust, keep
from turnout.registry.storage import attestations
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.serving.versions.lifecycle import LifecycleState
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


def required(*keys: PrivateKey, policy: str = "require") -> Signing:
    return Signing(signatures=policy, trusted_keys=tuple(str(k.public) for k in keys))


def sign(repository: Repository, version: Version, key: PrivateKey) -> None:
    bundle = KeySigner(key).sign(repository.find("m", version))
    keep(repository, "m", version, key.public.id, bundle)


def signed_as(key: PrivateKey, payload: bytes) -> Bundle:
    """What the key's owner signed, whatever it is."""
    return Bundle(payload, key.sign(message(payload)), hint=key.public.hint)


def test_a_private_key_is_readable_by_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    made = PrivateKey.create(tmp_path / "key.pem")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert PrivateKey.load(tmp_path / "key.pem").public == made.public
    assert PrivateKey.load(tmp_path / "key.pem", "a passphrase of another key").public == made.public
    with pytest.raises(ConfigError, match="never overwritten"):
        PrivateKey.create(tmp_path / "key.pem")
    assert "PRIVATE" not in repr(made)


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    made = PrivateKey.create(tmp_path / "key.pem", "a passphrase")
    assert b"ENCRYPTED" in (tmp_path / "key.pem").read_bytes()
    assert PrivateKey.load(tmp_path / "key.pem", "a passphrase").public == made.public
    with pytest.raises(ConfigError, match="is encrypted: give its passphrase by --passphrase-file"):
        PrivateKey.load(tmp_path / "key.pem")
    with pytest.raises(ConfigError, match="the passphrase is wrong"):
        PrivateKey.load(tmp_path / "key.pem", "another")


def test_a_trusted_key_is_a_pem_file_or_base64(tmp_path: Path, key: PrivateKey) -> None:
    (tmp_path / "public.pem").write_text(key.public.pem)
    assert PublicKey.parse(str(tmp_path / "public.pem")) == PublicKey.parse(str(key.public)) == key.public
    other = ec.generate_private_key(ec.SECP256K1()).public_key()
    encoded = other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "bitcoin.pem").write_bytes(encoded)
    for wrong in (tmp_path / "bitcoin.pem", tmp_path / "nothing.pem", tmp_path / "key.pem", "AAAA", "MAAA", "\0"):
        with pytest.raises(ConfigError):
            PublicKey.parse(str(wrong))
    with pytest.raises(ConfigError, match="holds no private key that signs models"):
        PrivateKey.load(tmp_path / "public.pem")


def test_keys_of_another_kind_are_refused_with_the_kinds_that_are_taken(tmp_path: Path) -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(other.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public = other.public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "pub.pem").write_bytes(public.public_bytes(pem, form))
    for read in (
        lambda: PrivateKey.load(tmp_path / "key.pem"),
        lambda: PublicKey.parse(str(tmp_path / "pub.pem")),
        lambda: PublicKey.parse(base64.b64encode(public.public_bytes(serialization.Encoding.DER, form)).decode()),
    ):
        with pytest.raises(ConfigError, match=r"expected an elliptic-curve key \(P-256, P-384 or P-521\)"):
            read()


def test_what_lies_beside_a_version_is_no_part_of_it(repository, key: PrivateKey, publish_model) -> None:
    digest = publish_model("m", "1.0.0", scaled(1))
    sign(repository, ONE, key)
    assert repository.verify("m", ONE).digest == digest
    listing = repository.scan()
    assert (len(listing.published), listing.problems) == (1, ())


def _statement(bundle: Bundle, change: Callable[[dict], object]) -> bytes:
    body = json.loads(bundle.payload)
    change(body)
    return json.dumps(body).encode()


def _resources(body: dict) -> list[dict]:
    return body["predicate"]["resources"]


UNFIT: dict[str, Callable[[Bundle, PrivateKey, PrivateKey], bytes]] = {
    "empty": lambda *_: b"",
    "not json": lambda *_: b"{",
    "a list": lambda *_: b"[1]",
    "deep": lambda *_: b"[" * 100_000,
    "no text": lambda *_: b"\xff\xfe\0",
    "no bundle": lambda *_: b"{}",
    "fields of other types": lambda *_: b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",'
    b'"verificationMaterial":[],"dsseEnvelope":7}',
    "another media type": lambda made, *_: made.to_bytes().replace(b"v0.3+json", b"v0.9+json"),
    "another payload type": lambda made, *_: made.to_bytes().replace(b"vnd.in-toto", b"vnd.other"),
    "keyless": lambda made, *_: made.to_bytes().replace(b'"publicKey"', b'"certificate"'),
    "no signatures": lambda made, *_: json.dumps(
        (body := json.loads(made.to_bytes())) | {"dsseEnvelope": body["dsseEnvelope"] | {"signatures": []}}
    ).encode(),
    "two signatures": lambda made, *_: json.dumps(
        (body := json.loads(made.to_bytes()))
        | {"dsseEnvelope": body["dsseEnvelope"] | {"signatures": body["dsseEnvelope"]["signatures"] * 2}}
    ).encode(),
    "a byte of the signature": lambda made, *_: replace(
        made, signature=made.signature[:-1] + bytes([made.signature[-1] ^ 1])
    ).to_bytes(),
    "no signature at all": lambda made, *_: replace(made, signature=b"").to_bytes(),
    "a byte of the payload": lambda made, *_: replace(
        made, payload=made.payload.replace(b'"model.onnx"', b'"model.onny"')
    ).to_bytes(),
    "another key's hint": lambda made, _, other: replace(made, hint=other.public.hint).to_bytes(),
    "another key's signature": lambda made, key, other: replace(
        signed_as(other, made.payload), hint=key.public.hint
    ).to_bytes(),
    "another key's signature, no hint": lambda made, _, other: replace(
        signed_as(PrivateKey(ec.generate_private_key(ec.SECP256R1())), made.payload), hint=""
    ).to_bytes(),
    "signed: nothing": lambda made, key, _: signed_as(key, b"").to_bytes(),
    "signed: another type": lambda made, key, _: signed_as(
        key, made.payload.replace(b"signature/v1.0", b"Digests/v0.1")
    ).to_bytes(),
    "signed: shards": lambda made, key, _: signed_as(key, made.payload.replace(b'"files"', b'"shards"')).to_bytes(),
    "signed: blake3": lambda made, key, _: signed_as(
        key, made.payload.replace(b'"algorithm": "sha256"', b'"algorithm": "blake3"')
    ).to_bytes(),
    "signed: a file twice": lambda made, key, _: signed_as(
        key, _statement(made, lambda body: _resources(body).append(_resources(body)[0]))
    ).to_bytes(),
    "signed: contradicts itself": lambda made, key, _: signed_as(
        key, _statement(made, lambda body: _resources(body).reverse())
    ).to_bytes(),
    "signed: a file left out": lambda made, key, _: signed_as(
        key,
        Statement("1.0.0", {p: d for p, d in made.statement.files.items() if p != "model.onnx"}).payload(),
    ).to_bytes(),
    "signed: a file more": lambda made, key, _: signed_as(
        key, Statement("1.0.0", dict(made.statement.files) | {"more.data": f"sha256:{'0' * 64}"}).payload()
    ).to_bytes(),
    "signed: other bytes": lambda made, key, _: signed_as(
        key, Statement("1.0.0", dict(made.statement.files) | {"model.onnx": f"sha256:{'0' * 64}"}).payload()
    ).to_bytes(),
    "signed: no manifest": lambda made, key, _: signed_as(
        key,
        Statement("1.0.0", {p: d for p, d in made.statement.files.items() if p != "manifest.json"}).payload(),
    ).to_bytes(),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNFIT)
def test_what_is_no_signature_of_the_version_counts_for_nothing(
    repository, key: PrivateKey, stranger: PrivateKey, publish_model, kind: str
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    published = repository.find("m", ONE)
    data = UNFIT[kind](KeySigner(key).sign(published), key, stranger)
    attestations.write(repository, "m", ONE, f"bundle-{key.public.id}.sigstore.json", data)
    trust = Trust.of(required(key, stranger))
    with pytest.raises(NotTrusted, match=r"m 1\.0\.0: ") as caught:
        trust.check(repository, published)
    assert len(caught.value.message) < 400
    (found,) = trust.signed(repository, published)
    assert found.key, "it is named"
    with pytest.raises((InvalidRequest, Conflict)):
        MadeElsewhere.read(data, key.public).sign(published)  # nor does a server take it


def _places(body: object, where: tuple = ()) -> Iterator[tuple]:
    yield where
    items = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for name, value in items:
        yield from _places(value, (*where, name))


def _put(body: Any, where: tuple, value: object) -> Any:
    if not where:
        return value
    changed = copy.deepcopy(body)
    *to, last = where
    functools.reduce(lambda inner, name: inner[name], to, changed)[last] = value
    return changed


def test_whatever_stands_in_whichever_place_is_told_and_not_stumbled_over(
    repository, key: PrivateKey, publish_model
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    published = repository.find("m", ONE)
    made, trust = KeySigner(key).sign(published), Trust.of(required(key))
    outer, inner = json.loads(made.to_bytes()), json.loads(made.payload)
    values = (None, True, 7, -1.5, "", "x", "\x1b[2J\n", "\ud800", [], [[]], {}, {"a": 1}, "0" * 64)
    tried, reasons = 0, set[str]()
    for value in values:
        bundles = [json.dumps(_put(outer, where, value)).encode() for where in _places(outer)]
        payloads = [json.dumps(_put(inner, where, value)).encode() for where in _places(inner)]
        bundles += [signed_as(key, payload).to_bytes() for payload in payloads]
        for data in bundles:
            tried += 1
            with suppress(ValueError):
                found = trust.judge(published, Bundle.from_bytes(data))
                reasons.add(found.key + found.why)
            try:
                MadeElsewhere.read(data, key.public).sign(published)
            except (InvalidRequest, Conflict) as error:
                reasons.add(error.message)
    assert tried > 400
    assert len(reasons) > 20
    assert all(text.isprintable() for text in reasons), "what a stranger wrote does nothing to a terminal"


def test_a_huge_file_in_the_place_of_a_signature_is_not_read(repository, key: PrivateKey, publish_model) -> None:
    publish_model("m", "1.0.0", scaled(1))
    sign(repository, ONE, key)
    file = next(attestations.directory(repository, "m", ONE).glob("bundle-*"))
    with file.open("r+b") as opened:
        opened.truncate(1 << 40)  # a hole
    with pytest.raises(NotTrusted, match="it is not signed"):
        Trust.of(required(key)).check(repository, repository.find("m", ONE))


def test_the_signature_of_another_version_is_none(repository, key: PrivateKey, publish_model) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(1))
    published = repository.find("m", TWO)
    keep(repository, "m", TWO, key.public.id, KeySigner(key).sign(repository.find("m", ONE)))
    with pytest.raises(
        NotTrusted, match=r"the signature of \w+ is not one of this version, it is one of other content"
    ):
        Trust.of(required(key)).check(repository, published)


def test_only_a_trusted_key_counts(repository, key: PrivateKey, stranger: PrivateKey, publish_model) -> None:
    publish_model("m", "1.0.0", scaled(1))
    published = repository.find("m", ONE)
    trust = Trust.of(required(key))
    with pytest.raises(NotTrusted, match=r"it is not signed, and signing\.signatures asks for that"):
        trust.check(repository, published)
    sign(repository, ONE, stranger)
    with pytest.raises(NotTrusted, match=f"it is signed by {stranger.public.id} only: which is not trusted"):
        trust.check(repository, published)
    sign(repository, ONE, key)
    assert {one.key: str(one.worth) for one in trust.check(repository, published)} == {
        key.public.id: "trusted",
        stranger.public.id: "unknown key",
    }
    assert len(Trust().check(repository, published)) == 2


@pytest.mark.parametrize("policy", ["require", "warn"])
def test_to_ask_for_signatures_and_trust_nobody_is_an_error(policy: str) -> None:
    with pytest.raises(ConfigError, match=f'is "{policy}", and neither signing.trusted_keys nor'):
        Trust.of(Signing(signatures=policy))


def test_an_unsigned_version_is_not_published_where_a_signature_is_required(
    repository, tmp_path: Path, key: PrivateKey, stranger: PrivateKey
) -> None:
    source = save(scaled(1), tmp_path / "m.onnx")
    wanted = PublishRequest("m", ONE, source)
    for signer in (None, KeySigner(stranger)):
        gates = (*DEFAULT_GATES, SignatureGate(Trust.of(required(key)), repository, signer))
        with pytest.raises(InvalidModel, match="gate signature failed") as caught:
            publish(repository, wanted, gates=gates)
        assert [violation.field for violation in caught.value.violations] == ["signature"]
        assert repository.published() == ()
    gate = SignatureGate(Trust.of(required(key)), repository, KeySigner(key))
    result = publish(
        repository,
        wanted,
        gates=(*DEFAULT_GATES, gate),
        attest=lambda candidate: keep(
            repository, "m", ONE, key.public.id, KeySigner(key).sign(Published(candidate.manifest, candidate.digest))
        ),
    )
    assert result.report.results[-1].verdict.evidence == f"signed by {key.public.id}"
    Trust.of(required(key)).check(repository, repository.find("m", ONE))


def test_where_signatures_are_asked_for_without_force_the_gate_warns(repository, tmp_path: Path, key) -> None:
    gate = SignatureGate(Trust.of(required(key, policy="warn")), repository)
    wanted = PublishRequest("m", ONE, save(scaled(1), tmp_path / "m.onnx"))
    verdict = publish(repository, wanted, gates=(*DEFAULT_GATES, gate)).report.results[-1].verdict
    assert (verdict.outcome, verdict.evidence) == ("warned", "it is not signed, and signing.signatures asks for that")


def test_however_many_strangers_sign_what_a_trusted_key_signed_counts(
    repository, key: PrivateKey, stranger: PrivateKey, publish_model
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    published = repository.find("m", ONE)
    sign(repository, ONE, key)
    theirs = KeySigner(stranger).sign(published)
    for number in range(60):
        keep(repository, "m", ONE, f"{number:016x}", theirs)
    found = Trust.of(required(key)).check(repository, published)
    assert len(found) <= 33, "the others are not even read"


def test_a_link_in_the_place_of_a_signature_is_not_followed(
    repository, tmp_path: Path, key: PrivateKey, publish_model
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    published = repository.find("m", ONE)
    outside = tmp_path / "signature.json"
    outside.write_bytes(KeySigner(key).sign(published).to_bytes())
    home = attestations.directory(repository, "m", ONE)
    home.mkdir(parents=True, exist_ok=True)
    (home / "bundle-x.sigstore.json").symlink_to(outside)
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
        "m 2.0.0 could not be loaded: m 2.0.0: it is not signed, and signing.signatures asks for that"
    )


async def test_an_unsigned_version_is_served_with_a_warning_where_the_policy_says_so(
    publish_model, start_server, key: PrivateKey, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(signing=required(key, policy="warn"))
    assert server.services.catalog.snapshot.models["m"].versions[ONE].state is LifecycleState.READY
    logged = [line for line in capsys.readouterr().err.splitlines() if "not signed as required" in line]
    assert len(logged) == 1
    assert "it is not signed, and signing.signatures asks for that" in logged[0]


async def test_a_version_that_is_signed_later_is_served_within_a_moment(
    repository, models: Path, publish_model, start_server, key: PrivateKey
) -> None:
    digest = publish_model("m", "1.0.0", scaled(1))
    server = await start_server(signing=required(key))
    sign(repository, ONE, key)
    with StateStore.open(Settings(models=models).state_url) as store:
        store.record_signed("m", ONE, digest, key.public.id, actor="ada", reason="")
    catalog = server.services.catalog
    async with asyncio.timeout(100):
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
            await asyncio.to_thread(
                server.parts.rollouts.release_writer.set_tag, "m", f"t{number}", ONE, actor="ada", reason=""
            )
            while f"t{number}" not in catalog.snapshot.models["m"].model_releases.tags:
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
        await start_server(signing=Signing(signatures="require", trusted_keys=("no/such/key.pem",)))


def test_a_signature_comes_back_as_it_was_made(repository, key: PrivateKey, publish_model) -> None:
    publish_model("m", "1.0.0", scaled(1))
    published = repository.find("m", ONE)
    made = KeySigner(key).sign(published)
    assert Bundle.from_bytes(made.to_bytes()) == made
    assert made.statement == Statement.of(published)
    assert MadeElsewhere.read(made.to_bytes(), key.public).sign(published) == made
