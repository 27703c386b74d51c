"""Who is signed in to the console, by a cookie in place of the admin token.

Sessions are kept in memory only: a restart signs everybody out. A session ends with its token, and
with its role: one that a reload takes out of the configuration opens nothing any more. Neither
tokens nor the values of cookies are kept, only their digests.

A page of another site can have a browser send the cookie, so it does not suffice: each request also
needs the session's proof in a header field, which only a script of this origin can read and send
(OWASP, "Cross-Site Request Forgery Prevention": synchronizer token).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.control.admin.roles import Caller

IDLE_S: Final = 3_600.0
"""A session that is not used for so long ends."""
LONGEST_S: Final = 12 * 3_600.0
"""A session ends then in any case."""
MOST: Final = 1_000
"""Sessions at once; the one that was used longest ago makes room."""
_BYTES: Final = 32


@dataclass(slots=True)
class Session:
    """Somebody who is signed in. `caller` is whose token it was."""

    caller: Caller
    proof: str
    token_digest: bytes
    opened_s: float
    used_s: float


class Sessions:
    """All sessions. `find_token` returns whose token has a digest, None for no token."""

    def __init__(
        self,
        find_token: Callable[[bytes], Caller | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find_token = find_token
        self._clock = clock
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def open(self, caller: Caller, token: str) -> tuple[str, Session]:
        """Sign in with a token that has been checked; return the cookie's value and the session."""
        cookie = secrets.token_urlsafe(_BYTES)
        now_s = self._clock()
        proof = secrets.token_urlsafe(_BYTES)
        session = Session(caller, proof, digest_of_token(token), now_s, now_s)
        self._sessions[_digest(cookie)] = session
        if len(self._sessions) > MOST:
            self._sessions.popitem(last=False)
        return cookie, session

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if it is over, or never was."""
        digest = _digest(cookie)
        session = self._sessions.get(digest)
        if session is None:
            return None
        now_s = self._clock()
        is_over = now_s - session.used_s > IDLE_S or now_s - session.opened_s > LONGEST_S
        if is_over or self._find_token(session.token_digest) != session.caller:
            del self._sessions[digest]
            return None
        session.used_s = now_s
        self._sessions.move_to_end(digest)
        return session

    def close(self, cookie: str) -> None:
        """Sign out."""
        self._sessions.pop(_digest(cookie), None)


def is_proof(session: Session, presented: str) -> bool:
    """Whether a request with the session's cookie comes from the console itself."""
    return hmac.compare_digest(session.proof.encode(), presented.encode("utf-8", "replace"))


def digest_of_token(token: str) -> bytes:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).digest()
