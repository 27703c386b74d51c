"""How the management API says no: StackState's bodies of errors, and which status belongs to what.

Texts come from the rules of keys and say what to do; they never contain a key. `trackingKey` is
what a user can tell an operator: it stands in the log too where the gateway is to blame.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import hdrs

from gateway.control.api.shapes import (
    ApiError,
    ErrorsResponse,
    IngestionApiKeyInvalidExpiryError,
    IngestionApiKeyInvalidInputError,
)
from gateway.keys.errors import (
    DuplicateKeyError,
    InvalidExpiryError,
    InvalidInputError,
    KeyNotFoundError,
    KeyRefusedError,
    KeysError,
    StoreError,
)
from gateway.keys.manage import now_unix_ms
from gateway.keys.material import InvalidKeyError

BASES: Final = ("/api/", "/internal/api/")
STORE_RETRY_S: Final = 5

_TYPES: Final = {
    401: "UnauthorizedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    429: "TooManyAttemptsError",
    500: "InternalError",
    503: "StoreUnavailableError",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is bytes. `value` None = no body."""

    status: int
    value: msgspec.Struct | list[Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def bad_request(text: str) -> Reply:
    """Refuse what cannot be."""
    return Reply(400, IngestionApiKeyInvalidInputError(text))


def errors_response(status: int, text: str, kind: str | None = None) -> ErrorsResponse:
    """Make StackState's body for any failure that has none of its own."""
    error = ApiError(kind or _TYPES.get(status, "RequestError"), text)
    return ErrorsResponse(secrets.token_hex(8), now_unix_ms(), [error])


def error_body(path: str, status: int, text: str) -> object | None:
    """Make the body of an error that arose outside the API's operations (`web.ErrorBody`)."""
    if not path.startswith(BASES):
        return None
    return msgspec.to_builtins(errors_response(status, text))  # type: ignore[no-any-return] # object


def reply_to(error: KeysError | InvalidKeyError) -> Reply:
    """Say what failed in the rules or in the store."""
    text = str(error)
    if isinstance(error, InvalidExpiryError):
        return Reply(400, IngestionApiKeyInvalidExpiryError(text))
    if isinstance(error, InvalidInputError | InvalidKeyError):
        return bad_request(text)
    if isinstance(error, KeyNotFoundError):
        return Reply(404, errors_response(404, text))
    if isinstance(error, DuplicateKeyError):
        return Reply(409, errors_response(409, text, "DuplicateError"))
    if isinstance(error, KeyRefusedError):
        return Reply(409, errors_response(409, text))
    if isinstance(error, StoreError):
        return Reply(503, errors_response(503, text), {str(hdrs.RETRY_AFTER): str(STORE_RETRY_S)})
    raise error
