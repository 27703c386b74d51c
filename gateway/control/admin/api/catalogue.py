"""All operations of the management API, in the order of their description."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.control.admin.address_budget import AddressBudget
from gateway.control.admin.api import shapes
from gateway.control.admin.api.authorize import AskAuthority, Authorizer
from gateway.control.admin.api.bulk import BulkApi
from gateway.control.admin.api.errors import Reply
from gateway.control.admin.api.keys import KeysApi
from gateway.control.admin.api.openapi import document
from gateway.control.admin.api.operations import Call, Operation, Parameter, Response
from gateway.control.admin.api.paths import (
    ADOPT_PATH,
    AUDIT_PATH,
    CONFIRMED,
    EXPORT_PATH,
    FIND_PATH,
    IMPORT_PATH,
    KEYS_PATH,
    UNCONFIRMED,
    USAGE_PATH,
)
from gateway.control.admin.http_app import Route, json_response
from gateway.control.admin.roles import Role
from gateway.keys.service import KeyService

AUTHORIZE_PATHS: Final = (
    "/api/security/ingestion/authorize",
    "/internal/api/security/ingestion/authorize",
)
DOCUMENT_PATH: Final = "/api/openapi.json"

_LINK: Final = {"Link": "Where the next page is, if there is one (RFC 8288)."}
_CONFIRMED: Final = {
    CONFIRMED: "`true`: all gateways of the store have confirmed; `except-standbys`: all but those"
    " that may read from a standby of the database; `false`: not within 1 s, or 5 s for a store"
    " that hosts share.",
    UNCONFIRMED: "The gateways that have not confirmed, separated by commas.",
}
_RETRY: Final = {"Retry-After": "Seconds to wait."}

_ID: Final = Parameter("id", "path", shapes.KeyId, "The key's id.")
_OF_TENANTS: Final = (
    Parameter("owner", "query", shapes.Owner, "Only keys of this owner."),
    Parameter(
        "label",
        "query",
        list[shapes.LabelFilter],
        "Only keys with this label; repeat it for keys with all of several.",
        repeats=True,
    ),
)
_BAD: Final = Response("Something in the request is invalid.", shapes.BadRequest)
_ERRORS: Final = {
    421: Response("The name in the field Host is not in admin.hosts.", shapes.ErrorsResponse),
    500: Response("The gateway failed.", shapes.ErrorsResponse),
}
_GUARDED: Final = {
    401: Response("No token, or a wrong token.", shapes.ErrorsResponse),
    429: Response("Too many wrong tokens from this address.", shapes.ErrorsResponse, _RETRY),
    **_ERRORS,
}
_STORE: Final = {
    503: Response("The key store cannot be reached: try again.", shapes.ErrorsResponse, _RETRY),
    **_GUARDED,
}
_NOT_FOUND: Final = {404: Response("There is no such key.", shapes.ErrorsResponse)}
_CONFLICT: Final = {
    409: Response("The key exists already, or the store is read-only.", shapes.ErrorsResponse)
}
_TOO_LARGE: Final = {413: Response("The body is too long.", shapes.ErrorsResponse)}
_ROLE: Final = {403: Response("The role of the token is reader.", shapes.ErrorsResponse)}
_CHANGE: Final = {400: _BAD, **_ROLE, **_CONFLICT, **_TOO_LARGE, **_STORE}


def _changed(description: str, kind: Any) -> Response:  # noqa: ANN401 - a type
    return Response(description, kind, _CONFIRMED)


async def _server_info(call: Call) -> Reply:  # noqa: ARG001 - an operation's signature
    return Reply(200, shapes.ServerInfo(shapes.ServerVersion()))


@dataclass(frozen=True, slots=True)
class Api:
    """The API of one gateway; `confirmed` and `ask_authority` as in `KeysApi`, `Authorizer`."""

    keys: KeyService
    confirmed: Callable[[int], Awaitable[bool]]
    ask_authority: AskAuthority | None = None
    budget: AddressBudget = field(default_factory=AddressBudget)
    """Of `authorize`, on all addresses."""
    operations: list[Operation] = field(init=False)

    def __post_init__(self) -> None:
        operations = [
            Operation(
                "getServerInfo",
                "GET",
                ["/api/server/info"],
                "Show the API's version; the sts CLI asks for it first.",
                _server_info,
                {200: Response("The version.", shapes.ServerInfo), **_GUARDED},
                takes_scopes=True,
            ),
            *_key_operations(KeysApi(self.keys, self.confirmed)),
            self._authorize(),
        ]
        object.__setattr__(self, "operations", operations)

    def routes(self) -> list[Route]:
        """Return the routes of all operations and of their description."""
        described = document(self.operations)

        async def describe(_: object) -> Any:  # noqa: ANN401 - aiohttp's response
            return json_response(200, described)

        routes = [route for operation in self.operations for route in operation.routes()]
        return [*routes, Route("GET", DOCUMENT_PATH, describe)]

    def authorize_routes(self) -> list[Route]:
        """Return the routes for `admin.authorize_address`."""
        return self._authorize().routes()

    def _authorize(self) -> Operation:
        return _authorize(Authorizer(self.keys, self.ask_authority), self.budget)


def _authorize(authorizer: Authorizer, budget: AddressBudget) -> Operation:
    flag = Parameter("withReceiverKey", "query", bool, "Whether receiver keys are accepted too.")
    return Operation(
        "authorizeIngestionApiKey",
        "POST",
        AUTHORIZE_PATHS,
        "Check whether a key is good. Needs no token.",
        authorizer.authorize,
        {
            204: Response("The key is good."),
            400: _BAD,
            403: Response("The key is not accepted."),
            429: Response("Too many requests from this address: wait.", None, _RETRY),
            503: Response("The key cannot be checked now: try again.", None, _RETRY),
            **_TOO_LARGE,
            **_ERRORS,
        },
        parameters=[flag],
        takes=shapes.AuthorizeRequest,
        needs=None,
        budget=budget,
    )


def _key_operations(api: KeysApi) -> list[Operation]:
    return [
        *_key_set_operations(api),
        *_one_key_operations(api),
        *_bulk_operations(BulkApi(api)),
        _audit_operation(api),
        _usage_operation(api),
    ]


def _list_operation(api: KeysApi) -> Operation:
    return Operation(
        "getIngestionApiKeys",
        "GET",
        [KEYS_PATH],
        "List keys by id; all keys unless a page, an owner or labels are requested.",
        api.list_keys,
        {
            200: Response("The keys.", list[shapes.IngestionApiKey], _LINK),
            400: _BAD,
            **_CONFLICT,
            **_STORE,
        },
        parameters=[
            Parameter("limit", "query", shapes.PageSize, "The most keys to return."),
            Parameter("after", "query", shapes.KeyId, "Only keys with greater ids."),
            *_OF_TENANTS,
        ],
        takes_scopes=True,
    )


def _key_set_operations(api: KeysApi) -> list[Operation]:
    return [
        _list_operation(api),
        Operation(
            "generateIngestionApiKey",
            "POST",
            [KEYS_PATH],
            "Create a key. The response shows it, and nothing shows it again.",
            api.create,
            {
                200: _changed("The key.", shapes.GeneratedIngestionApiKeyResponse),
                **_CHANGE,
            },
            takes=shapes.CreateIngestionApiKeyRequest,
            needs=Role.KEY_MANAGER,
            takes_scopes=True,
        ),
        Operation(
            "adoptIngestionApiKey",
            "POST",
            [ADOPT_PATH],
            "Accept a key that already exists elsewhere.",
            api.adopt,
            {
                200: _changed("The key's record, without the key.", shapes.IngestionApiKey),
                **_CHANGE,
            },
            takes=shapes.AdoptIngestionApiKeyRequest,
            needs=Role.KEY_MANAGER,
            takes_scopes=True,
        ),
    ]


def _bulk_operations(api: BulkApi) -> list[Operation]:
    return [
        Operation(
            "importIngestionApiKeys",
            "POST",
            [IMPORT_PATH],
            "Store keys by their digests, all or none; those that are there stay as they are.",
            api.bring_in,
            {
                200: _changed("What became of them.", shapes.ImportIngestionApiKeysResponse),
                **_CHANGE,
            },
            takes=shapes.ImportIngestionApiKeysRequest,
            needs=Role.KEY_MANAGER,
            takes_scopes=True,
        ),
        Operation(
            "exportIngestionApiKeys",
            "GET",
            [EXPORT_PATH],
            "List a page of keys by id with their digests, for an import.",
            api.export,
            {
                200: Response("The keys.", list[shapes.PortableIngestionApiKey], _LINK),
                400: _BAD,
                **_ROLE,
                **_CONFLICT,
                **_STORE,
            },
            parameters=[
                Parameter("limit", "query", shapes.PageSize, "The most keys to return."),
                Parameter("after", "query", shapes.KeyId, "Only keys with greater ids."),
            ],
            needs=Role.KEY_MANAGER,
            takes_scopes=True,
        ),
        Operation(
            "findIngestionApiKey",
            "POST",
            [FIND_PATH],
            "Say whose key it is that somebody has found.",
            api.find,
            {
                200: Response("The key's record, without the key.", shapes.IngestionApiKey),
                400: _BAD,
                **_NOT_FOUND,
                **_CONFLICT,
                **_TOO_LARGE,
                **_STORE,
            },
            takes=shapes.FindIngestionApiKeyRequest,
            takes_scopes=True,
        ),
    ]


def _one_key_operations(api: KeysApi) -> list[Operation]:
    path = f"{KEYS_PATH}/{{id}}"
    return [
        Operation(
            "getIngestionApiKey",
            "GET",
            [path],
            "Show one key.",
            api.get,
            {
                200: Response("The key.", shapes.IngestionApiKey),
                **_NOT_FOUND,
                **_CONFLICT,
                **_STORE,
            },
            parameters=[_ID],
            takes_scopes=True,
        ),
        Operation(
            "updateIngestionApiKey",
            "PATCH",
            [path],
            "Change a key's name, description, state, signals, limits, owner, labels or headers.",
            api.update,
            {
                200: _changed("The key as it is now.", shapes.IngestionApiKey),
                **_NOT_FOUND,
                **_CHANGE,
            },
            parameters=[_ID],
            takes=shapes.UpdateIngestionApiKeyRequest,
            needs=Role.KEY_MANAGER,
            takes_scopes=True,
        ),
        _rotate_operation(api),
        _delete_operation(api),
    ]


def _rotate_operation(api: KeysApi) -> Operation:
    path = f"{KEYS_PATH}/{{id}}"
    return Operation(
        "rotateIngestionApiKey",
        "POST",
        [f"{path}/rotate"],
        "Create a successor of a key; the old key expires after the overlap.",
        api.rotate,
        {
            200: _changed("Both keys.", shapes.RotatedIngestionApiKeyResponse),
            **_NOT_FOUND,
            **_CHANGE,
        },
        parameters=[_ID],
        takes=shapes.RotateIngestionApiKeyRequest,
        needs=Role.KEY_MANAGER,
        takes_scopes=True,
    )


def _delete_operation(api: KeysApi) -> Operation:
    path = f"{KEYS_PATH}/{{id}}"
    return Operation(
        "deleteIngestionApiKey",
        "DELETE",
        [path],
        "Delete a key: its senders are refused from then on.",
        api.delete,
        {204: _changed("It is deleted.", None), **_ROLE, **_NOT_FOUND, **_CONFLICT, **_STORE},
        parameters=[_ID],
        needs=Role.KEY_MANAGER,
        takes_scopes=True,
    )


def _audit_operation(api: KeysApi) -> Operation:
    return Operation(
        "getIngestionApiKeyAudit",
        "GET",
        [AUDIT_PATH],
        "List changes of keys with time, author and origin, newest first.",
        api.audit,
        {
            200: Response("The changes.", list[shapes.AuditEntry], _LINK),
            400: _BAD,
            **_CONFLICT,
            **_STORE,
        },
        parameters=[
            Parameter("limit", "query", shapes.PageSize, "The most changes to return."),
            Parameter("before", "query", shapes.KeyId, "Only changes with smaller ids."),
            Parameter("keyId", "query", shapes.KeyId, "Only changes of this key."),
        ],
        takes_scopes=True,
    )


def _usage_operation(api: KeysApi) -> Operation:
    return Operation(
        "getIngestionApiKeyUsage",
        "GET",
        [USAGE_PATH],
        "Show what keys sent, by day, month or key; all rows unless a page is requested.",
        api.usage,
        {200: Response("The rows.", list[shapes.KeyUsageRow], _LINK), 400: _BAD, **_STORE},
        parameters=[
            Parameter("since", "query", shapes.Day, "The first day; default: 30 days are shown."),
            Parameter("until", "query", shapes.Day, "The last day; default: today."),
            Parameter("by", "query", shapes.Period, "What a row is for; default: a key's day."),
            Parameter("keyId", "query", shapes.NamedKey, "Only this key."),
            Parameter("name", "query", shapes.Name, "Only keys of this name."),
            *_OF_TENANTS,
            Parameter("limit", "query", shapes.PageSize, "The most rows to return."),
            Parameter("after", "query", shapes.UsagePlace, "Only rows behind this one, see Link."),
        ],
        takes_scopes=True,
    )
