"""Keys of a running gateway, by its management API (`gateway keys --url`)."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

from gateway.cli.key_access import Members
from gateway.cli.output import warning
from gateway.keys.errors import (
    InvalidExpiryError,
    InvalidInputError,
    KeyRefusedError,
    KeysError,
    StoreUnavailableError,
)
from gateway.keys.material import KeyMaterial
from gateway.keys.record import limits_in_words
from gateway.keys.store import KeyUpdate, NewKey
from gateway.model import Signal

TIMEOUT_S: Final = 30.0
_KEYS: Final = "/api/security/ingestion/api_keys"
_ADOPT: Final = "/api/security/ingestion/adopt"
_AUDIT: Final = "/api/security/ingestion/audit"
_MOST_PER_PAGE: Final = 1_000
_CONFIRMED: Final = "X-Gateway-Confirmed"
_INVALID_EXPIRY: Final = "IngestionApiKeyInvalidExpiryError"
_LOOPBACK: Final = {"localhost", "127.0.0.1", "::1"}
_BAD_REQUEST: Final = 400
_TOO_MANY: Final = 429
_SERVER_ERRORS: Final = 500


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer: the token is for the named address only."""

    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401 - urllib's signature
        return None


class RemoteKeys:
    """A `KeyAccess` by HTTP. `url` is the gateway's admin address; a path in it is a prefix."""

    def __init__(self, url: str, token: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            msg = "--url must be the gateway's admin address, such as http://127.0.0.1:8090"
            raise InvalidInputError(msg)
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            warning("--url is http://: the token crosses the network readable; use https://")
        self._base = url.rstrip("/").removesuffix("/api")
        self._host = parts.netloc.rpartition("@")[2]
        self._token = token
        self._opener = urllib.request.build_opener(_NoRedirects)

    def create(self, new: NewKey, adopted: KeyMaterial | None) -> Members:
        """See `KeyAccess`."""
        members: Members = {"name": new.name}
        if new.description:
            members["description"] = new.description
        if new.expires_at_ms is not None:
            members["expiration"] = new.expires_at_ms
        if new.signals is not None:
            members["signals"] = sorted(new.signals)
        if new.limits is not None:
            members["limits"] = limits_in_words(new.limits)
        if adopted is None:
            return self._change("POST", _KEYS, members)
        return self._change("POST", _ADOPT, {**members, "apiKey": adopted.reveal()})

    def list_keys(self) -> list[Members]:
        """See `KeyAccess`."""
        keys: list[Members] = self._ask("GET", _KEYS)[0]
        return sorted(keys, key=lambda key: (key["name"], key["id"]))

    def update(self, key_id: int, update: KeyUpdate) -> Members:
        """See `KeyAccess`."""
        members = update.fields(None)
        if update.limits:
            members["limits"] = dict(update.limits)
        if "signals" in members and update.signals is not None:
            everything = update.signals == frozenset(Signal)
            members["signals"] = None if everything else sorted(update.signals)
        return self._change("PATCH", f"{_KEYS}/{key_id}", members)

    def rotate(self, key_id: int, overlap_ms: int, expires_at_ms: int | None) -> Members:
        """See `KeyAccess`."""
        members = {"overlap": overlap_ms, "expiration": expires_at_ms}
        return self._change("POST", f"{_KEYS}/{key_id}/rotate", members)

    def delete(self, key_id: int) -> None:
        """See `KeyAccess`."""
        self._change("DELETE", f"{_KEYS}/{key_id}", None)

    def audit(self, limit: int, key_id: int | None) -> list[Members]:
        """See `KeyAccess`."""
        about = {} if key_id is None else {"keyId": key_id}
        entries: list[Members] = []
        before: dict[str, int] = {}
        while len(entries) < limit:
            size = min(limit - len(entries), _MOST_PER_PAGE)
            query = urllib.parse.urlencode({"limit": size, **about, **before})
            page: list[Members] = self._ask("GET", f"{_AUDIT}?{query}")[0]
            entries += page
            if len(page) < size:
                break
            before = {"before": page[-1]["id"]}
        return entries

    def _change(self, method: str, path: str, body: Members | None) -> Members:
        answer, headers = self._ask(method, path, body)
        if headers.get(_CONFIRMED) == "false":
            warning(
                "stored, but not all of the gateway's workers have confirmed the change within 1 s:"
                " it may take effect later"
            )
        members: Members = answer or {}
        return members

    def _ask(
        self, method: str, path: str, body: Members | None = None
    ) -> tuple[Any, Mapping[str, str]]:
        """Send a request; give the answer's JSON (None without a body) and headers."""
        request = urllib.request.Request(  # noqa: S310 - the scheme was looked at
            self._base + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Accept": "application/json",
                "Content-Type": "application/json",
                "X-API-Token": self._token,
            },
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                raw = answer.read()
                headers = answer.headers
        except urllib.error.HTTPError as refused:
            with refused:
                raise self._error(refused.code, refused.read()) from None
        except (OSError, http.client.HTTPException) as failure:
            reason = getattr(failure, "reason", None) or failure
            msg = f"nobody answers at {self._host} ({reason}): is it the gateway's admin address?"
            raise StoreUnavailableError(msg) from failure
        try:
            return (json.loads(raw) if raw else None), headers
        except ValueError as failure:
            msg = f"{self._host} does not answer in JSON: is it the gateway's admin address?"
            raise StoreUnavailableError(msg) from failure

    def _error(self, status: int, raw: bytes) -> KeysError:
        """Turn an answer that is a no into the error that a store would have raised."""
        kind, text = _explanation(raw)
        if not text:
            text = f"{self._host} answered {status}: is it the gateway's admin address?"
        if kind == _INVALID_EXPIRY:
            return InvalidExpiryError(text)
        if status == _BAD_REQUEST:
            return InvalidInputError(text)
        if status == _TOO_MANY or status >= _SERVER_ERRORS:
            return StoreUnavailableError(text)
        return KeyRefusedError(text)


def _explanation(raw: bytes) -> tuple[str, str]:
    """Read the kind and the text of an error's body; empty where it has none."""
    try:
        body = json.loads(raw)
    except ValueError:
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    errors = body.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else body
    text = first.get("message") or first.get("error") if isinstance(first, dict) else None
    return str(body.get("_type", "")), text if isinstance(text, str) else ""
