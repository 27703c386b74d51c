"""Fetching an issuer's public keys over HTTP: discovery (OpenID Connect Discovery 1.0), key set.

Redirects are not followed, answers are bounded, and nothing of an answer is repeated in an error.
When to fetch belongs to `issuer`.
"""

from __future__ import annotations

import asyncio
import enum
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
MAX_BYTES: Final = 256 * 1024
"""Of one answer: a hundred RSA keys with certificates are 200 KiB."""
_OK: Final = 200
_SERVER_ERRORS: Final = range(500, 600)
_HEADERS: Final = {"Accept": "application/json", "Cache-Control": "no-cache"}
"""A cache in between must not answer with keys from before a rotation."""


class FetchResult(enum.StrEnum):
    """How a fetch of an issuer's keys ended; the `result` label."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    UNEXPECTED = "unexpected"
    """An answer without usable keys: a wrong url, or something else answers."""


class IssuerError(Exception):
    """The keys could not be fetched. The text is for people."""

    def __init__(self, result: FetchResult, text: str) -> None:
        super().__init__(text)
        self.result = result


class _Discovered(msgspec.Struct):
    issuer: str
    jwks_uri: str


_discovered: Final = msgspec.json.Decoder(_Discovered)


@dataclass(frozen=True, slots=True)
class IssuerOptions:
    """Where an issuer's keys are."""

    url: str
    jwks_uri: str | None = None
    """None = found by discovery."""
    timeout_s: float = 5.0
    """For all requests of one fetch together."""
    tls: ssl.SSLContext | None = None
    server_name: str | None = None


class IssuerClient:
    """One issuer. Made inside the event loop; `close` is due."""

    def __init__(self, options: IssuerOptions) -> None:
        self.options = options
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fetch(self) -> bytes:
        """Return the key set as it was sent. Raises `IssuerError`."""
        try:
            async with asyncio.timeout(self.options.timeout_s):
                return await self._fetch()
        except TimeoutError:
            msg = f"{self.options.url} did not answer within {self.options.timeout_s:g} s"
            raise IssuerError(FetchResult.TIMEOUT, msg) from None

    async def _fetch(self) -> bytes:
        uri = self.options.jwks_uri
        if uri is None:
            uri = await self._discover()
            return await self._get(uri, "the keys that its discovery document names")
        return await self._get(uri, uri)

    async def _discover(self) -> str:
        issuer = self.options.url
        place = issuer.rstrip("/") + DISCOVERY_PATH
        content = await self._get(place, place)
        try:
            found = _discovered.decode(content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            msg = f"{place} is no JSON with 'issuer' and 'jwks_uri'"
            raise IssuerError(FetchResult.UNEXPECTED, msg) from None
        if found.issuer != issuer:
            msg = (
                f"{place} names another issuer: write it in keys.stores to the letter, "
                "with or without a slash at its end"
            )
            raise IssuerError(FetchResult.UNEXPECTED, msg)
        if not _is_as_safe(found.jwks_uri, issuer):
            msg = f"{place} names keys at a place that is no {_scheme(issuer)}:// URL"
            raise IssuerError(FetchResult.UNEXPECTED, msg)
        return found.jwks_uri

    async def _get(self, url: str, what: str) -> bytes:
        """Return the JSON that stands at `url`; `what` names it in errors."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None),  # `fetch` keeps the time
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
            )
        options = self.options
        try:
            async with self._session.get(
                url,
                allow_redirects=False,
                ssl=options.tls or True,
                server_hostname=options.server_name,
            ) as response:
                self._check_head(response, what)
                content = await response.content.read(MAX_BYTES + 1)
                while len(content) <= MAX_BYTES and not response.content.at_eof():
                    content += await response.content.read(MAX_BYTES + 1 - len(content))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            msg = f"{options.url}: cannot get {what} ({type(error).__name__})"
            raise IssuerError(FetchResult.UNREACHABLE, msg) from None
        if len(content) > MAX_BYTES:
            msg = f"{options.url}: {what}: more than {MAX_BYTES // 1024} KiB"
            raise IssuerError(FetchResult.UNEXPECTED, msg)
        return content

    def _check_head(self, response: aiohttp.ClientResponse, what: str) -> None:
        issuer = self.options.url
        if response.status in _SERVER_ERRORS:
            msg = f"{issuer}: {what}: status {response.status}, see its own log"
            raise IssuerError(FetchResult.ERROR, msg)
        if response.status != _OK:
            msg = (
                f"{issuer}: {what}: status {response.status}: check the URL in keys.stores, and "
                "keys.jwt.issuers[].jwks_uri"
            )
            raise IssuerError(FetchResult.UNEXPECTED, msg)
        kind = response.content_type
        if kind != "application/json" and not kind.endswith("+json"):
            msg = f"{issuer}: {what}: the Content-Type is not that of JSON"
            raise IssuerError(FetchResult.UNEXPECTED, msg)


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _is_as_safe(url: str, issuer: str) -> bool:
    """Whether a URL that an issuer names is one, and has TLS where the issuer has."""
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return has_host and parts.scheme in {"https", _scheme(issuer)} and url.isprintable()
