"""Refusals as another proxy can send them: status, fields and a body that is text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.dataplane.core import replies
from gateway.dataplane.core.replies import Reply
from gateway.ext_authz.decisions import Decision
from gateway.outcome import REFUSALS, Refusal

_FRAMING: Final = (b"content-length",)
_OF_GRPC: Final = (b"content-type", b"content-length")
"""What the proxy states itself in an answer to a gRPC client."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer that refuses a request."""

    http_status: int
    """For a gRPC client, what the proxy counts; its status stands in a field."""
    grpc_status: int
    fields: list[tuple[str, str]]
    body: str
    text: str


def refused(decision: Decision) -> Refused:
    """Return the answer to a request that is refused."""
    assert decision.refusal is not None  # noqa: S101 - the caller has looked
    assert decision.reply is not None  # noqa: S101 - it comes with a refusal
    return _answer(decision.refusal, decision.reply)


def internal_error() -> Refused:
    """Return the answer to a request that a bug kept from being decided on."""
    refusal = REFUSALS["INTERNAL"]
    return _answer(refusal, replies.http_reply(refusal, is_protobuf=False))


def _answer(refusal: Refusal, reply: Reply) -> Refused:
    outcome = refusal.outcome
    if reply.is_grpc:
        fields, body, status = _fields(reply, _OF_GRPC), "", outcome.http
    else:
        fields, status = _fields(reply, _FRAMING), reply.section.status
        try:
            body = reply.body.decode()
        except UnicodeDecodeError:  # protobuf: the proxy's protocol has a place for text only
            body = replies.http_reply(refusal, is_protobuf=False).body.decode()
            fields = [
                (name, replies.JSON.decode() if name == "content-type" else value)
                for name, value in fields
            ]
    return Refused(status, int(outcome.grpc), fields, body, refusal.text)


def _fields(reply: Reply, without: tuple[bytes, ...]) -> list[tuple[str, str]]:
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in reply.section.fields
        if name not in without
    ]
