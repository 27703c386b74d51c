"""The messages between control and its workers, framed by a 4-byte length before msgpack.

One socket pair per worker. Down: settings, key snapshot and changes, drain. Up: ready, what was
applied, a report each second. This module knows neither what the messages lead to nor who sends
them.
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
"""Keys in one message: small steps, so that neither the data path is held up for long by applying
them nor control by sending them, while it has a revocation to pass on.
"""


class Start(msgspec.Struct, tag=True, frozen=True):
    """Down, first: what to do."""

    settings: WorkerSettings


class Keys(msgspec.Struct, tag=True, frozen=True):
    """Down: a part of the whole keyring.

    The worker swaps its keyring when the part with `last` has come.
    """

    revision: int
    entries: list[KeyEntry]
    first: bool
    last: bool
    complete: bool = True
    """As in `KeyChanges`."""


class KeyChanges(msgspec.Struct, tag=True, frozen=True):
    """Down: what changed up to `revision`, or a part of it. `Applied` answers the last part.

    Tombstones are upserts with state REVOKED. A change of more than `SNAPSHOT_CHUNK` keys (a store
    was replaced) comes in parts of one revision, so that no message becomes too long.
    """

    revision: int
    upserts: list[KeyEntry]
    removals: list[bytes]
    """Digests that are forgotten altogether (tombstones past their time)."""
    last: bool = True
    complete: bool = True
    """Whether an unknown key is a definite no. False: a store is out of reach, nobody can tell."""


class Unready(msgspec.Struct, tag=True, frozen=True):
    """Down: a drain will follow. Health checks on the data listeners say no from now on;
    accepting goes on.
    """


class Drain(msgspec.Struct, tag=True, frozen=True):
    """Down: stop accepting at once, finish what is open within `timeout_s`, exit 0."""

    timeout_s: float


class Watch(msgspec.Struct, frozen=True):
    """One trace: which requests somebody wants to see. Empty fields match every request."""

    number: int
    """Tells traces apart."""
    key_id: str = ""
    network: str = ""
    """The callers' network in CIDR notation."""


class Watches(msgspec.Struct, tag=True, frozen=True):
    """Down: all traces that run now. `Traced` without lines answers each new one."""

    watches: list[Watch]


class LookedUp(msgspec.Struct, tag=True, frozen=True):
    """Down: what is known of a key that a worker asked about (`Lookup`)."""

    digest: bytes
    verdict: Literal["allowed", "denied", "undecided"]
    principal: Principal | None = None
    """Whose key it is, where it is allowed."""
    source: str = "none"
    """Whence control has it, see `metrics.SOURCES`."""
    fresh_s: float = 0.0
    """For how long a worker may use it without asking again, in seconds."""
    refresh_s: float = 0.0
    """After how long it should ask again while it still uses it, in seconds."""


class Forget(msgspec.Struct, tag=True, frozen=True):
    """Down: verdicts of a remote authority that no longer hold."""

    digests: list[bytes]


class Ready(msgspec.Struct, tag=True, frozen=True):
    """Up: keys are loaded and the listeners accept."""

    pid: int


class Applied(msgspec.Struct, tag=True, frozen=True):
    """Up: every request from now on is decided with at least this revision."""

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
    """The scheme or carrier seen, cleaned and cut to 32 characters; never a key."""
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
    """One metric's change (counters, histogram buckets) or value (gauges) of this worker.

    `labels` stand in the catalogue's order.
    """

    metric: str
    labels: tuple[str, ...]
    value: float | list[float]
    """A histogram's value is [count of bucket 0, …, count of +Inf, sum], not cumulated."""


class Report(msgspec.Struct, tag=True, frozen=True):
    """Up, once a second: heartbeat, counters' deltas, gauges' values, refusals, usage."""

    deltas: list[Series]
    gauges: list[Series]
    refusals: list[Refused]
    usage: list[Usage]


class TracedRequest(msgspec.Struct, frozen=True, array_like=True):
    """What became of one request. Fields that do not apply are empty."""

    ended_at_ms: int
    """Unix milliseconds."""
    peer: str
    protocol: str
    signal: str
    key_id: str
    bytes: int
    """Of the request's body, as it came."""
    outcome: str
    """The verdict on the key (`outcome.AuthOutcome`)."""
    result: str
    code: str
    """What the caller was answered: gRPC's name or three digits."""
    backend: str
    """The backend's address."""
    backend_code: str
    duration_s: float
    trace_id: str
    """Of the caller's own `traceparent` (W3C Trace Context)."""


class Traced(msgspec.Struct, tag=True, frozen=True):
    """Up: requests that a trace wants to see, in the order of their ends."""

    watch: int
    requests: list[TracedRequest]
    dropped: int = 0
    """Further ones, which were too many to be told."""


class Lookup(msgspec.Struct, tag=True, frozen=True):
    """Up: a key that is in no snapshot. `LookedUp` answers it."""

    digest: bytes
    key: bytes
    why: Literal["unknown", "refresh", "doubt"]
    """`refresh`: a verdict in use is about to expire; `doubt`: the backend refused the key."""

    def __repr__(self) -> str:
        """Leave the key out: messages are printed when something fails."""
        return f"Lookup({self.digest[:4].hex()}…, why={self.why!r})"


Down = Start | Keys | KeyChanges | Unready | Drain | Watches | LookedUp | Forget
Up = Ready | Applied | Report | Traced | Lookup

_encoder = msgspec.msgpack.Encoder()
_down: msgspec.msgpack.Decoder[Down] = msgspec.msgpack.Decoder(Down)
_up: msgspec.msgpack.Decoder[Up] = msgspec.msgpack.Decoder(Up)


class ChannelError(Exception):
    """The peer sent what is no message: the sides differ in version, or one has a bug."""


class Channel(asyncio.Protocol):
    """One end of a socket pair. `on_message` is called for each message, `on_closed` once.

    Messages are small or cut in parts, so `send` never waits; `drain` is for snapshots.
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
        """Make the worker's end: it receives `Down`."""
        return cls(_down, on_message, on_closed)

    @classmethod
    def for_control(
        cls, on_message: Callable[[Down | Up], None], on_closed: Callable[[], None]
    ) -> Channel:
        """Make control's end: it receives `Up`."""
        return cls(_up, on_message, on_closed)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio)."""
        transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Cut the stream into messages (asyncio).

        Raises `ChannelError` (which closes the channel) on a length or a message that cannot be.
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
            except msgspec.MsgspecError as error:
                msg = "a message that cannot be decoded on the channel"
                raise ChannelError(msg) from error
            self._on_message(message)

    def pause_writing(self) -> None:
        """Hold back `drain` (asyncio)."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `drain` go on (asyncio)."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell the owner once that the other side is gone (asyncio)."""
        self._transport = None
        self._writable.set()
        self._on_closed()

    def send(self, message: Down | Up) -> None:
        """Send one message; no effect when the other side is gone, of which `on_closed` tells."""
        if self._transport is not None:
            payload = _encoder.encode(message)
            self._transport.write(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)

    async def drain(self) -> None:
        """Wait until the other side has taken most of what was sent, and for one turn at least."""
        # A side that takes all at once would keep whoever sends much from waiting ever.
        await asyncio.sleep(0)
        await self._writable.wait()

    def hold(self) -> None:
        """Read no more for now. What has been read already is still told."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def is_writable(self) -> bool:
        """Whether the other side keeps up with what is sent."""
        return self._writable.is_set()

    def close(self) -> None:
        """Close this end after what was sent."""
        if self._transport is not None:
            self._transport.close()
