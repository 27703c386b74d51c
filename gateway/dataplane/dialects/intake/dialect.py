"""How agents and other senders of the intake are answered: in HTTP with JSON, and as each of them
needs it to keep its data.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Final

from gateway.dataplane.auth.credentials import CredentialReader
from gateway.dataplane.core import replies
from gateway.dataplane.core.credential import Credential
from gateway.dataplane.core.forwarded_fields import ForwardedFields
from gateway.dataplane.core.heads import HTML, FieldSection, RequestHead
from gateway.dataplane.core.replies import HTTP_CODES, Reply
from gateway.dataplane.core.seams import Dialect
from gateway.dataplane.dialects.intake.credentials import choose_intake
from gateway.outcome import METHOD_NOT_ALLOWED, RETRY, Outcome, Refusal

_RETRY_STATUS: Final = 503
"""What has an agent try again (`outcome.RETRY`)."""
_PASSED_ON: Final = (429, 502, 503, 504)
"""What proxies say when they mean just that."""


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """What is special about one kind of intake route (`gateway.intake`)."""

    label: str
    """Value of the label `route`."""
    sender: str
    """Value of the label `sender`."""
    withholds_answer: bool
    """Whether its sender gets no answer at all where it should try again."""
    passes_service_bearer: bool
    """Whether a Kubernetes token goes to the receiver unchecked."""


class IntakeDialect(Dialect):
    """The dialect of one kind of intake route."""

    __slots__ = ("_fields", "_reader", "_unchecked_fields", "rules")

    def __init__(
        self, rules: IntakeRules, reader: CredentialReader, fields: ForwardedFields
    ) -> None:
        self.rules = rules
        self._reader = reader
        self._fields = fields
        self._unchecked_fields = ForwardedFields(
            None,
            is_callers_key=True,
            identity=False,
            address=fields.with_address,
            keeps_query=fields.is_callers_key,
        )

    def find_credential(self, head: RequestHead) -> Credential:
        """See `Dialect`."""
        passes = self.rules.passes_service_bearer
        return choose_intake(head, self._reader, passes_service_bearer=passes)

    def fields_for(self, credential: Credential) -> ForwardedFields:
        """See `Dialect`: what only the receiver can judge goes to it as it came."""
        return self._unchecked_fields if credential.passes_unchecked else self._fields

    def admit(self, head: RequestHead) -> Refusal | None:
        """See `Dialect`: the receiver takes any content type."""
        return None

    def reply(self, refusal: Refusal, head: RequestHead, allow: bytes) -> Reply | None:
        """See `Dialect`."""
        outcome = refusal.outcome
        if self.rules.withholds_answer and outcome.intake == RETRY:
            return None
        if outcome is not METHOD_NOT_ALLOWED:
            allow = b""
        return intake_reply(refusal, allow, _http_status(outcome))

    def late_trailers(self, refusal: Refusal) -> FieldSection | None:
        """See `Dialect`."""
        return None

    def code_of(self, outcome: Outcome, head: RequestHead) -> str:
        """See `Dialect`."""
        return HTTP_CODES[_http_status(outcome)]

    def code(self, section: FieldSection) -> str | None:
        """See `Dialect`."""
        return HTTP_CODES[section.status]

    def is_foreign(self, head: FieldSection) -> bool:
        """See `Dialect`: the receiver's answers have many types, but it neither redirects nor sends
        pages.
        """
        status = head.status
        return 300 <= status < 400 or (head.media_type in HTML and status not in _PASSED_ON)

    def is_accepted(self, section: FieldSection) -> bool:
        """See `Dialect`."""
        return 200 <= section.status < 300


def _http_status(outcome: Outcome) -> int:
    return _RETRY_STATUS if outcome.intake == RETRY else outcome.intake


@functools.lru_cache(maxsize=512)
def intake_reply(refusal: Refusal, allow: bytes, http_status: int) -> Reply:
    """Render a refusal as JSON whatever the request's type, for people with curl and for
    Prometheus' log. Clients of the agents' API look for `errors` in it, and take what has none for
    success.
    """
    reply = replies.http_reply(refusal, False, allow, http_status)
    body = b'%b,"errors":[%b]}' % (reply.body[:-1], json.dumps(refusal.text).encode())
    length = (b"content-length", b"%d" % len(body))
    fields = [length if pair[0] == length[0] else pair for pair in reply.section.fields]
    return Reply(FieldSection(reply.section.status, fields), body, reply.code)
