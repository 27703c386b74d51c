"""Keys of a running gateway, by its management API (`gateway keys --url`)."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gateway.cli.answers import WrongShapeError, decoded
from gateway.cli.keys.access import STANDBYS, ImportOutcome, Members
from gateway.cli.keys.answers import (
    Change,
    GeneratedKey,
    Imported,
    Key,
    PortableKey,
    RotatedKey,
    UsageRow,
)
from gateway.cli.keys.remote_bulk import batches
from gateway.cli.output import note, warning
from gateway.config.addresses import is_loopback
from gateway.control.admin.api.key_filter import KeyFilter
from gateway.control.admin.api.paths import (
    ADOPT_PATH,
    AUDIT_PATH,
    CONFIRMED,
    EXCEPT_STANDBYS,
    EXPORT_PATH,
    FIND_PATH,
    IMPORT_PATH,
    KEYS_PATH,
    UNCONFIRMED,
    USAGE_PATH,
)
from gateway.keys.api_key import ApiKey
from gateway.keys.errors import (
    InvalidExpiryError,
    InvalidInputError,
    KeyRefusedError,
    KeysError,
    StoreUnavailableError,
)
from gateway.keys.record import camel, limits_as_json
from gateway.keys.store import ImportedKey, KeySpec, KeyUpdate
from gateway.keys.stores.file_entries import Entry, parse_entry
from gateway.keys.tenancy import TenancyUpdate, tenancy_as_json, tenancy_from_json
from gateway.model import Signal
from gateway.terminal import escaped

TIMEOUT_S: Final = 30.0
_MOST_PER_PAGE: Final = 1_000
_INVALID_EXPIRY: Final = "IngestionApiKeyInvalidExpiryError"
_LONGEST_TEXT: Final = 1_000
"""Of a server's explanation, in characters."""
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
        parts = _checked(url)
        is_local = is_loopback(parts.hostname or "")
        if parts.scheme == "http" and not is_local:
            warning("--url is http://: the token crosses the network readable; use https://")
        self._base = url.rstrip("/").removesuffix("/api")
        self._host = parts.netloc.rpartition("@")[2]
        self._token = token
        self._opener = urllib.request.build_opener(_NoRedirects, _proxies(is_local=is_local))

    def create(self, spec: KeySpec, adopted: ApiKey | None) -> Members:
        """See `KeyAccess`."""
        members: Members = {"name": spec.name}
        if spec.description:
            members["description"] = spec.description
        if spec.expires_at_ms is not None:
            members["expiration"] = spec.expires_at_ms
        if spec.signals is not None:
            members["signals"] = sorted(spec.signals)
        if spec.limits is not None:
            limits = limits_as_json(spec.limits)
            members["limits"] = {camel(name): limit for name, limit in limits.items()}
        members |= tenancy_as_json(spec.tenancy)
        if adopted is None:
            return self._change("POST", KEYS_PATH, members, GeneratedKey)
        adopted_members = {**members, "apiKey": adopted.reveal()}
        return self._change("POST", ADOPT_PATH, adopted_members, Key)

    def list_keys(self, chosen: KeyFilter) -> list[Members]:
        """See `KeyAccess`."""
        query = urllib.parse.urlencode(chosen.parameters(), doseq=True)
        path = f"{KEYS_PATH}?{query}" if query else KEYS_PATH
        keys: list[Members] = self._ask("GET", path, None, list[Key])[0]
        # An older gateway does not know the parameters, and sends all keys.
        taken = [key for key in keys if chosen.takes(tenancy_from_json(key))]
        return sorted(taken, key=lambda key: (key["name"], key["id"]))

    def update(self, key_id: int, update: KeyUpdate) -> Members:
        """See `KeyAccess`."""
        members = update.fields(None)
        if update.limits:
            members["limits"] = {camel(name): limit for name, limit in update.limits.items()}
        if "signals" in members and update.signals is not None:
            everything = update.signals == frozenset(Signal)
            members["signals"] = None if everything else sorted(update.signals)
        members.pop("tenancy", None)
        members |= _tenancy_members(update.tenancy)
        return self._change("PATCH", f"{KEYS_PATH}/{key_id}", members, Key)

    def rotate(self, key_id: int, overlap_ms: int, expires_at_ms: int | None) -> Members:
        """See `KeyAccess`."""
        members = {"overlap": overlap_ms, "expiration": expires_at_ms}
        return self._change("POST", f"{KEYS_PATH}/{key_id}/rotate", members, RotatedKey)

    def delete(self, key_id: int) -> None:
        """See `KeyAccess`."""
        self._change("DELETE", f"{KEYS_PATH}/{key_id}", None, None)

    def audit(self, limit: int, key_id: int | None) -> list[Members]:
        """See `KeyAccess`."""
        about = {} if key_id is None else {"keyId": key_id}
        entries: list[Members] = []
        before: dict[str, int] = {}
        while len(entries) < limit:
            size = min(limit - len(entries), _MOST_PER_PAGE)
            query = urllib.parse.urlencode({"limit": size, **about, **before})
            page: list[Members] = self._ask("GET", f"{AUDIT_PATH}?{query}", None, list[Change])[0]
            entries += page
            if len(page) < size:
                break
            before = {"before": page[-1]["id"]}
        return entries

    def export(self) -> list[Entry]:
        """See `KeyAccess`."""
        entries: list[Entry] = []
        after: dict[str, int] = {}
        while True:
            query = urllib.parse.urlencode({"limit": _MOST_PER_PAGE, **after})
            page = self._ask("GET", f"{EXPORT_PATH}?{query}", None, list[PortableKey])[0]
            entries += [parse_entry(each, place) for place, each in enumerate(page, start=1)]
            if len(page) < _MOST_PER_PAGE:
                return sorted(entries, key=lambda entry: (entry.name, entry.id))
            after = {"after": page[-1]["id"]}

    def whose(self, key: ApiKey) -> Members:
        """See `KeyAccess`."""
        found: Members = self._ask("POST", FIND_PATH, {"apiKey": key.reveal()}, Key)[0]
        return found

    def bring_in(
        self, keys: Sequence[ImportedKey], advance: Callable[[int], None], *, is_dry_run: bool
    ) -> ImportOutcome:
        """See `KeyAccess`; what only the gateway can find wrong is a plain `InvalidInputError`."""
        outcome = ImportOutcome()
        for batch in batches(keys):
            body = {"keys": batch, "dryRun": is_dry_run}
            done = self._change("POST", IMPORT_PATH, body, Imported)
            outcome.add(done["imported"], done["existing"], done["deleted"])
            advance(len(batch))
        return outcome

    def usage(self, parameters: Mapping[str, Any]) -> list[Members]:
        """See `KeyAccess`."""
        query = urllib.parse.urlencode(parameters, doseq=True)
        rows: list[Members] = self._ask("GET", f"{USAGE_PATH}?{query}", None, list[UsageRow])[0]
        return rows

    def _change(self, method: str, path: str, body: Members | None, shape: Any) -> Members:  # noqa: ANN401 - a type
        answer, headers = self._ask(method, path, body, shape)
        if headers.get(CONFIRMED) == "false":
            late = headers.get(UNCONFIRMED)
            warning(
                "stored, but not all gateways that share the store have confirmed the change in"
                f" time{f' ({late})' if late else ''}: it may take effect there later"
            )
        elif headers.get(CONFIRMED) == EXCEPT_STANDBYS:
            note(f"in force{STANDBYS}")
        members: Members = answer or {}
        return members

    def _ask(
        self,
        method: str,
        path: str,
        body: Members | None,
        shape: Any,  # noqa: ANN401 - a type
    ) -> tuple[Any, Mapping[str, str]]:
        """Send a request; give the answer's JSON and headers.

        It has `shape`; None = it has no body.
        """
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
        if shape is None:
            return None, headers
        try:
            return decoded(raw, shape), headers
        except WrongShapeError as failure:
            msg = (
                f"{self._host} does not answer as a gateway does ({failure}): is it the gateway's"
                " admin address?"
            )
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


def _tenancy_members(update: TenancyUpdate | None) -> Members:
    """Write a change as the API takes it: null takes something away."""
    if update is None:
        return {}
    members: Members = {}
    if update.owner is not None:
        members["owner"] = update.owner or None
    for name, change in ("labels", update.labels), ("headers", update.headers):
        if change:
            members[name] = dict(change)
    return members


def _checked(url: str) -> urllib.parse.SplitResult:
    """Take the address apart. Raises `InvalidInputError`."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urllib.parse.urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = "--url must be the gateway's admin address, such as http://127.0.0.1:8090"
        raise InvalidInputError(msg)
    return parts


def _proxies(*, is_local: bool) -> urllib.request.ProxyHandler:
    """Choose what becomes of `HTTPS_PROXY`: a proxy must never see the token.

    Through a proxy goes only https, as a tunnel, and nothing to this machine. Over http a proxy
    would read the token, and "localhost" would be the proxy's own.
    """
    https = None if is_local else urllib.request.getproxies().get("https")
    return urllib.request.ProxyHandler({} if https is None else {"https": https})


def _explanation(raw: bytes) -> tuple[str, str]:
    """Read the kind and the text of an error's body; empty where it has none."""
    try:
        body = decoded(raw, dict[str, Any])
    except WrongShapeError:
        return "", ""
    errors = body.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else body
    text = first.get("message") or first.get("error") if isinstance(first, dict) else None
    shown = escaped(text[:_LONGEST_TEXT]) if isinstance(text, str) else ""
    return str(body.get("_type", "")), shown
