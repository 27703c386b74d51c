"""Lists of chunks that are held: tiny ones are merged.

An object of two bytes takes 50 with its place in a list, so that a peer which sends tiny chunks
would have 25 times as much held as is charged for it.
"""

from __future__ import annotations

from typing import Final

TINY_BYTES: Final = 512
"""A chunk below this is put together with the one before it,"""
MERGED_BYTES: Final = 4 * 1024
"""as long as that is below this."""


def append(chunks: list[bytes], chunk: bytes) -> None:
    """Add a chunk behind the others."""
    if chunks and len(chunk) < TINY_BYTES and len(chunks[-1]) < MERGED_BYTES:
        chunks[-1] += chunk
    else:
        chunks.append(chunk)
