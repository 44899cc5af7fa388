"""Computes digests of manifests in their canonical form, and of files of any size."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import rfc8785

from turnout.cancellation import checkpoint
from turnout.registry.manifest.manifest import Manifest

BLOCK = 1 << 20
"""Number of bytes read at a time, which bounds the memory used to hash a file."""

Progress = Callable[[int], None]
"""Called with the number of bytes just processed, once per block."""


def canonical_bytes(manifest: Manifest) -> bytes:
    """Returns the manifest in the canonical form of RFC 8785. `manifest.json` contains exactly these bytes, so that
    `sha256sum manifest.json` prints the version's digest.

    Raises:
        ValueError: The form cannot represent a value: an integer beyond 2**53, a float that is not finite, or text that
            is not valid Unicode.
    """
    return rfc8785.dumps(manifest.to_json())


def read_canonical(data: bytes) -> Manifest:
    """Reads a manifest in its canonical form. Any other form, or a field that this release does not know, is rejected,
    because the version would then have another digest than its publisher's.

    Raises:
        ValueError: The data is not in this form. The message is a phrase that follows the name of the file.
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
    """Returns `sha256:` and the hex digest of the canonical manifest, which covers all content of the version.

    Raises:
        ValueError: As for `canonical_bytes`.
    """
    return bytes_digest(canonical_bytes(manifest))


def bytes_digest(data: bytes) -> str:
    """Returns `sha256:` and the hex digest of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def stream_digest(
    source: BinaryIO, *, copy_to: BinaryIO | None = None, progress: Progress | None = None, most: int | None = None
) -> str:
    """Reads `source` in blocks, up to its end or `most` bytes, and returns `sha256:` and the hex digest of the data.

    Each block is also written to `copy_to`, if given; then `progress` is called with its size in bytes.

    Raises:
        OSError: Reading or writing failed.
    """
    return blocks_digest(_blocks(source, most), copy_to=copy_to, progress=progress)


def blocks_digest(blocks: Iterable[bytes], *, copy_to: BinaryIO | None = None, progress: Progress | None = None) -> str:
    """Returns the digest of data that arrives in blocks. Otherwise like `stream_digest`."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
        if copy_to is not None:
            copy_to.write(block)
        checkpoint()
        if progress is not None:
            progress(len(block))
    return f"sha256:{digest.hexdigest()}"


def _blocks(source: BinaryIO, most: int | None) -> Iterator[bytes]:
    left = most
    while block := source.read(BLOCK if left is None else min(left, BLOCK)):
        left = None if left is None else left - len(block)
        yield block


def _number(text: str) -> int | float:
    # The canonical form writes the float 1e17 as an integer. Numbers beyond 2**53 are always floats.
    value = int(text)
    return value if abs(value) < 1 << 53 else float(text)
