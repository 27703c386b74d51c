"""One more dialect takes a folder and two lines: nothing else knows which there are."""

from __future__ import annotations

from gateway.dataplane.core import replies
from gateway.dataplane.core.credential import Credential
from gateway.dataplane.core.forwarded_fields import ForwardedFields
from gateway.dataplane.core.heads import FieldSection, RequestHead
from gateway.dataplane.core.replies import Reply
from gateway.dataplane.core.routes import Route
from gateway.dataplane.core.seams import Dialect
from gateway.dataplane.dialects.otlp import OtlpHttpDialect
from gateway.model import BackendName, Protocol, Signal
from gateway.outcome import REFUSALS, Outcome, Refusal
from tests.support.in_memory import Core
from tests.support.plane import KEY, entry

SPANS = b"/api/v2/spans"


class ZipkinDialect(Dialect):
    """Takes JSON only, and answers errors in plain text; for the rest it is as OTLP over HTTP."""

    def __init__(self, otlp: OtlpHttpDialect) -> None:
        self._otlp = otlp

    def find_credential(self, head: RequestHead) -> Credential:
        return self._otlp.find_credential(head)

    def fields_for(self, credential: Credential) -> ForwardedFields:
        return self._otlp.fields_for(credential)

    def late_trailers(self, refusal: Refusal) -> FieldSection | None:
        return self._otlp.late_trailers(refusal)

    def code_of(self, outcome: Outcome, head: RequestHead) -> str:
        return self._otlp.code_of(outcome, head)

    def code(self, section: FieldSection) -> str | None:
        return self._otlp.code(section)

    def is_foreign(self, head: FieldSection) -> bool:
        return self._otlp.is_foreign(head)

    def is_accepted(self, section: FieldSection) -> bool:
        return self._otlp.is_accepted(section)

    def admit(self, head: RequestHead) -> Refusal | None:
        return None if head.content_type == replies.JSON else REFUSALS["MEDIA_TYPE"]

    def reply(self, refusal: Refusal, head: RequestHead, allow: bytes) -> Reply | None:
        body = refusal.text.encode()
        fields = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        return Reply(FieldSection(refusal.outcome.http, fields), body, str(refusal.outcome.http))


def zipkin_routes(core: Core) -> list[Route]:
    """Return the dialect's rows."""
    fields = ForwardedFields(None, is_callers_key=False, identity=False)
    return [
        Route(
            SPANS,
            ZipkinDialect(OtlpHttpDialect(fields, 429)),
            core.context.counters.route(Protocol.HTTP, Signal.TRACES),
            signal=Signal.TRACES,
            backend=BackendName.OTLP_HTTP,
            pool=core.pool,
            max_body_bytes=1_000,
        )
    ]


async def test_a_made_up_dialect_is_served_by_its_rows_alone() -> None:
    core = Core(entry(KEY), rows=zipkin_routes)
    head = core.head(SPANS, length=2)
    head.content_type = replies.JSON
    exchange, caller = core.begin(head)
    await core.connected()
    exchange.receive_body(b"[]", True)
    core.connector.requests[0].answer(202)
    assert (caller.heads[0].status, core.records.all[0].result) == (202, "accepted")

    _, refused = core.begin(core.head(SPANS, key="wrong"))
    assert refused.reply is not None
    assert refused.reply.code == "401"
    assert refused.reply.body == REFUSALS["KEY_UNKNOWN"].text.encode()
