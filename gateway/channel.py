"""The messages between control and its workers, framed by a 4-byte length before msgpack.

There is one socket pair per worker. Down: settings, key snapshot and changes, drain. Up: ready,
applied revisions, a report each second. This module does not know what the messages cause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Literal, cast

import msgspec

from gateway.model import KeyEntry, Principal
from gateway.settings import WorkerSettings

_LENGTH_BYTES: Final = 4
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
SNAPSHOT_CHUNK: Final = 1_000
"""Keys in one message. Chunks are small, so that applying them does not delay requests, and sending
them does not delay a revocation.
"""


class Start(msgspec.Struct, tag=True, frozen=True):
    """Down, the first message: the worker's settings."""

    settings: WorkerSettings


class Keys(msgspec.Struct, tag=True, frozen=True):
    """Down: a part of the whole keyring.

    The worker swaps its keyring when the part with `last` has arrived.
    """

    revision: int
    entries: list[KeyEntry]
    first: bool
    last: bool
    complete: bool = True
    """As in `KeyChanges`."""


class KeyChanges(msgspec.Struct, tag=True, frozen=True):
    """Down: the changes up to `revision`, or a part of them. `Applied` confirms the last part.

    Tombstones are upserts with state REVOKED. A change of more than `SNAPSHOT_CHUNK` keys (a store
    was replaced) is sent in parts with one revision, so that no message is too long.
    """

    revision: int
    upserts: list[KeyEntry]
    removals: list[bytes]
    """Digests that are removed completely (expired tombstones)."""
    last: bool = True
    complete: bool = True
    """Whether an unknown key is a definite no. False: a store is unreachable, so undecided."""


class Unready(msgspec.Struct, tag=True, frozen=True):
    """Down: a drain will follow. Health checks on the listeners fail from now on, and answers over
    HTTP/1.1 say `Connection: close`, but the worker still accepts.
    """


class Drain(msgspec.Struct, tag=True, frozen=True):
    """Down: stop accepting, finish open requests within `timeout_s`, exit with status 0.

    `is_replaced`: another worker accepts meanwhile, so that held requests may take that time, too.
    A drain without it may follow, which ends their waiting.
    """

    timeout_s: float
    is_replaced: bool = False


class Watch(msgspec.Struct, frozen=True):
    """One trace: which requests to report. Empty fields match every request."""

    number: int
    """Identifies the trace."""
    key_id: str = ""
    network: str = ""
    """The senders' network in CIDR notation."""


class Watches(msgspec.Struct, tag=True, frozen=True):
    """Down: all running traces. `Traced` without requests confirms each new one."""

    watches: list[Watch]


class LookedUp(msgspec.Struct, tag=True, frozen=True):
    """Down: the verdict on a key that a worker has asked for (`Lookup`)."""

    digest: bytes
    verdict: Literal["allowed", "denied", "undecided"]
    principal: Principal | None = None
    """The key's principal, if it is allowed."""
    source: str = "none"
    """The source of the verdict, see `metrics.SOURCES`."""
    fresh_s: float = 0.0
    """How long a worker may use the verdict, in seconds."""
    refresh_s: float = 0.0
    """After how long a worker should ask again while it still uses the verdict, in seconds."""
    refusal: str = ""
    """The reason in `outcome.REFUSALS` of a token that is denied."""


class Forget(msgspec.Struct, tag=True, frozen=True):
    """Down: verdicts on keys of a remote authority, or on tokens, that are no longer valid."""

    digests: list[bytes]


class Revoked(msgspec.Struct, tag=True, frozen=True):
    """Down: a part of all client certificates that are revoked, see `certificate_ids`.

    They count from the part with `last` on.
    """

    ids: list[bytes]
    first: bool
    last: bool


class Ready(msgspec.Struct, tag=True, frozen=True):
    """Up: keys are loaded and the listeners accept."""

    pid: int


class Applied(msgspec.Struct, tag=True, frozen=True):
    """Up: the worker uses at least this revision for every request from now on."""

    revision: int


class Refused(msgspec.Struct, frozen=True):
    """Refusals of one (who, reason) since the last report.

    `who` is the digest's first 8 hex digits, else the peer's network.
    """

    who: str
    reason: str
    """The auth outcome, e.g. key_unknown."""
    count: int
    peer: str
    scheme: str
    """The scheme or header of the credential, sanitized, at most 32 characters; never a key."""
    key_id: str
    digest_prefix: str
    protocol: str
    signal: str


class Usage(msgspec.Struct, frozen=True):
    """One key's traffic since the last report."""

    key_id: str
    outcome: str
    requests: int
    bytes: int
    last_used_ms: int


class Series(msgspec.Struct, frozen=True, array_like=True):
    """The change (counters, histogram buckets) or value (gauges) of one metric of this worker.

    `labels` are in the catalogue's order.
    """

    metric: str
    labels: tuple[str, ...]
    value: float | list[float]
    """A histogram's value is [count of bucket 0, …, count of +Inf, sum], not cumulative."""


class Report(msgspec.Struct, tag=True, frozen=True):
    """Up, once a second: heartbeat, counters' deltas, gauges' values, refusals, usage."""

    deltas: list[Series]
    gauges: list[Series]
    refusals: list[Refused]
    usage: list[Usage]


class TracedRequest(msgspec.Struct, frozen=True, array_like=True):
    """One completed request. Fields that do not apply are empty."""

    ended_at_ms: int
    """Unix milliseconds."""
    peer: str
    protocol: str
    signal: str
    key_id: str
    bytes: int
    """Size of the request's body, as received."""
    outcome: str
    """The verdict on the key (`outcome.AuthOutcome`)."""
    result: str
    code: str
    """The status of the response: gRPC's name or three digits."""
    backend: str
    """The backend's address."""
    backend_code: str
    duration_s: float
    trace_id: str
    """From the sender's own `traceparent` (W3C Trace Context)."""


class Traced(msgspec.Struct, tag=True, frozen=True):
    """Up: requests that match a trace, in the order of their completion."""

    watch: int
    requests: list[TracedRequest]
    dropped: int = 0
    """Number of further requests, beyond the rate limit."""


class Lookup(msgspec.Struct, tag=True, frozen=True):
    """Up: a key that is not in the keyring, or a token. `LookedUp` is the response."""

    digest: bytes
    key: bytes
    why: Literal["unknown", "refresh", "doubt"]
    """`refresh`: a verdict in use is about to expire; `doubt`: the backend refused the key."""
    is_token: bool = False
    """Whether `key` is a token of an identity provider (a JWT)."""

    def __repr__(self) -> str:
        """Omit the key, because errors print messages."""
        return f"Lookup({self.digest[:4].hex()}…, why={self.why!r})"


class SenderSeen(msgspec.Struct, tag=True, frozen=True):
    """Up: whom a client's certificate names, at the first of its connections."""

    key_id: str
    name: str
    owner: str
    labels: dict[str, str]


Down = Start | Keys | KeyChanges | Unready | Drain | Watches | LookedUp | Forget | Revoked
Up = Ready | Applied | Report | Traced | Lookup | SenderSeen

_encoder = msgspec.msgpack.Encoder()
_down: msgspec.msgpack.Decoder[Down] = msgspec.msgpack.Decoder(Down)
_up: msgspec.msgpack.Decoder[Up] = msgspec.msgpack.Decoder(Up)


class ChannelError(Exception):
    """The peer sent an invalid message: the sides differ in version, or one has a bug."""


class Channel(asyncio.Protocol):
    """One end of a socket pair. `on_message` is called for each message, `on_closed` once.

    Messages are small or sent in parts, so `send` never waits; `drain` is for snapshots.
    """

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[Down] | msgspec.msgpack.Decoder[Up],
        on_message: Callable[[Down | Up], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._decoder = decoder
        self._on_message = on_message
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._writable = asyncio.Event()
        self._writable.set()

    @classmethod
    def for_worker(
        cls, on_message: Callable[[Down | Up], None], on_closed: Callable[[], None]
    ) -> Channel:
        """Create the worker's end: it receives `Down`."""
        return cls(_down, on_message, on_closed)

    @classmethod
    def for_control(
        cls, on_message: Callable[[Down | Up], None], on_closed: Callable[[], None]
    ) -> Channel:
        """Create control's end: it receives `Up`."""
        return cls(_up, on_message, on_closed)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio)."""
        transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Split the stream into messages (asyncio).

        Raises `ChannelError` (which closes the channel) on an invalid length or message.
        """
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(buffer[:_LENGTH_BYTES], "big")
            if length > MAX_MESSAGE_BYTES:
                msg = f"a message of {length} bytes on the channel"
                raise ChannelError(msg)
            end = _LENGTH_BYTES + length
            if len(buffer) < end:
                return
            payload = bytes(buffer[_LENGTH_BYTES:end])
            del buffer[:end]
            try:
                message = self._decoder.decode(payload)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                msg = "a message that cannot be decoded on the channel"
                raise ChannelError(msg) from error
            self._on_message(message)

    def pause_writing(self) -> None:
        """Make `drain` wait (asyncio)."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `drain` continue (asyncio)."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Call `on_closed`: the other side is gone (asyncio)."""
        self._transport = None
        self._writable.set()
        self._on_closed()

    def send(self, message: Down | Up) -> None:
        """Send one message; no effect if the other side is gone (`on_closed` is called then)."""
        if self._transport is not None:
            payload = _encoder.encode(message)
            self._transport.write(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)

    async def drain(self) -> None:
        """Wait until the other side has read most of what was sent, at least one loop iteration."""
        # If the other side reads fast, `_writable` stays set and a long transfer would never yield.
        await asyncio.sleep(0)
        await self._writable.wait()

    def hold(self) -> None:
        """Pause reading. Messages that have been read already are still delivered."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Resume reading."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def is_writable(self) -> bool:
        """Whether the other side keeps up with the messages."""
        return self._writable.is_set()

    def close(self) -> None:
        """Close this end after all sent messages are written."""
        if self._transport is not None:
            self._transport.close()
