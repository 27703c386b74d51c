"""Which way the gateway's decoder takes with each encoder's header blocks: a count, no timing.

A block is read by its fields' bytes, without a table, or in full, with one (`gateway/wire/hpack.py`
says when). The first is several times cheaper. `python -m bench.decoder_paths` prints the counts as
JSON. It reads the plain Python sources, from which the compiled ones are made: a compiled class
cannot be looked into.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from bench import heads
from bench.heads import HeaderBlocks
from bench.run_file import Paths

_PURE = "GATEWAY_PURE_PYTHON"
_REQUESTS = 64


def count() -> dict[str, Paths]:
    """Count in a process of its own, by encoder.

    Raises:
        subprocess.CalledProcessError: the decoder refuses a block.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.decoder_paths"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, _PURE: "1"},
        capture_output=True,
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=dict[str, Paths])


def _paths(client: str, connections: list[list[bytes]]) -> Paths:
    """Read connections' blocks as the gateway's HTTP/2 server does."""
    # Not before: only this function's process has plain classes for certain.
    from gateway.dataplane.auth.credentials import CredentialReader  # noqa: PLC0415 - see above
    from gateway.dataplane.core.heads import FieldKinds  # noqa: PLC0415 - see above
    from gateway.dataplane.http2.request_head import HeadReader, KnownFields  # noqa: PLC0415 - see above
    from gateway.wire import hpack  # noqa: PLC0415 - see above

    class Counting(hpack.BlockDecoder):
        """Counts the blocks that are decoded in full."""

        in_full = 0

        def decode(self, block: bytes) -> list[hpack.Pair]:
            self.in_full += 1
            return super().decode(block)

    known = KnownFields(CredentialReader(["StackState"]), FieldKinds())
    in_full = total = 0
    for blocks in connections:
        decoder = Counting()
        decoder.acknowledge()
        reader = HeadReader(decoder, known)
        for block in blocks:
            reader.read(block)
        in_full += decoder.in_full
        total += len(blocks)
    return Paths(client, total - in_full, in_full)


def _made(*, is_plain: bool) -> list[list[bytes]]:
    blocks = HeaderBlocks("127.0.0.1:4317", None, 4, is_plain=is_plain)
    writer = blocks.writer()
    writer.told()
    return [[writer.block(number) for number in range(_REQUESTS)]]


def main() -> None:
    """Print the counts of all recorded encoders, and of those that the bench makes."""
    counted = {}
    for name in heads.recorded():
        recording = heads.Recording.load(name)
        counted[name] = _paths(recording.client, recording.connections)
    title = ".NET's HttpClient, as written by the bench"
    counted[heads.NEVER_SIGNALS] = _paths(title, _made(is_plain=True))
    print(json.dumps({name: msgspec.to_builtins(each) for name, each in counted.items()}))


if __name__ == "__main__":
    main()
