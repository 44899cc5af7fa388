"""Digests: of a manifest in its canonical form, and of files of any size."""

import hashlib
import json
from collections.abc import Callable
from typing import BinaryIO

import rfc8785

from turnout.cancellation import checkpoint
from turnout.registry.manifest.manifest import Manifest

BLOCK = 1 << 20
"""Bytes that are read at a time, and so all the memory that hashing a file takes."""

Progress = Callable[[int], None]
"""Called with the number of bytes that were just dealt with, once a block."""


def canonical_bytes(manifest: Manifest) -> bytes:
    """Returns the manifest in the canonical form of RFC 8785. `manifest.json` holds exactly these bytes, so that
    `sha256sum manifest.json` prints the version's digest.

    Raises:
        ValueError: The form has no room for a value: an integer beyond 2**53, a float that is not finite, text that is
            no Unicode.
    """
    return rfc8785.dumps(manifest.to_json())


def read_canonical(data: bytes) -> Manifest:
    """Reads what `canonical_bytes` wrote, and nothing else: any other spelling, or a field that this release does not
    know, would have the version go by another digest than its publisher's.

    Raises:
        ValueError: It is not that; the message is half a sentence that follows the file's name.
    """
    try:
        body = json.loads(data, parse_int=_number)
    except (ValueError, RecursionError) as error:
        raise ValueError("is not JSON") from error
    try:
        manifest = Manifest.from_json(body)
        canonical = canonical_bytes(manifest)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not a manifest that this release reads: {error}") from error
    if canonical != data:
        raise ValueError("is not in its canonical form, or a later release of Turnout wrote it")
    return manifest


def manifest_digest(manifest: Manifest) -> str:
    """Returns `sha256:` and the hex digest of the canonical manifest: it pins the version's whole content.

    Raises:
        ValueError: As `canonical_bytes`.
    """
    return bytes_digest(canonical_bytes(manifest))


def bytes_digest(data: bytes) -> str:
    """Returns `sha256:` and the hex digest of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def stream_digest(
    source: BinaryIO, *, copy_to: BinaryIO | None = None, progress: Progress | None = None, most: int | None = None
) -> str:
    """Reads `source` in blocks, up to its end or to `most` bytes, and returns `sha256:` and the hex digest.

    The bytes are also written to `copy_to`, if given.

    Raises:
        OSError: Reading or writing failed.
    """
    digest = hashlib.sha256()
    left = most
    while block := source.read(BLOCK if left is None else min(left, BLOCK)):
        left = None if left is None else left - len(block)
        digest.update(block)
        if copy_to is not None:
            copy_to.write(block)
        checkpoint()
        if progress is not None:
            progress(len(block))
    return f"sha256:{digest.hexdigest()}"


def _number(text: str) -> int | float:
    # The canonical form writes the float 1e17 as an integer; beyond 2**53 its numbers are floats.
    value = int(text)
    return value if abs(value) < 1 << 53 else float(text)
