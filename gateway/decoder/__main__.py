"""Reads samples from standard input and answers each on standard output, until the input ends.

A message is a 4-byte length before msgpack. The process has the lowest priority and bounds that it
sets itself: memory, no files. A sample that takes more ends the process, and control starts the
next one.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from typing import BinaryIO, Final

import msgspec

from gateway.decoder.counting import count
from gateway.samples import Counted, Sample, SampleResult

MEMORY_BYTES: Final = 768 * 1024 * 1024
"""Of addresses, of which what is imported takes a part."""
_NOT_NEEDED: Final = (
    resource.RLIMIT_CORE,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,  # no connections either
    resource.RLIMIT_NPROC,
)
_LENGTH_BYTES: Final = 4
_LOWEST_PRIORITY: Final = 19


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer all samples."""
    decode = msgspec.msgpack.Decoder(Sample).decode
    encode = msgspec.msgpack.Encoder().encode
    while head := requests.read(_LENGTH_BYTES):
        sample = decode(requests.read(int.from_bytes(head, "big")))
        try:
            counted = count(sample)
        except MemoryError:
            counted = Counted(SampleResult.TOO_LARGE)
        del sample
        payload = encode(counted)
        answers.write(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)
        answers.flush()


def _bound() -> None:
    """Take the lowest priority, and give up what is not needed."""
    os.nice(_LOWEST_PRIORITY)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # control ends it, by closing its input
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for kind in _NOT_NEEDED:
        resource.setrlimit(kind, (0, 0))


def main() -> None:
    """Run until the input ends."""
    _bound()
    gc.freeze()
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(0)  # control is gone; Python would write what is left once more


if __name__ == "__main__":
    main()
