"""What a backend gets of a request's head: the caller's fields, a credential under `forward.key`,
and what the gateway itself says of the caller.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from gateway.dataplane.core import peers
from gateway.dataplane.core.heads import Pair, RequestHead
from gateway.dataplane.core.memo import Memo
from gateway.dataplane.core.query_key import without_key
from gateway.model import Pairs, Principal
from gateway.settings import ForwardSettings
from gateway.wire import hpack

KeyFinder = Callable[[list[Pair]], bytes]
"""Returns the key itself that is in a request's credential fields."""
_CLIENT: Final = "client"
_PEERS_KEPT: Final = 1_000
_TENANTS_KEPT: Final = 10_000
_PLAIN_IN_NAMES: Final = " !#$&'()*+,/:;=?@[]"


class ForwardedFields:
    """One forwarding policy. `credential` is the gateway's own field, sent instead of the caller's
    under `forward.key: gateway`; None: there is none.
    """

    __slots__ = (
        "_credential_h1",
        "_credential_h2",
        "_find_key",
        "_keeps_query",
        "_scheme",
        "_tenants",
        "_with_identity",
        "is_callers_key",
        "with_address",
    )

    def __init__(
        self,
        credential: Pair | None,
        *,
        is_callers_key: bool,
        identity: bool,
        address: bool = False,
        keeps_query: bool | None = None,
        scheme: str = "",
        find_key: KeyFinder | None = None,
    ) -> None:
        """`identity`, `address`: whether the gateway says whose key it is, and where the request
        came from. `keeps_query`: whether a key in the query goes on; by default as those in fields
        do. `find_key`: sends the caller's key in Authorization, under `scheme`; None: as it came.
        """
        self.is_callers_key = is_callers_key
        """Whether the caller's key goes on."""
        self._scheme = scheme.encode()
        self._find_key = find_key
        self._keeps_query = is_callers_key if keeps_query is None else keeps_query
        self._with_identity = identity
        self.with_address = address
        """Whether the gateway says where the request came from."""
        self._credential_h1 = b"" if credential is None else b"%b: %b\r\n" % credential
        self._credential_h2 = (
            b"" if credential is None else hpack.encode_field(*credential, sensitive=True)
        )

        self._tenants: Memo[Pairs, TenantFields] = Memo(_TENANTS_KEPT)

    def for_tenant(self, headers: Pairs) -> ForwardedFields:
        """Return this policy for keys with headers of their own."""
        known = self._tenants.kept.get(headers)
        return known or self._tenants.add(headers, TenantFields(self, headers))

    def query(self, head: RequestHead) -> bytes | None:
        """Return the query for the backend, with or without a key that is in it."""
        query = head.query
        return query if query is None or self._keeps_query else without_key(query)

    def h1(self, head: RequestHead, principal: Principal | None, peer: str) -> bytes:
        """Return HTTP/1.1 lines, to go behind `head.encoded_h1`, without framing fields."""
        if not self.is_callers_key:
            lines = self._credential_h1
        elif (find_key := self._find_key) is None or _is_backends_form(head):
            lines = head.encoded_credentials_h1()
        else:
            key = find_key(head.credential_pairs)
            # There is none where the caller's certificate says who sends.
            lines = b"authorization: %b %b\r\n" % (self._scheme, key) if key else b""
        if self._with_identity:
            lines += b"".join([b"%b: %b\r\n" % pair for pair in identity_of(principal)])
        if self.with_address:
            lines += b"".join([b"%b: %b\r\n" % pair for pair in _address(peer)])
        return lines

    def h2(self, head: RequestHead, principal: Principal | None, peer: str) -> bytes:
        """Return HPACK representations, for behind the pseudo-fields."""
        fields = head.h2 if head.h2 is not None else head.encoded_h2()
        if not self.is_callers_key:
            fields += self._credential_h2
        elif (find_key := self._find_key) is None or _is_backends_form(head):
            fields += head.credentials_h2 or hpack.encode(head.credential_pairs)
        else:
            key = find_key(head.credential_pairs)
            if key:
                value = b"%b %b" % (self._scheme, key)
                fields += hpack.encode_field(b"authorization", value, sensitive=True)
        if head.content_length >= 0:
            fields += hpack.encode_field(b"content-length", b"%d" % head.content_length)
        if self._with_identity:
            fields += hpack.encode(identity_of(principal))
        if self.with_address:
            fields += hpack.encode(_address(peer))
        return fields


class TenantFields(ForwardedFields):
    """A policy for the requests of keys with headers of their own. Callers' fields of these names
    are in no head (`FieldKinds.drop_too`).
    """

    __slots__ = ("_headers_h1", "_headers_h2", "_policy")

    def __init__(self, policy: ForwardedFields, headers: Pairs) -> None:
        ForwardedFields.__init__(
            self,
            None,
            is_callers_key=policy.is_callers_key,
            identity=False,
            address=policy.with_address,
        )
        self._policy = policy
        pairs = [(name.encode(), value.encode()) for name, value in headers]
        self._headers_h1 = b"".join([b"%b: %b\r\n" % pair for pair in pairs])
        self._headers_h2 = hpack.encode([(name.lower(), value) for name, value in pairs])

    def query(self, head: RequestHead) -> bytes | None:
        """See `ForwardedFields`."""
        return self._policy.query(head)

    def h1(self, head: RequestHead, principal: Principal | None, peer: str) -> bytes:
        """See `ForwardedFields`."""
        return self._policy.h1(head, principal, peer) + self._headers_h1

    def h2(self, head: RequestHead, principal: Principal | None, peer: str) -> bytes:
        """See `ForwardedFields`."""
        return self._policy.h2(head, principal, peer) + self._headers_h2


def forwarded_fields(
    forward: ForwardSettings, name: bytes, scheme: str, find_key: KeyFinder | None = None
) -> ForwardedFields:
    """Make the policy of a configuration; the gateway's own key goes into the field `name`, behind
    `scheme` unless that is empty. For `find_key` see `ForwardedFields`.
    """
    credential: Pair | None = None
    if forward.key == "gateway" and forward.gateway_key is not None:
        credential = name, f"{scheme} {forward.gateway_key}".strip().encode()
    return ForwardedFields(
        credential,
        is_callers_key=forward.key == _CLIENT,
        identity=forward.identity_headers,
        address=forward.sender_address,
        scheme=scheme,
        find_key=find_key,
    )


def _is_backends_form(head: RequestHead) -> bool:
    """Whether the caller's one credential is what OTLP backends get, to the letter."""
    credentials = head.credentials
    return len(credentials) == 1 and credentials[0].is_backends_form


def identity_of(principal: Principal | None) -> list[Pair]:
    """Return who sends. Names may hold any text: percent-encoded UTF-8 (RFC 3986 §2.1)."""
    if principal is None:
        return []
    name = quote(principal.name, safe=_PLAIN_IN_NAMES).strip().encode()
    return [(b"x-gateway-key-id", principal.key_id.encode()), (b"x-gateway-key-name", name)]


@functools.lru_cache(maxsize=_PEERS_KEPT)
def _address(peer: str) -> list[Pair]:
    """Return the caller's address, as most servers read it and as RFC 7239 §6 writes it."""
    host = peers.host_of(peer) or peers.UNKNOWN
    node = f'"[{host}]"' if ":" in host else host
    return [(b"x-forwarded-for", host.encode()), (b"forwarded", f"for={node}".encode())]
