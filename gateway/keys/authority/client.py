"""Asking a remote authority, an existing StackState, whether a key is good (wire contract §4).

Two dialects: `authorize` (POST, 204 or 403) and `validate` (GET with `sts-api-key`, 2xx or 403).
Only those answers are a verdict: everything else, redirects among them, says nothing about the key.
What is remembered, and what follows from silence, belongs to `keys.authority.verdicts`.
"""

from __future__ import annotations

import asyncio
import enum
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random

from gateway.keys.authority.pause import PauseAfterFailures

ATTEMPTS: Final = 3
"""Of one question, within its timeout; only after failures that pass quickly."""
FAILURES: Final = 5
"""In a row, after which nothing is asked for `PAUSE_S`."""
PAUSE_S: Final = 5
_RETRY_S: Final = (0.02, 0.2)
_NO_CONTENT: Final = 204
_SUCCESS: Final = range(200, 300)
_FORBIDDEN: Final = 403
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500

Dialect = Literal["authorize", "validate"]


class Failure(enum.StrEnum):
    """Why there is no verdict."""

    THROTTLED = "throttled"
    ERROR = "error"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    UNEXPECTED = "unexpected"
    """An answer that is no verdict: a wrong url, dialect or credential."""
    PAUSED = "paused"
    """It was not asked: it has failed too often, or is asked too much already."""


class AuthorityError(Exception):
    """No verdict. The text is for people and holds no key."""

    def __init__(self, reason: Failure, text: str) -> None:
        super().__init__(text)
        self.reason = reason

    @property
    def is_brief(self) -> bool:
        """Whether asking once more at once may help."""
        return self.reason in {Failure.UNREACHABLE, Failure.ERROR}


@dataclass(frozen=True, slots=True)
class AuthorityOptions:
    """Where an authority is, and how it is asked. Times are seconds."""

    url: str
    dialect: Dialect
    with_receiver_key: bool = True
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 2.0
    max_concurrent: int = 5
    tls: ssl.SSLContext | None = None
    server_name: str | None = None


class AuthorityClient:
    """One authority. Made inside the event loop; `close` is due.

    `on_request` is told of each request: its result and how long it took in seconds.
    """

    def __init__(
        self,
        settings: AuthorityOptions,
        on_request: Callable[[str, float], None] = lambda *_: None,
    ) -> None:
        self.settings = settings
        self._on_request = on_request
        self._session: aiohttp.ClientSession | None = None
        self._places = asyncio.Semaphore(settings.max_concurrent)
        self._pause = PauseAfterFailures(FAILURES, PAUSE_S)

    @property
    def location(self) -> str:
        """Where it is, for people; without what could be secret."""
        parts = urlsplit(self.settings.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, key: str) -> bool:
        """Ask whether `key` is good. Raises `AuthorityError` when there is no verdict."""
        if self._pause.is_on:
            raise self._paused()
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                await self._places.acquire()
        except TimeoutError:
            msg = f"more than {self.settings.max_concurrent} questions are under way"
            raise AuthorityError(Failure.PAUSED, msg) from None
        try:
            if self._pause.is_on:  # while this question waited for its turn
                raise self._paused()
            return await self._ask_and_count(key)
        finally:
            self._places.release()

    def _paused(self) -> AuthorityError:
        return AuthorityError(
            Failure.PAUSED, f"it has failed {FAILURES} times in a row: {self.location}"
        )

    async def _ask_and_count(self, key: str) -> bool:
        try:
            is_good = await self._ask_in_time(key)
        except AuthorityError:
            self._pause.failed()
            raise
        self._pause.succeeded()
        return is_good

    async def _ask_in_time(self, key: str) -> bool:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random(*_RETRY_S),
            retry=retry_if_exception(
                lambda error: isinstance(error, AuthorityError) and error.is_brief
            ),
            reraise=True,
        )
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return bool(await retrying(self._ask_once, key))
        except TimeoutError:
            msg = f"{self.location} did not answer within {self.settings.timeout_s:g} s"
            raise AuthorityError(Failure.TIMEOUT, msg) from None

    async def _ask_once(self, key: str) -> bool:
        began = time.monotonic()
        result = str(Failure.TIMEOUT)  # when this is cancelled
        try:
            is_good = self._verdict(await self._status(key))
            result = "allowed" if is_good else "denied"
        except AuthorityError as error:
            result = error.reason
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            result = Failure.UNREACHABLE
            # Never the error's own text: it may repeat headers, and with them the key.
            msg = f"{self.location} cannot be asked ({type(error).__name__})"
            raise AuthorityError(Failure.UNREACHABLE, msg) from None
        finally:
            self._on_request(result, time.monotonic() - began)
        return is_good

    async def _status(self, key: str) -> int:
        settings = self.settings
        headers = dict(settings.headers)
        parameters: dict[str, str] = {}
        body = None
        if settings.dialect == "authorize":
            body = {"apiKey": key}
            if settings.with_receiver_key:
                parameters["withReceiverKey"] = "true"
        else:
            headers["sts-api-key"] = key
        async with self._opened().request(
            "GET" if body is None else "POST",
            settings.url,
            json=body,
            params=parameters,
            headers=headers,
            allow_redirects=False,
            ssl=settings.tls or True,
            server_hostname=settings.server_name,
        ) as response:
            return response.status

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self.settings.max_concurrent),
                timeout=aiohttp.ClientTimeout(total=None),  # `ask` keeps the time
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _verdict(self, status: int) -> bool:
        if status == _FORBIDDEN:
            return False
        if self.settings.dialect == "authorize":
            is_good = status == _NO_CONTENT
        else:
            is_good = status in _SUCCESS
        if is_good:
            return True
        if status == _TOO_MANY:
            msg = f"{self.location} answered 429: too many questions, see keys.authority"
            raise AuthorityError(Failure.THROTTLED, msg)
        if status >= _SERVER_ERROR:
            msg = f"{self.location} answered {status}: see its own log"
            raise AuthorityError(Failure.ERROR, msg)
        msg = (
            f"{self.location} answered {status}, which is no verdict of the dialect "
            f"'{self.settings.dialect}': check the url in keys.stores, keys.authority.dialect "
            "and keys.authority.headers"
        )
        raise AuthorityError(Failure.UNEXPECTED, msg)
