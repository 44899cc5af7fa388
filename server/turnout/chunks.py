"""Collects the chunks of a message in little more memory than their bytes. Pure."""

from collections.abc import MutableSequence

_SMALL_BYTES = 4096


def add_chunk(chunks: MutableSequence[bytes], chunk: bytes) -> None:
    """Appends a chunk, joining it to the previous one while the two are small.

    Each `bytes` object takes 33 bytes in addition to its contents, and a client decides how small the chunks are. Sent
    in chunks of 2 bytes, a message would take 20 times its size, which the limits on the sizes of messages do not take
    into account.
    """
    if chunks and len(chunks[-1]) + len(chunk) <= _SMALL_BYTES:
        chunks[-1] += chunk
    else:
        chunks.append(chunk)
