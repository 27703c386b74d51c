"""The verdict on a request that another proxy has received: the same order, the same functions and
the same answers as in a worker's pipeline (`dataplane.exchange.pipeline`).

Route → method → credential → verdict → admission, limits of the key included. What a worker does
besides, forwarding, is not done here.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from typing import Protocol as Seam

from gateway.dataplane.auth.credentials import CredentialReader
from gateway.dataplane.auth.key_lookups import keys_in
from gateway.dataplane.auth.keyring import verdict_on, verdict_on_unknown
from gateway.dataplane.core import replies
from gateway.dataplane.core.credential import Credential
from gateway.dataplane.core.forwarded_fields import identity_of
from gateway.dataplane.core.heads import RequestHead
from gateway.dataplane.core.replies import Reply
from gateway.dataplane.core.routes import Route
from gateway.ext_authz.heads import ForeignHead, HeadReader, ReadHead
from gateway.ext_authz.limits import KeyQuotas, Place
from gateway.ext_authz.routing import Routing
from gateway.model import BackendName, Denied, Pairs, Principal, Undecided, Verdict, digest_of
from gateway.outcome import REFUSALS, Refusal
from gateway.settings import WorkerSettings

Ask = Callable[[bytes, str], Awaitable[tuple[str, Principal | None]]]
"""Digest and key → an authority's `allowed`, `denied` or `undecided`; with whose key it is."""
CheckToken = Callable[[bytes, str], Awaitable[tuple[Verdict, str]]]
"""Digest and token of an identity provider → the verdict on it, and its source."""


class Asks(NamedTuple):
    """Who is asked about what no store holds; None: nobody is configured."""

    key: Ask | None = None
    token: CheckToken | None = None


NOBODY: Final = Asks()


class Keys(Seam):
    """What is known of keys."""

    def principal(self, digest: bytes) -> Principal | None:
        """Return whose key it is, with a name; None for one that is not known."""

    @property
    def is_complete(self) -> bool:
        """Whether a key that is not known exists nowhere."""

    @property
    def tenant_headers(self) -> AbstractSet[bytes]:
        """The names of all headers that keys have, in lower case and with `-` for `_`."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a request. Refused: `refusal` and `reply`."""

    protocol: str
    signal: str
    outcome: str
    """Of `AuthOutcome`; "" where no key was looked at."""
    source: str
    """Of `metrics.SOURCES`."""
    principal: Principal | None = None
    refusal: Refusal | None = None
    reply: Reply | None = None
    body_bytes: int = 0
    """What the request declares."""
    remove: list[str] = field(default_factory=list)
    """Names of fields that the backend must not get."""
    removes_query_key: bool = False
    set: list[tuple[str, str]] = field(default_factory=list)
    """Fields that the backend gets instead of any that the caller sent."""


class Decider:
    """Decides by the settings of this gateway's workers. `asks` know what `keys` does not.

    `place` is where requests count against the limits of their keys.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        keys: Keys,
        asks: Asks = NOBODY,
        place: Place = lambda: None,
    ) -> None:
        self._forward = settings.forward
        self._quotas = KeyQuotas(settings.limits.per_key, place)
        self._keys = keys
        self._ask, self._check_token = asks
        credentials = CredentialReader(
            settings.schemes,
            forward_scheme=settings.forward.scheme,
            with_tokens=self._check_token is not None,
        )
        self._heads = HeadReader(credentials, settings.forward.drop_headers)
        self._router = Routing(settings, credentials).router

    async def decide(self, foreign: ForeignHead) -> Decision:
        """Decide on a request's head."""
        read = self._heads.read(foreign, self._keys.tenant_headers)
        head = read.head
        if read.is_grpc_over_http1:
            route = self._router.find_grpc_over_http1(head)
        else:
            route = self._router.exact.get(head.path) or self._router.find(head)
        if route.refusal is not None:
            return _refused(read, route, route.refusal)
        if head.method not in route.methods:
            return _refused(read, route, route.other_method)
        credential = route.dialect.find_credential(head)
        if credential.passes_unchecked:
            return self._allowed(read, route, credential, None, "none")
        verdict, source = await self._find_verdict(read, credential, route.signal_bit)
        if isinstance(verdict, Principal):
            return self._admitted(read, route, credential, verdict, source)
        if isinstance(verdict, Denied):
            refusal = REFUSALS[verdict.refusal]
            return _refused(read, route, refusal, refusal.outcome.name, source, verdict.principal)
        source = source if source == "authority" else "none"
        return _refused(read, route, REFUSALS["UNDECIDED"], "undecided", source)

    async def _find_verdict(
        self, read: ReadHead, credential: Credential, signal_bit: int
    ) -> tuple[Verdict, str]:
        """Return the verdict on a credential, and where it comes from."""
        digest = credential.digest
        if digest is None:
            return Denied(credential.refusal), "none"
        if credential.is_token and self._check_token is not None:
            token = _presented(read.head, digest)
            if token is None:
                return Undecided(), "none"
            verdict, source = await self._check_token(digest, token)
            if isinstance(verdict, Principal):
                verdict = verdict_on(verdict, signal_bit, time.time_ns() // 1_000_000)
            return verdict, source
        if self._is_for_authority(digest):
            return await self._ask_authority(read, credential, digest), "authority"
        return self._verdict(credential, digest, signal_bit), "keyring"

    def _verdict(self, credential: Credential, digest: bytes, signal_bit: int) -> Verdict:
        principal = self._keys.principal(digest)
        if principal is None:
            return verdict_on_unknown(credential, is_complete=self._keys.is_complete)
        return verdict_on(principal, signal_bit, time.time_ns() // 1_000_000)

    def _is_for_authority(self, digest: bytes) -> bool:
        return self._ask is not None and self._keys.principal(digest) is None

    async def _ask_authority(
        self, read: ReadHead, credential: Credential, digest: bytes
    ) -> Verdict:
        key = _presented(read.head, digest)
        if key is None or self._ask is None:
            return Undecided()
        verdict, principal = await self._ask(digest, key)
        if verdict == "allowed" and principal is not None:
            return principal
        if verdict != "denied":
            return Undecided()
        return verdict_on_unknown(credential, is_complete=self._keys.is_complete)

    def _admitted(
        self, read: ReadHead, route: Route, credential: Credential, whose: Principal, source: str
    ) -> Decision:
        refusal = None if route.handler is not None else self._admit(read, route, whose)
        if refusal is not None:
            return _refused(read, route, refusal, "allowed", source, whose)
        return self._allowed(read, route, credential, whose, source)

    def _admit(self, read: ReadHead, route: Route, whose: Principal) -> Refusal | None:
        """Check what comes after the verdict: content type, declared size, limits."""
        refusal = route.dialect.admit(read.head)
        if refusal is not None:
            return refusal
        if read.head.content_length > route.max_body_bytes > 0:
            return REFUSALS["BODY_TOO_LARGE"]
        return self._quotas.admit(whose, read.head.content_length)

    def _allowed(
        self,
        read: ReadHead,
        route: Route,
        credential: Credential,
        whose: Principal | None,
        source: str,
    ) -> Decision:
        remove, fields = list(read.dropped), list[tuple[str, str]]()
        if whose is not None:
            fields += [(n.decode(), value.decode()) for n, value in identity_of(whose)]
        if whose is not None and whose.tenant is not None:
            fields += [(name.lower(), value) for name, value in whose.tenant.headers]
            remove += _spellings(read.names, whose.tenant.headers)
        is_kept = self._forward.key == "client" or credential.passes_unchecked
        if not is_kept:
            remove += read.carriers
        if not is_kept and self._forward.gateway_key is not None:
            fields.append(self._own_key(route, self._forward.gateway_key))
        named = {name for name, _ in fields}
        return Decision(
            route.counters.protocol,
            route.counters.signal,
            "allowed" if whose is not None else "",
            source,
            whose,
            body_bytes=max(read.head.content_length, 0),
            remove=[name for name in remove if name not in named],
            removes_query_key=not is_kept and read.head.query is not None,
            set=fields,
        )

    def _own_key(self, route: Route, key: str) -> tuple[str, str]:
        if route.backend == BackendName.INTAKE.value:
            return "sts-api-key", key
        return "authorization", f"{self._forward.scheme} {key}"


def _presented(head: RequestHead, digest: bytes) -> str | None:
    """Return the key or token that has a digest, as it was presented."""
    found = next((key for key in keys_in(head) if digest_of(key) == digest), None)
    return None if found is None else found.decode("ascii")


def _spellings(names: list[bytes], headers: Pairs) -> list[str]:
    """Return the fields of a caller that a server might take for one of these headers."""
    taken = {name.lower().replace("_", "-").encode() for name, _ in headers}
    return [name.decode("latin-1") for name in names if name.replace(b"_", b"-") in taken]


def _refused(
    read: ReadHead,
    route: Route,
    refusal: Refusal,
    outcome: str = "",
    source: str = "none",
    whose: Principal | None = None,
) -> Decision:
    reply = route.dialect.reply(refusal, read.head, route.allow)
    return Decision(
        route.counters.protocol,
        route.counters.signal,
        outcome,
        source,
        whose,
        refusal,
        # An answer that a worker would withhold: a proxy can only give one.
        reply if reply is not None else replies.http_reply(refusal, is_protobuf=False),
    )
