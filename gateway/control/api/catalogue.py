"""All operations of the management API, in the order of their description."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.control.api import shapes
from gateway.control.api.authorize import AskAuthority, Authorizer
from gateway.control.api.errors import Reply
from gateway.control.api.keys import ADOPT_PATH, AUDIT_PATH, KEYS_PATH, KeysApi
from gateway.control.api.openapi import document
from gateway.control.api.operations import CONFIRMED, Answer, Call, Operation, Parameter
from gateway.control.web import Route, json_response
from gateway.keys.service import KeyService

AUTHORIZE_PATHS: Final = (
    "/api/security/ingestion/authorize",
    "/internal/api/security/ingestion/authorize",
)
DOCUMENT_PATH: Final = "/api/openapi.json"

_LINK: Final = {"Link": "Where the next page is, if there is one (RFC 8288)."}
_CONFIRMED: Final = {
    CONFIRMED: "`true`: all workers on this host have confirmed; `false`: not within a second."
}
_RETRY: Final = {"Retry-After": "Seconds to wait."}

_ID: Final = Parameter("id", "path", shapes.KeyId, "The key's id.")
_BAD: Final = Answer("Something in the request cannot be.", shapes.BadRequest)
_ERRORS: Final = {
    500: Answer("The gateway failed.", shapes.ErrorsResponse),
}
_GUARDED: Final = {
    401: Answer("No token, or a wrong one.", shapes.ErrorsResponse),
    429: Answer("Too many wrong tokens from this address.", shapes.ErrorsResponse, _RETRY),
    **_ERRORS,
}
_STORE: Final = {
    503: Answer("The key store cannot be reached: try again.", shapes.ErrorsResponse, _RETRY),
    **_GUARDED,
}
_NOT_FOUND: Final = {404: Answer("There is no such key.", shapes.ErrorsResponse)}
_CONFLICT: Final = {
    409: Answer("The key exists already, or the store is read-only.", shapes.ErrorsResponse)
}
_TOO_LARGE: Final = {413: Answer("The body is too long.", shapes.ErrorsResponse)}
_CHANGE: Final = {400: _BAD, **_CONFLICT, **_TOO_LARGE, **_STORE}


def _changed(description: str, kind: Any) -> Answer:  # noqa: ANN401 - a type
    return Answer(description, kind, _CONFIRMED)


async def _server_info(call: Call) -> Reply:  # noqa: ARG001 - an operation's signature
    return Reply(200, shapes.ServerInfo(shapes.ServerVersion()))


@dataclass(frozen=True, slots=True)
class Api:
    """The API of one gateway; `confirmed` and `ask_authority` as in `KeysApi`, `Authorizer`."""

    keys: KeyService
    confirmed: Callable[[int], Awaitable[bool]]
    ask_authority: AskAuthority | None = None
    operations: list[Operation] = field(init=False)

    def __post_init__(self) -> None:
        operations = [
            Operation(
                "getServerInfo",
                "GET",
                ["/api/server/info"],
                "Tell the API's version, as the sts CLI asks first.",
                _server_info,
                {200: Answer("The version.", shapes.ServerInfo), **_GUARDED},
            ),
            *_key_operations(KeysApi(self.keys, self.confirmed)),
            self._authorize(),
        ]
        object.__setattr__(self, "operations", operations)

    def routes(self) -> list[Route]:
        """Everything: the operations, and their description."""
        described = document(self.operations)

        async def describe(_: object) -> Any:  # noqa: ANN401 - aiohttp's response
            return json_response(200, described)

        routes = [route for operation in self.operations for route in operation.routes()]
        return [*routes, Route("GET", DOCUMENT_PATH, describe)]

    def authorize_routes(self) -> list[Route]:
        """All there is on `admin.authorize_address`."""
        return self._authorize().routes()

    def _authorize(self) -> Operation:
        return _authorize(Authorizer(self.keys, self.ask_authority))


def _authorize(authorizer: Authorizer) -> Operation:
    flag = Parameter("withReceiverKey", "query", bool, "Whether receiver keys are good, too.")
    return Operation(
        "authorizeIngestionApiKey",
        "POST",
        AUTHORIZE_PATHS,
        "Say whether a key is good. Takes no token.",
        authorizer.authorize,
        {
            204: Answer("The key is good."),
            400: _BAD,
            403: Answer("The key is not accepted."),
            503: Answer("It cannot be told now: try again.", None, _RETRY),
            **_TOO_LARGE,
            **_ERRORS,
        },
        parameters=[flag],
        takes=shapes.AuthorizeRequest,
        needs_token=False,
    )


def _key_operations(api: KeysApi) -> list[Operation]:
    one = f"{KEYS_PATH}/{{id}}"
    return [
        Operation(
            "getIngestionApiKeys",
            "GET",
            [KEYS_PATH],
            "List keys by id; all of them unless a page is asked for.",
            api.list_keys,
            {
                200: Answer("The keys.", list[shapes.IngestionApiKey], _LINK),
                400: _BAD,
                **_CONFLICT,
                **_STORE,
            },
            parameters=[
                Parameter("limit", "query", shapes.PageSize, "The most keys to be given."),
                Parameter("after", "query", shapes.KeyId, "Only keys with greater ids."),
            ],
        ),
        Operation(
            "generateIngestionApiKey",
            "POST",
            [KEYS_PATH],
            "Make a key. It is shown in the answer, and never again.",
            api.create,
            {
                200: _changed("The key.", shapes.GeneratedIngestionApiKeyResponse),
                **_CHANGE,
            },
            takes=shapes.CreateIngestionApiKeyRequest,
        ),
        Operation(
            "adoptIngestionApiKey",
            "POST",
            [ADOPT_PATH],
            "Accept a key that exists elsewhere.",
            api.adopt,
            {200: _changed("The key, without itself.", shapes.IngestionApiKey), **_CHANGE},
            takes=shapes.AdoptIngestionApiKeyRequest,
        ),
        Operation(
            "getIngestionApiKey",
            "GET",
            [one],
            "Show one key.",
            api.get,
            {200: Answer("The key.", shapes.IngestionApiKey), **_NOT_FOUND, **_CONFLICT, **_STORE},
            parameters=[_ID],
        ),
        Operation(
            "updateIngestionApiKey",
            "PATCH",
            [one],
            "Change a key's name, description, whether it is enabled, what it may send, how much.",
            api.update,
            {
                200: _changed("The key as it is now.", shapes.IngestionApiKey),
                **_NOT_FOUND,
                **_CHANGE,
            },
            parameters=[_ID],
            takes=shapes.UpdateIngestionApiKeyRequest,
        ),
        Operation(
            "rotateIngestionApiKey",
            "POST",
            [f"{one}/rotate"],
            "Make a successor of a key; the old one expires after the overlap.",
            api.rotate,
            {
                200: _changed("Both keys.", shapes.RotatedIngestionApiKeyResponse),
                **_NOT_FOUND,
                **_CHANGE,
            },
            parameters=[_ID],
            takes=shapes.RotateIngestionApiKeyRequest,
        ),
        Operation(
            "deleteIngestionApiKey",
            "DELETE",
            [one],
            "Delete a key: its senders are refused from now on.",
            api.delete,
            {204: _changed("It is deleted.", None), **_NOT_FOUND, **_CONFLICT, **_STORE},
            parameters=[_ID],
        ),
        Operation(
            "getIngestionApiKeyAudit",
            "GET",
            [AUDIT_PATH],
            "List who changed which key when and from where, newest first.",
            api.audit,
            {
                200: Answer("The changes.", list[shapes.AuditEntry], _LINK),
                400: _BAD,
                **_CONFLICT,
                **_STORE,
            },
            parameters=[
                Parameter("limit", "query", shapes.PageSize, "The most changes to be given."),
                Parameter("before", "query", shapes.KeyId, "Only changes with smaller ids."),
                Parameter("keyId", "query", shapes.KeyId, "Only changes of this key."),
            ],
        ),
    ]
