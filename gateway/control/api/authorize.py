"""`authorize`: an existing StackState collector asks whether a key is good.

It asks without a token and must be answered at once, because one collector stands for all of its
senders. Answers have no bodies: the collector never closes those of answers that have one, and
runs out of connections. Where it cannot be told whether a key exists the answer is no verdict,
which the collector does not remember.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import hdrs

from gateway.control.api import shapes
from gateway.control.api.errors import STORE_RETRY_S, Reply
from gateway.control.api.operations import Call
from gateway.keys.manage import now_unix_ms
from gateway.keys.record import KeyRecord, StaticKey
from gateway.keys.service import KeyService
from gateway.model import KeyState, digest_of


@dataclass(frozen=True, slots=True)
class Authorizer:
    """Says whether keys are good, by what the gateway knows."""

    keys: KeyService

    async def authorize(self, call: Call) -> Reply:
        """204 for a good key, 403 for another one, 503 where nobody can tell."""
        body: shapes.AuthorizeRequest = call.body
        key = self.keys.lookup(digest_of(body.api_key.encode()))
        if isinstance(key, StaticKey):
            return Reply(204 if call.parameters.get("withReceiverKey", False) else 403)
        if key is None:
            if all(status.up for status in self.keys.statuses()):
                return Reply(403)
            return Reply(503, None, {hdrs.RETRY_AFTER: str(STORE_RETRY_S)})
        if not _is_good(key, now_unix_ms()):
            return Reply(403)
        self.keys.note_usage(
            key.key_id, allowed=True, requests=0, body_bytes=0, last_used_ms=now_unix_ms()
        )
        return Reply(204)


def _is_good(key: KeyRecord, now_ms: int) -> bool:
    """Whether the key may send everything now: the collector asks for no signal."""
    is_expired = key.expires_at_ms is not None and key.expires_at_ms <= now_ms
    return key.state is KeyState.ACTIVE and not is_expired and key.signals is None
