"""Errors of the management API: StackState's bodies, and the status of each error.

Texts come from the rules of keys and say what to do; they never contain a key. `trackingKey` is
random: only StackState's form needs it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import hdrs

from gateway.control.admin.api.shapes import (
    ApiError,
    ErrorsResponse,
    IngestionApiKeyInvalidExpiryError,
    IngestionApiKeyInvalidInputError,
)
from gateway.keys.api_key import InvalidKeyError
from gateway.keys.errors import (
    DuplicateKeyError,
    InvalidExpiryError,
    InvalidInputError,
    KeyNotFoundError,
    KeyRefusedError,
    KeysError,
    StoreError,
)
from gateway.keys.times import now_unix_ms

BASES: Final = ("/api/", "/internal/api/")
STORE_RETRY_S: Final = 5

_TYPES: Final = {
    401: "UnauthorizedError",
    403: "ForbiddenError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    421: "MisdirectedRequestError",
    429: "TooManyAttemptsError",
    500: "InternalError",
    503: "StoreUnavailableError",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """A response before it is encoded. `value` None = no body."""

    status: int
    value: msgspec.Struct | list[Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def bad_request(text: str) -> Reply:
    """Return the reply to an invalid request."""
    return Reply(400, IngestionApiKeyInvalidInputError(text))


def errors_response(status: int, text: str, kind: str | None = None) -> ErrorsResponse:
    """Return StackState's body for any error that has none of its own."""
    error = ApiError(kind or _TYPES.get(status, "RequestError"), text)
    return ErrorsResponse(secrets.token_hex(8), now_unix_ms(), [error])


def error_body(path: str, status: int, text: str) -> object | None:
    """Return the body of an error outside the API's operations (`http_app.ErrorBody`)."""
    if not path.startswith(BASES):
        return None
    return msgspec.to_builtins(errors_response(status, text))  # type: ignore[no-any-return] # object


def reply_to(error: KeysError | InvalidKeyError) -> Reply:
    """Return the reply to an error of the rules or of the store."""
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
