"""OpenSSF model signatures: a Sigstore bundle with a DSSE envelope, which contains an in-toto statement with the
digests of all files. Without side effects. Compatible with `model_signing` in both directions.

https://github.com/ossf/model-signing-spec
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from turnout.registry.manifest.manifest import MANIFEST_FILE
from turnout.registry.storage.listing import Published

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

MAX_CERTIFICATES = 16
"""Maximum number of certificates in a bundle: the signer's, and those between it and an authority."""

_SHA256 = "sha256:"
_HINT = re.compile(r"[0-9a-fA-F]{64}")
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Statement:
    """The signed content: all files of a directory.

    Attributes:
        name: Name of the directory. It has no meaning, and is not checked.
        files: Digest of each file by path, `sha256:` and hex digits.
    """

    name: str
    files: Mapping[str, str]

    @classmethod
    def of(cls, published: Published) -> Self:
        """Returns the statement that a version's signer makes, about all files including the manifest."""
        manifest = published.manifest
        # The manifest's file contains the canonical form, so its digest is that of the version.
        files = {entry.path: entry.digest for entry in manifest.files} | {MANIFEST_FILE: published.digest}
        return cls(str(manifest.version), files)

    def payload(self) -> bytes:
        """Returns the JSON form, as `model_signing` writes it."""
        files = sorted(self.files.items())
        body = {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": self.name, "digest": {"sha256": _root(files)}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [],
                },
                "resources": [
                    {"name": path, "algorithm": "sha256", "digest": digest.removeprefix(_SHA256)}
                    for path, digest in files
                ],
            },
        }  # fmt: skip
        return json.dumps(body, ensure_ascii=False).encode()

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Reads the JSON form, as `payload` or `model_signing` writes it.

        Raises:
            ValueError: The payload has another form; the message says which.
        """
        body = _object(payload, "its statement")
        try:
            if body["_type"] != STATEMENT_TYPE or body["predicateType"] != PREDICATE_TYPE:
                raise ValueError(f"its statement is {str(body['predicateType'])[:80]!r}, expected {PREDICATE_TYPE}")
            (subject,) = body["subject"]
            predicate = body["predicate"]
            method = predicate["serialization"]["method"]
            if method != "files":
                raise ValueError(f"it signs {plain(str(method))}, expected whole files (model_signing's default)")
            files: dict[str, str] = {}
            order: list[tuple[str, str]] = []
            for resource in predicate["resources"]:
                path, algorithm, digest = resource["name"], resource["algorithm"], resource["digest"]
                if algorithm != "sha256":
                    raise ValueError(f"it hashes files by {plain(str(algorithm))}, expected sha256")
                if not isinstance(path, str) or path in files or len(bytes.fromhex(digest)) != 32:
                    raise ValueError("its statement names a file twice, or without a digest")
                files[path] = f"{_SHA256}{digest.lower()}"
                order.append((path, files[path]))
            if subject["digest"]["sha256"] != _root(order):
                raise ValueError("its statement contradicts itself")
            return cls(str(subject["name"]), files)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("its statement is not about files") from error

    def is_about(self, published: Published) -> bool:
        """Returns whether the statement is about this version, regardless of what it says about other files."""
        return self.files.get(MANIFEST_FILE) == published.digest

    def fault(self, published: Published) -> str:
        """Returns how the statement differs from the version's files; "" if it covers exactly these."""
        expected = Statement.of(published).files
        for what, paths in (
            ("does not cover", expected.keys() - self.files.keys()),
            ("covers other bytes of", {p for p in expected.keys() & self.files.keys() if expected[p] != self.files[p]}),
            ("covers files that are not part of it:", self.files.keys() - expected.keys()),
        ):
            if paths:
                more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
                return f"it {what} {', '.join(sorted(map(plain, paths))[:_NAMED])}{more}"
        return ""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A signature, with information about who made it.

    Attributes:
        payload: The signed statement in bytes.
        signature: Signature over `message`.
        hint: Identifies the key that made it: the SHA-256 of its public part as PEM, in hex. "" if there are
            certificates, or if it comes from the first releases of `model_signing`.
        certificates: The signer's certificate, as DER, and those between it and an authority; empty if a bare key
            signed.
    """

    payload: bytes
    signature: bytes
    hint: str = ""
    certificates: tuple[bytes, ...] = ()

    @property
    def message(self) -> bytes:
        """The bytes that the key signs: DSSE's pre-authentication encoding of the payload."""
        return message(self.payload)

    @property
    def statement(self) -> Statement:
        """The signed statement. Raises ValueError if it is not a statement about files."""
        return Statement.parse(self.payload)

    def to_bytes(self) -> bytes:
        """Returns the JSON form."""
        material: dict[str, Any] = {"tlogEntries": []}
        if self.certificates:
            chain = [{"rawBytes": base64.b64encode(one).decode()} for one in self.certificates]
            material["x509CertificateChain"] = {"certificates": chain}
        else:
            material["publicKey"] = {"hint": self.hint}
        body = {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": material,
            "dsseEnvelope": {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(self.signature).decode(), "keyid": ""}],
            },
        }
        return json.dumps(body).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads the JSON form, as `to_bytes` or `model_signing` writes it. Does not check the signature.

        Raises:
            ValueError: The data has another form; the message says which.
        """
        body = _object(data, "it")
        try:
            if body["mediaType"] != MEDIA_TYPE:
                raise ValueError(f"it is {str(body['mediaType'])[:80]!r}, expected {MEDIA_TYPE}")
            material, envelope = body["verificationMaterial"], body["dsseEnvelope"]
            if "certificate" in material:
                raise ValueError("it is signed without a key (Sigstore's keyless mode), which is not supported")
            if envelope["payloadType"] != PAYLOAD_TYPE:
                raise ValueError(f"its payload is {str(envelope['payloadType'])[:80]!r}, expected {PAYLOAD_TYPE}")
            (signature,) = envelope["signatures"]
            payload, value = _decoded(envelope["payload"]), _decoded(signature["sig"])
            if "x509CertificateChain" not in material:
                hint = material["publicKey"].get("hint") or ""
                if hint and not (isinstance(hint, str) and _HINT.fullmatch(hint)):
                    raise ValueError("its hint does not name a key: expected 64 hex digits")
                return cls(payload, value, hint.lower())
            chain = tuple(_decoded(one["rawBytes"]) for one in material["x509CertificateChain"]["certificates"])
            if not 0 < len(chain) <= MAX_CERTIFICATES:
                raise ValueError(f"it has {len(chain)} certificates, expected 1 to {MAX_CERTIFICATES}")
            return cls(payload, value, "", chain)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("it is not a Sigstore bundle with a model signature") from error


def message(payload: bytes) -> bytes:
    """Returns DSSE's pre-authentication encoding of a statement, which is what keys sign."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def plain(text: str) -> str:
    """Returns the beginning of an untrusted text, without characters that could affect a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text[:80])


def _root(files: list[tuple[str, str]]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digest.removeprefix(_SHA256)) for _, digest in files)).hexdigest()


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON") from error
    if not isinstance(body, dict):
        raise ValueError(f"{what} is not a JSON object")
    return body


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("it contains something that is not base64") from error
