"""`authorize`: an existing StackState collector asks whether a key is good.

It asks without a token and must be answered at once, because one collector asks for all of its
senders. Responses have no body: the collector never closes a response with a body, and runs out of
connections. When the key cannot be checked now, the response is 503, which the collector does not
remember. An address that asks more often than `AddressBudget` allows gets 429, which it does not
remember either.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import hdrs

from gateway.control.admin.api import shapes
from gateway.control.admin.api.errors import STORE_RETRY_S, Reply
from gateway.control.admin.api.operations import Call
from gateway.keys.api_key import ApiKey, InvalidKeyError
from gateway.keys.record import KeyRecord, StaticKey
from gateway.keys.service import KeyService
from gateway.keys.times import now_unix_ms
from gateway.model import KeyState, digest_of

AskAuthority = Callable[[bytes, str], Awaitable[str]]
"""Digest and key → `allowed`, `denied` or `undecided`."""


@dataclass(frozen=True, slots=True)
class Authorizer:
    """Checks keys by the gateway's own stores and a remote authority.

    `ask_authority` returns the verdict on a key that no store holds; None without an authority.
    """

    keys: KeyService
    ask_authority: AskAuthority | None = None

    async def authorize(self, call: Call) -> Reply:
        """Reply 204 for a good key, 403 for another one, 503 when the key cannot be checked."""
        body: shapes.AuthorizeRequest = call.body
        key = self.keys.lookup(digest_of(body.api_key.encode()))
        if isinstance(key, StaticKey):
            return Reply(204 if call.parameters.get("withReceiverKey", False) else 403)
        if key is None:
            return await self._unknown(body.api_key)
        if not _is_good(key, now_unix_ms()):
            return Reply(403)
        self.keys.note_usage(
            key.key_id, allowed=True, requests=0, body_bytes=0, last_used_ms=now_unix_ms()
        )
        return Reply(204)

    async def _unknown(self, key: str) -> Reply:
        """Check a key that no store holds, as far as possible."""
        verdict = "denied"
        if not all(status.up for status in self.keys.statuses()):
            verdict = "undecided"
        if self.ask_authority is not None and _can_be_a_key(key):
            asked = await self.ask_authority(digest_of(key.encode()), key)
            verdict = asked if asked != "denied" else verdict
        if verdict == "undecided":
            return Reply(503, None, {hdrs.RETRY_AFTER: str(STORE_RETRY_S)})
        return Reply(204 if verdict == "allowed" else 403)


def _can_be_a_key(text: str) -> bool:
    try:
        ApiKey.adopt(text)
    except InvalidKeyError:
        return False
    return True


def _is_good(key: KeyRecord, now_ms: int) -> bool:
    """Whether the key may send everything now: the collector asks for no signal."""
    is_expired = key.expires_at_ms is not None and key.expires_at_ms <= now_ms
    return key.state is KeyState.ACTIVE and not is_expired and key.signals is None
