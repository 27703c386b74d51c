"""The seams of the data path: what passes between the rooms, as classes with few members.

Compiled code calls a method of a base class ten times as fast as a protocol's, which it has to look
up by name. So a seam is a base class where each implementation has no other base, and a protocol
elsewhere. Implementations may leave out these docstrings. Everything is called in the event loop's
thread and returns at once. Who calls whom for one request:

    server side ── head, body, gone ──► Exchange ── body, cancel ──► Forwarding ── body ──► Upstream
    Downstream ◄── reply, answer ──────          ◄── answer ──────── AnswerSink ◄── answer ── its
                                                                                       connection

The server side is `http1.server` or `http2.server`; the backend's side `http1.upstream` or
`http2.upstream`, which know `UpstreamRequest` and nothing of the exchange behind it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Protocol

from mypy_extensions import mypyc_attr

from gateway.dataplane.core.certificates import ClientCertificate
from gateway.dataplane.core.credential import Credential
from gateway.dataplane.core.forwarded_fields import ForwardedFields
from gateway.dataplane.core.heads import FieldSection, RequestHead
from gateway.dataplane.core.replies import Reply
from gateway.model import Principal, Verdict
from gateway.outcome import Outcome, Refusal
from gateway.settings import Target

# The caller's side


class ServerConnection(Protocol):
    """A client's connection, of any kind, as the worker that ends it sees it."""

    def sweep(self, now: float) -> None:
        """Once a second: enforce header, idle, stall, age and request limits."""

    def holdings(self) -> Iterable[tuple[str, int]]:
        """Return for each request under way who sent it, and how many bytes are held for it."""

    def start_drain(self) -> None:
        """Announce the end, and close when the open requests are done.

        Over HTTP/1.1 only an answer can announce it: an idle connection stays for a few seconds.
        """

    def abort(self) -> None:
        """Close at once."""


class Downstream(Protocol):
    """The caller's side of one request. After `send…(ended=True)`, `send_reply`, `withhold` or
    `break_off` nothing more is called.
    """

    peer: str
    """The caller's address (after PROXY header), for logs."""
    certificate: ClientCertificate | None
    """What the caller's certificate says; None where the listener does not look at it."""

    def send_head(self, section: FieldSection, ended: bool) -> None:
        """Send the answer's head; `ended`: it has no body. Interim (1xx) heads never come here."""

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """Send answer bytes; return how many had to be queued. For each queued byte
        `Exchange.answer_left` is called when it leaves.
        """

    def send_answer(
        self, section: FieldSection, body: bytes, trailers: FieldSection | None = None
    ) -> None:
        """Send a whole answer that has a body, as `send_head`, `send_body` and `send_trailers`
        would.
        """

    def send_trailers(self, section: FieldSection) -> None:
        """Send trailers, which end the answer. Over HTTP/1.1 only the end is sent."""

    def send_reply(self, reply: Reply) -> None:
        """Send an answer of the gateway's own, whole. Nothing of an answer has been sent before.

        A body that is still to come is not read (HTTP/2: RST_STREAM(NO_ERROR)) or read and thrown
        away within bounds (HTTP/1.1: lingering close).
        """

    def withhold(self) -> None:
        """Send no answer at all, because the caller is to see a broken connection. Nothing of an
        answer has been sent before.

        HTTP/1.1: the connection is closed, after the answers that are still owed on it. HTTP/2:
        RST_STREAM(REFUSED_STREAM).
        """

    def break_off(self, trailers: FieldSection | None) -> None:
        """End an answer whose head has gone out, so that no client takes it for complete.

        With `trailers` where the protocol can tell by them; else HTTP/1.1 aborts the connection,
        never with a clean last chunk, and HTTP/2 sends RST_STREAM.
        """

    def grant(self, length: int, keeps_up: bool) -> None:
        """`length` body bytes have left for the backend: the caller may send as many more.
        `keeps_up`: none of them had to wait.
        """

    def accept_body(self) -> None:
        """The request was admitted: send `100 Continue` where it is expected."""


# The backend's side


class Upstream(Protocol):
    """The backend's side of one request, once it has a connection. The head has been sent when
    it is handed out.
    """

    @property
    def address(self) -> str:
        """The backend address that this request goes to, for traces and logs."""

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """Send request bytes; return how many had to be queued. For each queued byte
        `UpstreamRequest.body_left` is called when it leaves.
        """

    def cancel(self) -> None:
        """The caller went away, or the exchange failed: no more is wanted. A request body is never
        completed by this.
        """

    def grant(self, length: int) -> None:
        """`length` answer bytes have left for the caller: the backend may send as many more."""


@mypyc_attr(allow_interpreted_subclasses=True)
class AnswerSink:
    """Where a backend's answer goes. A call after the end of the exchange has no effect."""

    __slots__ = ()

    @abstractmethod
    def head(self, section: FieldSection, ended: bool) -> None:
        """Take the answer's head; `ended`: it has no body."""

    @abstractmethod
    def whole(self, section: FieldSection, body: bytes) -> None:
        """Take an answer that came at once and has a body."""

    @abstractmethod
    def body(self, chunk: bytes, ended: bool) -> None:
        """Take answer bytes."""

    @abstractmethod
    def trailers(self, section: FieldSection) -> None:
        """Take the trailers, which end the answer."""


@mypyc_attr(allow_interpreted_subclasses=True)
class BodySink:
    """Where a request's body goes: to the backend, or to a handler of the gateway's own."""

    __slots__ = ()

    @abstractmethod
    def receive(self, chunk: bytes, ended: bool) -> None:
        """Take body bytes; `ended`: these are the last."""

    @abstractmethod
    def answer_left(self, length: int) -> None:
        """Queued answer bytes have left for the caller."""

    @abstractmethod
    def cancel(self) -> None:
        """The request is refused, or its caller went away."""

    @abstractmethod
    def hold_again(self) -> bool:
        """The backend turned out to be away: have the request wait for it and send it again.
        Return False where it cannot, or its sender needs no such help.
        """

    @property
    @abstractmethod
    def is_held(self) -> bool:
        """Whether the request waits for its backend to come back."""

    @abstractmethod
    def release(self) -> None:
        """The exchange is over: let go of everything that is held for it."""


@mypyc_attr(allow_interpreted_subclasses=True)
class UpstreamRequest(BodySink):
    """One request as the pool and a backend's connection see it; its body comes as to any sink."""

    __slots__ = ("answer", "fields", "head", "path", "peer", "principal")

    head: RequestHead
    fields: ForwardedFields
    """How its fields go to the backend."""
    principal: Principal | None
    """Whose key it came with; None where only the backend can judge the credential."""
    peer: str
    """The caller's address (after PROXY header)."""
    path: bytes
    """Path at the backend, without its url's prefix."""

    answer: AnswerSink
    """Where the answer goes."""

    @abstractmethod
    def attach(self, upstream: Upstream) -> None:
        """Take the backend's side: the head has been sent, the body may follow."""

    @abstractmethod
    def unavailable(self, refusal: Refusal) -> None:
        """There will be no backend's side."""

    @abstractmethod
    def lost(self, replayable: bool) -> None:
        """The backend's side broke. `replayable`: the backend has certainly not processed the
        request.
        """

    @abstractmethod
    def body_left(self, length: int) -> None:
        """Queued body bytes have left for the backend."""

    @abstractmethod
    def body_dropped(self, length: int) -> None:
        """Queued body bytes will not be sent."""

    @abstractmethod
    def note_progress(self, now: float) -> None:
        """The backend takes what waits, though nothing has left our queue yet."""

    @property
    @abstractmethod
    def sender(self) -> str:
        """With whom it shares places: the id of its key; the caller's address where only the
        backend can judge the credential.
        """

    @property
    @abstractmethod
    def is_upload(self) -> bool:
        """Whether a part of its body is still to come."""

    @property
    @abstractmethod
    def received(self) -> int:
        """Body bytes that have come."""

    @property
    @abstractmethod
    def is_held_up(self) -> bool:
        """Whether its sender has to wait for the gateway or the backend."""

    @abstractmethod
    def displace(self, refusal: Refusal) -> None:
        """Give the place up to somebody else's request."""


@mypyc_attr(allow_interpreted_subclasses=True)
class RequestPool:
    """What gives requests their connection to a backend.

    A request that is open at the backend has a *place*: a connection over HTTP/1.1, a stream over
    HTTP/2.
    """

    __slots__ = ("shares_connections",)

    shares_connections: bool
    """Whether one connection carries many requests at once."""

    @property
    @abstractmethod
    def has_connection(self) -> bool:
        """Whether there is a connection, free or not."""

    @abstractmethod
    def open(self, request: UpstreamRequest) -> None:
        """Give the request a connection now or later: it gets `attach` or `unavailable`."""

    @abstractmethod
    def open_upload(self, request: UpstreamRequest) -> None:
        """As `open`, for a body that keeps a whole connection until its sender has sent it."""

    @abstractmethod
    def forget(self, request: UpstreamRequest) -> None:
        """Stop waiting for a connection."""


class UpstreamConnection(Protocol):
    """One connection to a backend, of either HTTP version, as the pool sees it."""

    @property
    def busy(self) -> int:
        """Open requests."""

    @property
    def capacity(self) -> int:
        """How many more requests it takes now."""

    @property
    def requests(self) -> list[UpstreamRequest]:
        """The open requests."""

    def open(self, request: UpstreamRequest) -> Upstream:
        """Send a request's head; the caller has checked `capacity`. A connection that carries many
        tells its owner when it is full.
        """

    def sweep(self, now: float) -> None:
        """Once a second: find out whether the backend is still there."""

    def close(self) -> None:
        """Close when nothing is open, else after the open requests."""


@mypyc_attr(allow_interpreted_subclasses=True)
class ConnectionOwner:
    """Whom a connection to a backend belongs to: one address of a pool."""

    __slots__ = ("heard_at", "needs_proof", "target")

    target: Target
    """Where it leads."""
    needs_proof: bool
    """Whether a new connection proves nothing before the backend has answered on it."""
    heard_at: float
    """When something came last, as precise as a sweep is: set by connections over HTTP/1.1."""

    @abstractmethod
    def capacity_changed(self, connection: UpstreamConnection, capacity: int) -> None:
        """The connection takes so many more requests now: one has ended, or was opened and leaves
        no room, or the backend's limits changed.
        """

    @abstractmethod
    def connection_lost(self, connection: UpstreamConnection) -> None:
        """The connection is gone, or takes no more requests."""

    @abstractmethod
    def is_surplus(self, connection: UpstreamConnection) -> bool:
        """Whether an idle connection may close: there are more than `min_connections`."""

    @abstractmethod
    def doubt(self, connection: UpstreamConnection) -> None:
        """Nothing comes on the connection, and it is being asked: requests go elsewhere until
        `trust` or `silent`.
        """

    @abstractmethod
    def trust(self, connection: UpstreamConnection) -> None:
        """The backend has answered on the connection."""

    @abstractmethod
    def silent(self, connection: UpstreamConnection, now: float) -> None:
        """The backend answers no more on the connection, which will be closed."""


# What is asked about a request


class VerdictWaiter(Protocol):
    """A request that waits for the verdict on its key."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended meanwhile: then it is not decided any more."""

    def decided(self, verdict: Verdict, source: str) -> None:
        """Go on with the verdict, at once or later. `source`: where it comes from, see
        `metrics.SOURCES`.
        """

    def failed(self) -> None:
        """A bug came up while it was decided: have the caller try again."""


class LocalRequest(Protocol):
    """A request that the worker answers by itself, as its handler sees it."""

    head: RequestHead
    downstream: Downstream
    sink: BodySink | None
    """Set by a handler that reads the body."""

    def answer_locally(
        self, section: FieldSection, body: bytes, trailers: FieldSection | None = None
    ) -> None:
        """Send a whole answer."""

    def end_locally(self, trailers: FieldSection) -> None:
        """End an answer whose head and body the handler has sent."""

    def refuse(self, refusal: Refusal) -> None:
        """Refuse the request; nothing of an answer has been sent."""


Handler = Callable[[LocalRequest], None]
"""Answers a request without a backend."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Dialect:
    """What one kind of client says and is told. The exchange asks; nothing else knows the kind."""

    __slots__ = ()

    @abstractmethod
    def find_credential(self, head: RequestHead) -> Credential:
        """Return the one credential of a request, or one that says why there is none."""

    @abstractmethod
    def fields_for(self, credential: Credential) -> ForwardedFields:
        """Return the policy by which this request's fields go to the backend."""

    @abstractmethod
    def admit(self, head: RequestHead) -> Refusal | None:
        """Check what only this kind of client can get wrong, such as the content type."""

    @abstractmethod
    def reply(self, refusal: Refusal, head: RequestHead, allow: bytes) -> Reply | None:
        """Render a refusal; None: the client gets no answer.

        `allow` is the value of Allow where the outcome is METHOD_NOT_ALLOWED.
        """

    @abstractmethod
    def late_trailers(self, refusal: Refusal) -> FieldSection | None:
        """Return trailers that say so when the answer's head has gone out already.

        None where this kind of client knows none: the answer is broken off.
        """

    @abstractmethod
    def code_of(self, outcome: Outcome, head: RequestHead) -> str:
        """Return the `code` label of a request that ended in this way without a reply."""

    @abstractmethod
    def code(self, section: FieldSection) -> str | None:
        """Return the `code` label of an answer's head or trailers; None: it is still to come."""

    @abstractmethod
    def is_foreign(self, head: FieldSection) -> bool:
        """Whether no server of this protocol gives such an answer, so that it says nothing about
        the data. Answers that make the client try again are passed on, whoever gave them.
        """

    @abstractmethod
    def is_accepted(self, section: FieldSection) -> bool:
        """Whether the section that ends an answer says that the data was accepted."""
