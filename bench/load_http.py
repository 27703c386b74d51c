"""HTTP load as Go's net/http sends it: kept-alive HTTP/1.1 connections, one request at a time.

Every response is checked: status 200 and the expected body.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httptools

from bench import keys
from bench.bodies import Body
from bench.report import RunFailedError

EXPECTED_REPLY = b""
"""An ExportTraceServiceResponse without partial success."""

_USER_AGENT = "OpenTelemetry Collector Contrib/0.165.0 (linux/amd64)"
_READ_BYTES = 1 << 16
_STALL_S = 30.0


def request_heads(port: int, body: Body, authorizations: Sequence[str]) -> list[bytes]:
    """Return one head for each value of Authorization, fields in the order of Go's net/http."""
    encoding = "" if body.encoding is None else f"Content-Encoding: {body.encoding}\r\n"
    return [
        (
            "POST /v1/traces HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{port}\r\n"
            f"User-Agent: {_USER_AGENT}\r\n"
            f"Content-Length: {len(body.message)}\r\n"
            f"Authorization: {authorization}\r\n"
            f"{encoding}"
            "Content-Type: application/x-protobuf\r\n"
            "Accept-Encoding: gzip\r\n\r\n"
        ).encode()
        for authorization in authorizations
    ]


def agent_heads(port: int, body: Body, key_count: int) -> list[bytes]:
    """Return one head for each key, as the agents' main forwarder sends it."""
    return [
        (
            "POST /receiver/stsAgent/intake/ HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{port}\r\n"
            "User-Agent: stackstate-agent/3.51.0\r\n"
            f"Content-Length: {len(body.message)}\r\n"
            "Allow-Arbitrary-Tag-Value: true\r\n"
            f"Content-Encoding: {body.encoding}\r\n"
            "Content-Type: application/json\r\n"
            "Sts-Agent-Version: 3.51.0\r\n"
            f"Sts-Api-Key: {key}\r\n"
            "X-Dd-Agent-Attempts: 1\r\n"
            "Accept-Encoding: gzip\r\n\r\n"
        ).encode()
        for key in keys.keys(key_count)
    ]


class _Connection:
    """One connection; also the callbacks of its parser."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        self.started_s = 0.0
        self.unsent = memoryview(b"")
        self.is_answered = False
        self._reply = b""
        self._parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes) -> None:
        """Begin a request."""
        self.started_s = time.perf_counter()
        self.is_answered = False
        self._reply = b""
        self.unsent = memoryview(request)
        self.flush()

    def flush(self) -> None:
        """Send as much as the kernel takes."""
        try:
            sent = self.socket.send(self.unsent)
        except BlockingIOError:
            sent = 0
        self.unsent = self.unsent[sent:]

    def read(self) -> None:
        """Handle what has arrived; afterwards `is_answered` says whether the answer is whole.

        Raises:
            RunFailedError: the connection ended, or the answer is not the expected one.
        """
        data = self.socket.recv(_READ_BYTES)
        if not data:
            message = "the proxy closed a connection"
            raise RunFailedError(message)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            message = f"unreadable answer {data[:200]!r}: {error}"
            raise RunFailedError(message) from error
        if not self.is_answered:
            return
        status = self._parser.get_status_code()
        if status != 200 or self._reply != EXPECTED_REPLY or self.unsent:
            message = f"unexpected answer: status {status}, body {self._reply[:200]!r}"
            raise RunFailedError(message)

    def on_body(self, body: bytes) -> None:
        """Gather the reply (parser callback)."""
        self._reply += body

    def on_message_complete(self) -> None:
        """Note the end (parser callback)."""
        self.is_answered = True


@dataclass(frozen=True, slots=True)
class HttpLoad:
    """A run of OTLP/HTTP or agents' requests against one port.

    Attributes:
        port: where the proxy listens on 127.0.0.1.
        body: what each request carries.
        requests: how many are sent in all.
        connections: how many connections are held, each with one request in flight.
        key_count: how many keys are used in turn.
        is_intake: whether agents send, not a Collector.
        authorizations: used in turn instead of keys by a Collector.
    """

    port: int
    body: Body
    requests: int
    connections: int
    key_count: int = keys.COUNT
    is_intake: bool = False
    authorizations: Sequence[str] = ()

    def run(self) -> tuple[float, list[float]]:
        """Send all requests; return the seconds they took and each one's duration in seconds.

        Raises:
            RunFailedError: any response was not the expected one, or nothing moved for 30 s.
            OSError: the proxy does not take connections.
        """
        poll = select.epoll()
        by_descriptor: dict[int, _Connection] = {}
        try:
            for _ in range(self.connections):
                connection = _Connection(self.port)
                by_descriptor[connection.socket.fileno()] = connection
                poll.register(connection.socket, select.EPOLLIN)
            return self._send_all(poll, by_descriptor)
        finally:
            poll.close()
            for connection in by_descriptor.values():
                connection.socket.close()

    def _send_all(
        self, poll: select.epoll, by_descriptor: dict[int, _Connection]
    ) -> tuple[float, list[float]]:
        heads = self._heads()
        durations_s: list[float] = []
        started = 0
        start_s = time.perf_counter()
        for connection in by_descriptor.values():
            if started < self.requests:
                connection.send(heads[started % len(heads)] + self.body.message)
                started += 1
                self._watch(poll, connection)
        while len(durations_s) < self.requests:
            events = poll.poll(_STALL_S)
            if not events:
                done = f"{len(durations_s)} of {self.requests} answered"
                message = f"nothing moved for {_STALL_S:.0f} s, {done}"
                raise RunFailedError(message)
            for descriptor, event in events:
                connection = by_descriptor[descriptor]
                if connection.unsent:
                    connection.flush()
                    self._watch(poll, connection)
                if event & ~select.EPOLLOUT:
                    connection.read()
                if connection.is_answered:
                    durations_s.append(time.perf_counter() - connection.started_s)
                    connection.is_answered = False
                    if started < self.requests:
                        connection.send(heads[started % len(heads)] + self.body.message)
                        started += 1
                        self._watch(poll, connection)
        return time.perf_counter() - start_s, durations_s

    def _heads(self) -> list[bytes]:
        if self.is_intake:
            return agent_heads(self.port, self.body, self.key_count)
        values = self.authorizations or keys.authorizations(self.key_count)
        return request_heads(self.port, self.body, values)

    @staticmethod
    def _watch(poll: select.epoll, connection: _Connection) -> None:
        """Ask to be told when more can be sent, where something is left."""
        mask = select.EPOLLOUT if connection.unsent else 0
        poll.modify(connection.socket, select.EPOLLIN | mask)
