"""Cross-origin requests of browsers' senders (`cors`; WHATWG Fetch, "HTTP CORS protocol").

A preflight is answered before the key is asked for, because browsers send none with it. Every
answer to an allowed origin, refusals too, tells the browser that the page may read it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gateway.dataplane.core.heads import FieldSection, Pair, RequestHead

if TYPE_CHECKING:
    from gateway.settings import CorsSettings

_NO_CONTENT: Final = 204
_OURS: Final = frozenset({b"access-control-allow-origin", b"access-control-expose-headers"})
_ALWAYS_ALLOWED: Final = ("authorization", "content-encoding", "content-type", "sts-api-key")


class CorsPolicy:
    """The origins and headers of one configuration. `*` stands for any origin, or for any
    characters but the slash within one.
    """

    def __init__(self, settings: CorsSettings) -> None:
        patterns = [
            ".*" if origin == "*" else re.escape(origin).replace(r"\*", "[^/]*")
            for origin in settings.allowed_origins
        ]
        self._origins = re.compile("|".join(f"(?:{pattern})" for pattern in patterns).encode())
        allowed = dict.fromkeys(
            [*_ALWAYS_ALLOWED, *[name.lower() for name in settings.allowed_headers]]
        )
        self._preflight: list[Pair] = [
            (b"access-control-allow-methods", b"POST"),
            (b"access-control-allow-headers", ", ".join(allowed).encode()),
            (b"access-control-max-age", b"%d" % settings.max_age_s),
        ]

    def preflight(self, head: RequestHead) -> FieldSection | None:
        """Answer a preflight request; None if it is none, or from an origin that is not allowed."""
        if head.method != b"OPTIONS" or not self._value(head, b"access-control-request-method"):
            return None
        fields = self.fields(head)
        return FieldSection(_NO_CONTENT, fields + self._preflight) if fields else None

    def fields(self, head: RequestHead) -> list[Pair]:
        """Return what to add to an answer: nothing, if the request has no allowed origin."""
        return self.fields_for(self._value(head, b"origin"))

    def fields_for(self, origin: bytes) -> list[Pair]:
        """Return what to add to an answer to this origin: nothing, if it is empty or not
        allowed.
        """
        if not origin or not self._origins.fullmatch(origin):
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"retry-after"),
            (b"vary", b"Origin"),
        ]

    def decorated(self, section: FieldSection, head: RequestHead) -> FieldSection:
        """Say in a backend's head what this policy says, and nothing else that the backend says of
        other origins: browsers refuse two values. A copy: sections may be shared.
        """
        if not self._value(head, b"origin"):
            return section
        extra = self.fields(head)
        kept = [pair for pair in section.fields if pair[0].lower() not in _OURS]
        copy = FieldSection(section.status, kept + extra)
        copy.grpc_status = section.grpc_status
        copy.content_length = section.content_length
        return copy

    @staticmethod
    def _value(head: RequestHead, name: bytes) -> bytes:
        """A field's value; names are as the caller wrote them over HTTP/1.1."""
        return next((value for field, value in head.fields if field.lower() == name), b"")
