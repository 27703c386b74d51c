"""The gateway's own answers, rendered once per kind and kept: what a refusal looks like to an
HTTP and to a gRPC client.
"""

from __future__ import annotations

import functools
from typing import Final

from gateway.dataplane.core.heads import FieldSection, Pair
from gateway.outcome import ERROR_DOMAIN, GrpcCode, Refusal
from gateway.wire import status

PROTOBUF: Final = b"application/x-protobuf"
JSON: Final = b"application/json"
GRPC: Final = b"application/grpc"

GRPC_CODES: Final = tuple(code.name for code in GrpcCode)
"""The `code` label by gRPC status: a look-up, because an enum's name costs 0.15 µs."""
HTTP_CODES: Final = tuple(str(code) for code in range(1000))
"""The `code` label by HTTP status."""


class Reply:
    """A finished answer: head and body, and the `code` label that it is counted under.

    Replies are shared: nothing in one is changed after it was made.
    """

    __slots__ = ("body", "code", "section")

    def __init__(self, section: FieldSection, body: bytes, code: str) -> None:
        self.section = section
        self.body = body
        self.code = code

    @property
    def is_grpc(self) -> bool:
        """Whether it is a trailers-only answer."""
        return self.section.grpc_status >= 0

    def with_fields(self, fields: list[Pair]) -> Reply:
        """Return a copy with more fields in its head."""
        section = FieldSection(self.section.status, self.section.fields + fields)
        return Reply(section, self.body, self.code)


@functools.lru_cache(maxsize=512)
def http_reply(
    refusal: Refusal, is_protobuf: bool, allow: bytes = b"", http_status: int = 0
) -> Reply:
    """Render `google.rpc.Status` in the request's own encoding (OTLP specification, "Failures").

    `http_status` replaces the table's, for `limits.quota_status`.
    """
    outcome = refusal.outcome
    render = status.status_protobuf if is_protobuf else status.status_json
    body = render(
        int(outcome.grpc), refusal.text, refusal.reason, ERROR_DOMAIN, outcome.retry_after_s
    )
    code = http_status or outcome.http
    fields = [
        (b"content-type", PROTOBUF if is_protobuf else JSON),
        (b"content-length", b"%d" % len(body)),
    ]
    if code == 401:
        fields.append((b"www-authenticate", b'StackState realm="otlp-gateway"'))
    if code == 405:
        fields.append((b"allow", allow))
    if outcome.is_retryable and (code in {429, 503} or outcome.is_quota):
        fields.append((b"retry-after", b"%d" % outcome.retry_after_s))
    return Reply(FieldSection(code, fields), body, HTTP_CODES[code])


@functools.lru_cache(maxsize=128)
def grpc_reply(refusal: Refusal) -> Reply:
    """Render a trailers-only answer, with the retry hint in both places where clients look for
    it.
    """
    outcome = refusal.outcome
    section = FieldSection(200, [(b"content-type", GRPC), *_grpc_trailers(refusal)])
    section.grpc_status = int(outcome.grpc)
    return Reply(section, b"", outcome.grpc.name)


@functools.lru_cache(maxsize=128)
def grpc_reply_http1(refusal: Refusal) -> Reply:
    """Render a trailers-only answer for HTTP/1.1. A proxy that asks on behalf of a gRPC client
    makes one over HTTP/2 of it: the length tells it that nothing follows the head.
    """
    reply = grpc_reply(refusal)
    section = FieldSection(200, [*reply.section.fields, (b"content-length", b"0")])
    section.grpc_status = reply.section.grpc_status
    return Reply(section, b"", reply.code)


@functools.lru_cache(maxsize=128)
def grpc_trailers(refusal: Refusal) -> FieldSection:
    """Render trailers for an answer whose head has gone out."""
    section = FieldSection(0, _grpc_trailers(refusal))
    section.grpc_status = int(refusal.outcome.grpc)
    return section


def _grpc_trailers(refusal: Refusal) -> list[Pair]:
    outcome = refusal.outcome
    details = status.status_protobuf(
        int(outcome.grpc), refusal.text, refusal.reason, ERROR_DOMAIN, outcome.retry_after_s
    )
    fields = [
        (b"grpc-status", b"%d" % outcome.grpc),
        (b"grpc-message", status.grpc_message(refusal.text)),
        (b"grpc-status-details-bin", status.binary_header(details)),
    ]
    if outcome.is_retryable:
        fields.append(
            (
                b"google.rpc.retryinfo-bin",
                status.binary_header(status.retry_info(outcome.retry_after_s)),
            )
        )
    return fields
