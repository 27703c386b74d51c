"""Parsers with a memory, in any order of what they are given: as good as new ones."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import hpack as library
import pytest
import yaml
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway import config
from gateway.channel import Applied, Channel, Down, Drain, Forget, Keys, Ready, Unready, Up
from gateway.dataplane.accept.proxy_header import (
    SIGNATURE,
    HeaderReader,
    ProxyHeader,
    ProxyHeaderError,
    parse,
)
from gateway.dataplane.auth.credentials import CredentialReader, choose
from gateway.wire import hpack
from tests.fuzz.worlds import MemoryTransport
from tests.support.plane import KEY, SCHEMES, entry

SETTINGS = settings(max_examples=50, stateful_step_count=20, deadline=None)
_TEXT = st.sampled_from(["", "a", "x-custom", "application/grpc", "b" * 200, "\u00e9"])
_FIELDS = st.lists(
    st.tuples(st.sampled_from(["content-type", "x-a", "x-b", "authorization", ":path"]), _TEXT),
    max_size=6,
)


class HeaderBlocks(RuleBasedStateMachine):
    """One connection's blocks from the library's encoder, whose table shrinks and grows.

    The library signals each change between two blocks, and none if the last was to the same size.
    So it is told what RFC 7541 §4.2 asks for: the smallest size, and the last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = library.Encoder()
        self.decoder = hpack.BlockDecoder()
        self.sizes: list[int] = []
        """Sizes of the table since the last block."""

    def signal_sizes(self) -> None:
        sizes = [min(self.sizes), self.sizes[-1]] if self.sizes else []
        for size in sizes:
            if size != self.encoder.header_table_size:
                self.sizes.append(size)
        self.sizes = []

    @rule(fields=_FIELDS, is_huffman=st.booleans())
    def block(self, fields: list[tuple[str, str]], is_huffman: bool) -> None:
        self.signal_sizes()
        encoded = self.encoder.encode(fields, huffman=is_huffman)
        raws = hpack.split(encoded)
        was_stateless = self.decoder.is_stateless

        decoded = self.decoder.decode(encoded)

        assert decoded == [(name.encode(), value.encode()) for name, value in fields]
        if was_stateless and raws is not None:
            assert [hpack.decode_field(raw) for raw in raws] == decoded

    @rule(size=st.sampled_from([0, 40, 100, 4_096]))
    def change_size(self, size: int) -> None:
        if not self.decoder.is_stateless:
            self.sizes.append(size)

    @rule()
    def acknowledge(self) -> None:
        """Follow the announced size, as a peer does that has read our SETTINGS."""
        self.sizes.append(0)
        self.decoder.acknowledge()


class Credentials(RuleBasedStateMachine):
    """A reader that has forgotten most of what it knew says what a new one says."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = CredentialReader(SCHEMES, kept=3)

    @rule(
        name=st.sampled_from([b"authorization", b"sts-api-key", b"dd-api-key"]),
        word=st.sampled_from([b"", b"StackState ", b"stackstate  ", b"Bearer ", b"Basic ", b" "]),
        key=st.sampled_from([KEY.encode(), b"k", b"", b"k" * 600, b"\xff", b"YXBpa2V5Oms="]),
        is_raw=st.booleans(),
    )
    def read(self, name: bytes, word: bytes, key: bytes, is_raw: bool) -> None:
        value = word + key
        fresh = CredentialReader(SCHEMES).read(name, value)
        if is_raw:
            found = self.reader.read_raw(hpack.encode_field(name, value))
            assert found._replace(is_verbatim=True) == fresh
        else:
            found = self.reader.read(name, value)
            assert found._replace(is_verbatim=True) == fresh._replace(is_verbatim=True)
        assert choose([found]) is found
        assert choose([found, found]).digest in {found.digest, None}


_V1 = b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 4317\r\n"
_V2 = SIGNATURE + b"\x21\x11\0\x0c" + bytes([203, 0, 113, 7, 10, 0, 0, 1]) + b"\xc8\x22\x10\xdd"


class ProxyHeaders(RuleBasedStateMachine):
    """A header comes in pieces, with the next protocol's bytes right behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.theirs, self.ours = socket.socketpair()
        self.ours.setblocking(False)
        self.reader = HeaderReader(self.ours)
        self.sent = b""
        self.result: ProxyHeader | str | None = None

    @rule(
        piece=st.one_of(
            st.sampled_from([_V1, _V2, _V1[:9], _V1[9:], _V2[:14], _V2[14:], b"\x16\x03\x01"]),
            st.binary(min_size=1, max_size=4),
        )
    )
    def come(self, piece: bytes) -> None:
        self.sent += piece
        self.theirs.sendall(piece)

    @precondition(lambda self: self.result is None and self.sent)
    @rule()
    def read(self) -> None:
        try:
            self.result = self.reader.read()
        except ProxyHeaderError:
            self.result = "error"
        except BlockingIOError:
            return

    @invariant()
    def is_what_the_bytes_say(self) -> None:
        if isinstance(self.result, ProxyHeader):
            assert parse(self.sent) == self.result
            assert self.reader.seen == self.sent[: self.result.length]
        elif self.result is None:
            assert len(self.reader.seen) <= len(self.sent)
            assert not self.reader.seen or parse(self.reader.seen) is None

    def teardown(self) -> None:
        if isinstance(self.result, ProxyHeader) and len(self.sent) > self.result.length:
            left = self.ours.recv(1 << 16)
            assert left == self.sent[self.result.length :]
        self.theirs.close()
        self.ours.close()


_KEYS = Keys(1, [entry(KEY)], first=True, last=True)
_DOWN = st.sampled_from([Unready(), Drain(1.5), Forget([b"d" * 32]), _KEYS])
_UP = st.sampled_from([Ready(1), Applied(7)])


class ChannelEnds(RuleBasedStateMachine):
    """Both ends send; what one has written reaches the other in pieces, in order, once."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, list[Down | Up]] = {"worker": [], "control": []}
        self.got: dict[str, list[Down | Up]] = {"worker": [], "control": []}
        self.ends = {
            "worker": Channel.for_worker(self.got["worker"].append, lambda: None),
            "control": Channel.for_control(self.got["control"].append, lambda: None),
        }
        self.wires = {}
        for name, end in self.ends.items():
            wire = MemoryTransport(end)
            end.connection_made(wire)
            self.wires[name] = wire

    @rule(message=_DOWN)
    def order(self, message: Down) -> None:
        self.ends["control"].send(message)
        self.sent["worker"].append(message)

    @rule(message=_UP)
    def report(self, message: Up) -> None:
        self.ends["worker"].send(message)
        self.sent["control"].append(message)

    @rule(size=st.sampled_from([1, 3, 50, 1 << 20]), to_worker=st.booleans())
    def arrive(self, size: int, to_worker: bool) -> None:
        to, sender = ("worker", "control") if to_worker else ("control", "worker")
        written = self.wires[sender].written
        piece = bytes(written[:size])
        del written[:size]
        self.ends[to].data_received(piece)

    @invariant()
    def is_in_order(self) -> None:
        for name, got in self.got.items():
            assert got == self.sent[name][: len(got)]

    def teardown(self) -> None:
        for to, sender in (("worker", "control"), ("control", "worker")):
            self.ends[to].data_received(bytes(self.wires[sender].written))
        assert self.got == self.sent


_SET = st.sampled_from(
    [
        "workers=2",
        "workers=none",
        "limits.max_body=8MiB",
        "limits.max_body=-1",
        "listen=[{address: ':1'}]",
        "listen[0].address=127.0.0.1:2",
        "listen[1].address=x",
        "log={level: debug}",
        "log.level=loud",
        "backends.otlp_grpc.urls=['http://c:1']",
        "admin.address=:3",
        "keys.stores=[]",
        "forward.key=gateway",
        "forward.gateway_key=${env:K:-k}",
        "limits=",
        "x={",
    ]
)


class Configuration(RuleBasedStateMachine):
    """A file and `--set` in any order: loaded, or errors that each name a place."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.file = Path(self.folder.name) / "gateway.yaml"
        self.overrides: list[str] = []
        self.file.write_text("workers: 1\n")

    @rule(override=_SET)
    def set(self, override: str) -> None:
        self.overrides.append(override)

    @rule()
    def forget(self) -> None:
        self.overrides.clear()

    @rule(text=st.sampled_from(["", "workers: 1\n", "log: {level: info}\n", "[", "a: 1\n"]))
    def write(self, text: str) -> None:
        self.file.write_text(text)

    @invariant()
    def loads_or_says_why(self) -> None:
        try:
            loaded = config.load(self.file, self.overrides, {"HOME": "/nowhere"})
        except config.ConfigError as error:
            problems = error.problems
        else:
            if yaml.safe_load(self.file.read_text()):
                assert loaded.reload().config == loaded.config
            else:
                with pytest.raises(config.ConfigError, match="has no settings"):
                    loaded.reload()
            assert yaml.safe_dump(config.effective(loaded.config))
            return
        assert problems
        assert all(problem.message for problem in problems)

    def teardown(self) -> None:
        self.folder.cleanup()


def _case(machine: type[RuleBasedStateMachine]) -> type:
    case = machine.TestCase
    case.settings = SETTINGS
    return case


TestHeaderBlocks = _case(HeaderBlocks)
TestCredentials = _case(Credentials)
TestProxyHeaders = _case(ProxyHeaders)
TestChannelEnds = _case(ChannelEnds)
TestConfiguration = _case(Configuration)
