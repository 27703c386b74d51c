"""The two seams of an exchange: the caller's side and the backend's side. Implementations may leave
out these docstrings.

Everything is called in the event loop's thread and returns at once. Who calls whom:

    server side     ── head, body, gone ──►  Exchange  ── body, cancel, grant ──►  backend side
    http?_server    ◄─ answer, grant ──────            ◄─ answer, lost, grant ───  http?_upstream
"""

from __future__ import annotations

from typing import Protocol

from gateway.dataplane.heads import FieldSection
from gateway.outcome import Refusal


class Downstream(Protocol):
    """The caller's side of one request. After `send…(ended=True)`, `refuse` or `abort` nothing
    more is called.
    """

    peer: str
    """The caller's address (after PROXY header), for logs."""

    def send_head(self, section: FieldSection, ended: bool) -> None:
        """Send the answer's head; `ended`: it has no body. Interim (1xx) heads never come here."""

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """Send answer bytes; return how many had to be queued. For each queued byte
        `Exchange.answer_left` is called when it leaves.
        """

    def send_answer(self, section: FieldSection, body: bytes) -> None:
        """Send a whole answer that has a body and no trailers, as `send_head` and `send_body`
        would.
        """

    def send_trailers(self, section: FieldSection) -> None:
        """Send trailers, which end the answer. Over HTTP/1.1 only the end is sent."""

    def refuse(self, refusal: Refusal, is_grpc: bool, allow: bytes) -> None:
        """Answer with the gateway's own refusal, whole, in this side's protocol. Nothing of the
        answer has been sent before.

        A body that is still to come is not read (HTTP/2: RST_STREAM(NO_ERROR)) or read and thrown
        away within bounds (HTTP/1.1: lingering close). `allow` is the value of Allow where the
        outcome is METHOD_NOT_ALLOWED.
        """

    def withhold(self) -> None:
        """Give no answer at all, because the caller keeps its data only then. Nothing of the
        answer has been sent before.

        HTTP/1.1: the connection is closed, after the answers that are still owed on it. HTTP/2:
        RST_STREAM(REFUSED_STREAM).
        """

    def abort(self) -> None:
        """Break off an answer whose head has gone out, so that no client takes it for complete.

        gRPC: trailers `grpc-status: 14`. HTTP/1.1: the connection is aborted, never a clean last
        chunk. HTTP/2 otherwise: RST_STREAM.
        """

    def grant(self, length: int, keeps_up: bool) -> None:
        """`length` body bytes have left for the backend: the caller may send as many more.
        `keeps_up`: none of them had to wait.
        """

    def accept_body(self) -> None:
        """The request was admitted: send `100 Continue` where it is expected."""


class Upstream(Protocol):
    """The backend's side of one request, once it has a connection. The head has been sent when
    it is handed out.
    """

    @property
    def address(self) -> str:
        """The backend address that this request goes to, for traces and logs."""

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """Send request bytes; return how many had to be queued. For each queued byte
        `Exchange.body_left` is called when it leaves.
        """

    def cancel(self) -> None:
        """The caller went away, or the exchange failed: no more is wanted. An upstream body is
        never completed by this.
        """

    def grant(self, length: int) -> None:
        """`length` answer bytes have left for the caller: the backend may send as many more."""
