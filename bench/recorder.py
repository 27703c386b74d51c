"""A server that answers gRPC requests and keeps their header blocks, as the client encoded them."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

from bench import wire

_PADDED, _PRIORITY = 0x8, 0x20
_TIMEOUT_S = 30.0
_HEAD = wire.fields([(":status", "200"), ("content-type", "application/grpc")])
_TRAILERS = wire.fields([("grpc-status", "0")])
_WINDOW = 1 << 20


class Recorder:
    """Listens on 127.0.0.1; the blocks of each connection are in `connections`, in their order.

    With `is_told` it announces a header table of 0, as the gateway does; else it says nothing of
    it, and clients use the protocol's default of 4,096 bytes.
    """

    def __init__(self, *, is_told: bool) -> None:
        self.connections: list[list[bytes]] = []
        self._is_told = is_told
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        """Record until the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            blocks: list[bytes] = []
            self.connections.append(blocks)
            threading.Thread(target=self._serve, args=(client, blocks), daemon=True).start()

    def _serve(self, client: socket.socket, blocks: list[bytes]) -> None:
        with contextlib.suppress(ConnectionResetError):  # how some clients end
            self._answer_all(client, blocks)

    def _answer_all(self, client: socket.socket, blocks: list[bytes]) -> None:
        client.settimeout(_TIMEOUT_S)
        table = {wire.SETTING_HEADER_TABLE_SIZE: 0} if self._is_told else {}
        with client, client.makefile("rb") as reader:
            client.sendall(wire.settings({**table, wire.SETTING_INITIAL_WINDOW_SIZE: _WINDOW}))
            reader.read(len(wire.PREFACE))
            while len(head := reader.read(wire.FRAME_HEADER_BYTES)) == wire.FRAME_HEADER_BYTES:
                payload = reader.read(int.from_bytes(head[:3], "big"))
                stream = int.from_bytes(head[5:], "big")
                answer = self._answer(head[3], head[4], stream, payload, blocks)
                if answer:
                    client.sendall(answer)

    @staticmethod
    def _answer(kind: int, flags: int, stream: int, payload: bytes, blocks: list[bytes]) -> bytes:
        """Keep a block; return what is to be said to a frame."""
        if kind == wire.HEADERS:
            blocks.append(_block(flags, payload))
        elif kind == wire.SETTINGS and not flags & wire.FLAG_ACK:
            return wire.frame(wire.SETTINGS, wire.FLAG_ACK, 0)
        elif kind == wire.PING and not flags & wire.FLAG_ACK:
            return wire.frame(wire.PING, wire.FLAG_ACK, 0, payload)
        credit = wire.window_update(0, len(payload)) if kind == wire.DATA and payload else b""
        if kind in {wire.DATA, wire.HEADERS} and flags & wire.FLAG_END_STREAM:
            end = wire.FLAG_END_HEADERS | wire.FLAG_END_STREAM
            return credit + (
                wire.frame(wire.HEADERS, wire.FLAG_END_HEADERS, stream, _HEAD)
                + wire.frame(wire.DATA, 0, stream, b"\0\0\0\0\0")
                + wire.frame(wire.HEADERS, end, stream, _TRAILERS)
            )
        return credit


def _block(flags: int, payload: bytes) -> bytes:
    """Return a HEADERS frame's block without padding and priority (RFC 9113 §6.2)."""
    if not flags & wire.FLAG_END_HEADERS:
        message = "a header block in several frames, which the recorder does not read"
        raise ValueError(message)
    begin, end = 0, len(payload)
    if flags & _PADDED:
        begin, end = 1, end - payload[0]
    if flags & _PRIORITY:
        begin += 5
    return payload[begin:end]
