"""The gateway's own answers, rendered once per kind and kept: what a refusal looks like to an
HTTP and to a gRPC client.
"""

from __future__ import annotations

import functools
import json
from typing import Final

from gateway.dataplane.heads import FieldSection, Pair
from gateway.outcome import ERROR_DOMAIN, QUOTA, Refusal
from gateway.wire import status

PROTOBUF: Final = b"application/x-protobuf"
JSON: Final = b"application/json"
GRPC: Final = b"application/grpc"


def media_type(content_type: bytes) -> bytes:
    """The type without parameters, in lower case (RFC 9110 §8.3.1)."""
    return content_type.partition(b";")[0].strip().lower()


@functools.lru_cache(maxsize=512)
def http_reply(
    refusal: Refusal, is_protobuf: bool, allow: bytes = b"", http_status: int = 0
) -> tuple[int, list[Pair], bytes]:
    """Render status, fields and body: `google.rpc.Status` in the request's own encoding (OTLP
    specification, "Failures").

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
    if outcome.is_retryable and (code in {429, 503} or outcome is QUOTA):
        fields.append((b"retry-after", b"%d" % outcome.retry_after_s))
    return code, fields, body


@functools.lru_cache(maxsize=512)
def intake_reply(refusal: Refusal, allow: bytes, http_status: int) -> tuple[int, list[Pair], bytes]:
    """Render a refusal for the agents' intake: JSON whatever the request's type, for people with
    curl and for Prometheus' log. Clients of the agents' API look for `errors` in it, and take what
    has none for success.
    """
    code, fields, body = http_reply(refusal, False, allow, http_status)
    body = b'%b,"errors":[%b]}' % (body[:-1], json.dumps(refusal.text).encode())
    length = (b"content-length", b"%d" % len(body))
    return code, [length if name == length[0] else (name, value) for name, value in fields], body


@functools.lru_cache(maxsize=128)
def grpc_reply(refusal: Refusal) -> FieldSection:
    """Render a trailers-only answer, with the retry hint in both places where clients look for
    it.
    """
    outcome = refusal.outcome
    section = FieldSection(200, [(b"content-type", GRPC), *_grpc_trailers(refusal)])
    section.grpc_status = int(outcome.grpc)
    return section


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
