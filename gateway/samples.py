"""Samples: bodies of a few requests, whose items are counted in a process of its own.

A worker takes them (`dataplane.exchange.item_sampler`), control passes them on
(`control.sampling`), and the decoder (`gateway.decoder`) answers. This is what they tell each
other.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

MAX_SAMPLE_BYTES: Final = 1024 * 1024
"""The longest body that is a sample. Senders' batches are a hundred times smaller, as a rule."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One request's body as it came, and what its head says about it. All of it is the sender's."""

    signal: str
    is_grpc: bool
    content_type: str
    encoding: str
    """Content-Encoding, or grpc-encoding."""
    body: bytes

    def __repr__(self) -> str:
        """Omit the body, because errors print messages."""
        return f"Sample({self.signal}, {len(self.body)} bytes)"


class SampleResult(enum.StrEnum):
    """What became of a sample: the label `result` of `gateway_usage_samples_total`."""

    COUNTED = "counted"
    DAMAGED = "damaged"
    """It is not what its head says, or no OTLP."""
    UNSUPPORTED = "unsupported"
    """The decoder does not know its encoding or content type."""
    TOO_LARGE = "too_large"
    """The body is longer than `MAX_SAMPLE_BYTES`, or much longer when it is decompressed."""
    FAILED = "failed"
    """The decoder died of it, or did not answer."""
    DROPPED = "dropped"
    """There was no time or memory for it."""


class Counted(msgspec.Struct, frozen=True, array_like=True):
    """The decoder's answer."""

    result: SampleResult
    items: int = 0
