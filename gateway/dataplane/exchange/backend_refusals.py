"""A backend's refusal of a key that the gateway allowed: whose fault it is, and the alarm. Also the
alarm for answers that came from something else than such a backend.

From a store that the backend does not share, such a refusal means that the gateway is
misconfigured, and must not cost the caller's data. Of a key that a remote authority allowed and
that went on as it came, the backend's word counts: it is passed on, and the authority asked again.
"""

from __future__ import annotations

from typing import Final

import structlog

from gateway import metrics
from gateway.dataplane.auth.key_lookups import KeyLookups
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.core.heads import FieldSection, RequestHead
from gateway.model import Principal
from gateway.outcome import GrpcCode
from gateway.settings import ForwardSettings

_log = structlog.get_logger("gateway.worker")

_UNKNOWN: Final = GrpcCode.UNKNOWN
_OLDER_TEXTS: Final = frozenset(
    {
        b"forbidden",
        b"auth server unavailable",
        b"internal error",
        b"missing Authorization header",
    }
)
"""What StackState's collectors before 0.106 say with UNKNOWN when they refuse a key or cannot check
it (`ingestionapikeyauthextension`; gRPC code 16 since).
"""
_MOST_KINDS: Final = 50
"""Most kinds of foreign answers that are named in the log."""
_LONGEST_NAMED: Final = 100


def is_older_collectors_refusal(section: FieldSection) -> bool:
    """Whether an older collector refused the key, or could not check it."""
    return section.grpc_status == _UNKNOWN and section.grpc_message in _OLDER_TEXTS


class BackendRefusals:
    """Decides what a backend's 401 or 403 (gRPC: 16 or 7) means. One per worker."""

    __slots__ = ("_alarmed", "_counters", "_foreign", "_forward_key", "_lookups")

    def __init__(
        self, counters: Counters, lookups: KeyLookups | None, forward: ForwardSettings
    ) -> None:
        self._counters = counters
        self._lookups = lookups
        self._forward_key = forward.key
        self._alarmed: set[str] = set()
        self._foreign: set[tuple[str, int, bytes]] = set()

    def is_ours(self, principal: Principal, head: RequestHead) -> bool:
        """Return whether the gateway is to blame; if not, ask the authority again."""
        if not (principal.shared and self._forward_key == "client"):
            return True
        if self._lookups is not None:
            self._lookups.doubt(head)
        return False

    def alarm(self, backend: str) -> None:
        """Count a refusal that the gateway is to blame for; log the first of each backend."""
        self._counters.count(metrics.BACKEND_AUTH_REFUSED, backend)
        if backend not in self._alarmed:
            self._alarmed.add(backend)
            _log.error(
                "the backend refuses an API key that this gateway allowed; senders are told to "
                "retry",
                backend=backend,
                forward_key=self._forward_key,
                do="set forward.key to 'gateway' with forward.gateway_key, or to 'none', "
                "or let the backend know the keys",
            )

    def alarm_foreign(self, backend: str, head: FieldSection) -> None:
        """Count an answer that no server of the protocol gave; log the first of each kind."""
        self._counters.count(metrics.BACKEND_FOREIGN_ANSWERS, backend)
        kind = backend, head.status, head.media_type[:_LONGEST_NAMED]
        if kind in self._foreign or len(self._foreign) >= _MOST_KINDS:
            return
        self._foreign.add(kind)
        location = head.field(b"location").partition(b"?")[0]  # a query may hold a secret
        _log.error(
            "something answers in the backend's place that is no such backend; senders are told "
            "to retry",
            backend=backend,
            status=head.status,
            content_type=kind[2].decode("latin-1") or "none",
            location=location[:_LONGEST_NAMED].decode("latin-1") or "none",
            do=f"check backends.{backend}.urls (http or https, host, port, path), and look for a "
            "proxy or a login page in front of the backend",
        )
