"""HTTP load as Go's net/http sends it: kept-alive HTTP/1.1 connections, one request at a time.

Every response is checked: status 200 and the expected body, or a refusal where one is due.
"""

from __future__ import annotations

import functools
import time

import httptools

from bench import keys
from bench.bodies import Body
from bench.link import Link
from bench.load_loop import Client, LoadLoop, Plan, Tally
from bench.report import RunFailedError

EXPECTED_REPLIES = frozenset({b"", b"\n\0"})
"""ExportTraceServiceResponses without partial success; the Collector may write an empty one."""

_USER_AGENT = "OpenTelemetry Collector Contrib/0.165.0 (linux/amd64)"
_REFUSED_STATUS = frozenset({401, 403})


def request_head(port: int, body: Body, authorization: str) -> bytes:
    """Return a head with a value of Authorization, fields in the order of Go's net/http."""
    encoding = "" if body.encoding is None else f"Content-Encoding: {body.encoding}\r\n"
    return (
        "POST /v1/traces HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{port}\r\n"
        f"User-Agent: {_USER_AGENT}\r\n"
        f"Content-Length: {len(body.message)}\r\n"
        f"Authorization: {authorization}\r\n"
        f"{encoding}"
        "Content-Type: application/x-protobuf\r\n"
        "Accept-Encoding: gzip\r\n\r\n"
    ).encode()


def agent_head(port: int, body: Body, key: str) -> bytes:
    """Return a head with a key, as the agents' main forwarder sends it."""
    return (
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


@functools.lru_cache(maxsize=4)
def _known(count: int, first: int) -> list[str]:
    return keys.keys(count, first)


class HttpClient:
    """One connection; also the callbacks of its parser."""

    def __init__(self, plan: Plan, requests: list[bytes], tally: Tally) -> None:
        self.link = Link(plan.port, "http/1.1" if plan.is_tls else None)
        self.is_spent = False
        self._plan = plan
        self._requests = requests
        self._tally = tally
        self._due_s: float | None = None
        self._is_answered = False
        self._reply = b""
        self._parser = httptools.HttpResponseParser(self)

    @property
    def room(self) -> int:
        """How many more requests may be begun now."""
        return 0 if self.is_spent or self._due_s is not None else 1

    def begin(self, number: int, due_s: float) -> None:
        """Begin a request; its duration runs from `due_s`."""
        self._due_s = due_s
        self._is_answered = False
        self._reply = b""
        head = self._requests[keys.in_turn(number, len(self._requests))]
        self._write(head + self._plan.body.message)

    def flush(self) -> None:
        """Send as much as the kernel takes."""
        self._write(b"")

    def _write(self, data: bytes) -> None:
        try:
            self.link.write(data)
        except OSError:
            if not self._plan.is_refused:
                raise
            self.link.drop_unsent()  # what the proxy says to it is read next
            self.is_spent = self._due_s is None

    def receive(self) -> None:
        """Handle what has arrived; see `Client.receive`."""
        data = self.link.read()
        if data is None:
            return
        if not data:
            if not self._plan.is_refused or self._due_s is not None:
                message = "the proxy closed a connection"
                raise RunFailedError(message)
            self.is_spent = True
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            message = f"unreadable answer {data[:200]!r}: {error}"
            raise RunFailedError(message) from error
        if self._is_answered and self._due_s is not None:
            self._check()
            self._tally.durations_s.append(time.perf_counter() - self._due_s)
            self._due_s = None

    def _check(self) -> None:
        status = self._parser.get_status_code()
        if self._plan.is_refused:
            if status not in _REFUSED_STATUS:
                message = f"not refused: status {status}, body {self._reply[:200]!r}"
                raise RunFailedError(message)
            # As net/http gives up a connection with a body that nobody wants.
            self.is_spent = not self.link.is_sent or not self._parser.should_keep_alive()
            self.link.drop_unsent()
            return
        if status != 200 or self._reply not in EXPECTED_REPLIES or not self.link.is_sent:
            message = f"unexpected answer: status {status}, body {self._reply[:200]!r}"
            raise RunFailedError(message)
        self.is_spent = self._plan.reconnects

    def on_body(self, body: bytes) -> None:
        """Gather the reply (parser callback)."""
        self._reply += body

    def on_message_complete(self) -> None:
        """Note the end (parser callback)."""
        self._is_answered = True


def run(plan: Plan) -> tuple[float, list[float]]:
    """Send what a plan says; see `LoadLoop.run`."""
    first = keys.UNKNOWN if plan.is_refused else 0
    known = _known(plan.key_count, first)
    if plan.kind == "intake":
        requests = [agent_head(plan.port, plan.body, each) for each in known]
    else:
        given = plan.authorizations or [f"{keys.SCHEME} {each}" for each in known]
        requests = [request_head(plan.port, plan.body, each) for each in given]

    def connect(tally: Tally) -> Client:
        return HttpClient(plan, requests, tally)

    return LoadLoop(plan, connect).run()
