"""What the management API takes and gives: the one source of its checks and of its description.

Requests are decoded into these types, answers are made of them, and `openapi` derives the document
from them. Names on the wire are camelCase as StackState's are; times are Unix milliseconds; what is
absent is left out. What the operations do does not belong here.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from gateway.keys.audit import Action
from gateway.keys.rules import MAX_DESCRIPTION_LENGTH, MAX_LIMIT, MAX_NAME_LENGTH
from gateway.keys.tenancy_rules import MAX_OWNER_LENGTH
from gateway.keys.times import LATEST_MS
from gateway.model import MAX_KEY_BYTES, MAX_KEY_ID, Signal

MOST_OVERLAP_MS: Final = 366 * 24 * 60 * 60 * 1000
MOST_PER_PAGE: Final = 1_000
MOST_PER_IMPORT: Final = 500

_INT64: Final = {"format": "int64"}

KeyId: TypeAlias = Annotated[
    int, Meta(ge=1, le=MAX_KEY_ID, description="A key's id.", extra_json_schema=_INT64)
]
Millis: TypeAlias = Annotated[
    int,
    Meta(ge=0, le=LATEST_MS, description="Unix milliseconds, UTC.", extra_json_schema=_INT64),
]
Count: TypeAlias = Annotated[int, Meta(ge=0, extra_json_schema=_INT64)]
LabelFilter: TypeAlias = Annotated[
    str, Meta(pattern="^[^=]+=.+$", description="NAME=VALUE, such as team=a.")
]
PageSize: TypeAlias = Annotated[int, Meta(ge=1, le=MOST_PER_PAGE)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
Description: TypeAlias = Annotated[str, Meta(max_length=MAX_DESCRIPTION_LENGTH)]
Signals: TypeAlias = Annotated[
    list[Signal],
    Meta(min_length=1, description="What the key may send; absent or null = everything."),
]
Limit: TypeAlias = Annotated[
    int,
    Meta(ge=0, le=MAX_LIMIT, description="0 = no limit.", extra_json_schema=_INT64),
]
Day: TypeAlias = Annotated[
    str,
    Meta(
        pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
        description="A day, UTC.",
        extra_json_schema={"format": "date"},
    ),
]
UsagePlace: TypeAlias = Annotated[
    str, Meta(pattern="^[0-9-]*/.+$", description="A row, as the URL of the next page has it.")
]
Period: TypeAlias = Literal["day", "month", "key"]
NamedKey: TypeAlias = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_NAME_LENGTH, description="A key's id, or static:NAME."),
]
Owner: TypeAlias = Annotated[
    str, Meta(max_length=MAX_OWNER_LENGTH, description="Who answers for the key's senders.")
]
Labels: TypeAlias = Annotated[
    dict[str, str],
    Meta(description="Names and values by which keys, metrics and backends are chosen."),
]
Headers: TypeAlias = Annotated[
    dict[str, str],
    Meta(description="Sent to the backend with the key's requests, in place of the sender's own."),
]
LabelChanges: TypeAlias = Annotated[
    dict[str, str | None], Meta(description="What is absent stays; null takes a label away.")
]
HeaderChanges: TypeAlias = Annotated[
    dict[str, str | None], Meta(description="What is absent stays; null takes a header away.")
]
Digest: TypeAlias = Annotated[
    str,
    Meta(pattern="^sha256:[0-9a-f]{64}$", description="SHA-256 of a key, as sha256: and hex."),
]
AdoptedKey: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=MAX_KEY_BYTES, pattern="^[!-~]+$")
]


class KeyLimits(Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """A key's own limits: requests per second, bytes of bodies per second, requests at once, and
    quotas for a day and a month of UTC. Those that are absent are the configuration's
    (`limits.per_key`); null makes them so again in a change.
    """

    requests: Limit | UnsetType | None = UNSET
    bytes: Limit | UnsetType | None = UNSET
    concurrent: Limit | UnsetType | None = UNSET
    requests_per_day: Limit | UnsetType | None = UNSET
    bytes_per_day: Limit | UnsetType | None = UNSET
    requests_per_month: Limit | UnsetType | None = UNSET
    bytes_per_month: Limit | UnsetType | None = UNSET


class CreateIngestionApiKeyRequest(Struct, rename="camel", forbid_unknown_fields=True):
    """What the new key is for, until when it works, what and how much it may send, and whose data
    that is.
    """

    name: Name
    description: Description | None = None
    expiration: Millis | None = None
    signals: Signals | None = None
    limits: KeyLimits | None = None
    owner: Owner | None = None
    labels: Labels | None = None
    headers: Headers | None = None


class AdoptIngestionApiKeyRequest(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """An existing key, of any form, that is to be accepted from now on."""

    api_key: AdoptedKey
    name: Name
    description: Description | None = None
    expiration: Millis | None = None
    signals: Signals | None = None
    limits: KeyLimits | None = None
    owner: Owner | None = None
    labels: Labels | None = None
    headers: Headers | None = None

    def __repr__(self) -> str:
        """Leave the key out: requests are printed when something fails."""
        return f"AdoptIngestionApiKeyRequest(name={self.name!r})"


class UpdateIngestionApiKeyRequest(Struct, rename="camel", forbid_unknown_fields=True):
    """What is to be changed; what is absent stays as it is, each of the limits, labels and headers
    too. null takes a description, the owner, all limits, labels or headers away, and lets a key
    send everything.
    """

    name: Name | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    signals: Signals | UnsetType | None = UNSET
    limits: KeyLimits | UnsetType | None = UNSET
    owner: Owner | UnsetType | None = UNSET
    labels: LabelChanges | UnsetType | None = UNSET
    headers: HeaderChanges | UnsetType | None = UNSET


class RotateIngestionApiKeyRequest(Struct, rename="camel", forbid_unknown_fields=True):
    """How long the old key works on, and when the new one expires."""

    overlap: Annotated[
        int, Meta(ge=0, le=MOST_OVERLAP_MS, description="Milliseconds.", extra_json_schema=_INT64)
    ]
    expiration: Millis | None = None


class PortableIngestionApiKey(
    Struct, rename="camel", forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """A key as it moves from store to store: with its digest, and without what was learnt of it."""

    digest: Digest
    name: Name
    id: KeyId | None = None
    """None = made from the digest."""
    description: Description | None = None
    expiration: Millis | None = None
    enabled: bool = True
    signals: Signals | None = None
    limits: KeyLimits | None = None
    owner: Owner | None = None
    labels: Labels | None = None
    headers: Headers | None = None


class ImportIngestionApiKeysRequest(Struct, rename="camel", forbid_unknown_fields=True):
    """Keys to be stored, all of them or none; those that the store knows stay as they are."""

    keys: Annotated[list[PortableIngestionApiKey], Meta(min_length=1, max_length=MOST_PER_IMPORT)]
    dry_run: bool = False


class ImportIngestionApiKeysResponse(Struct, rename="camel"):
    """How many keys were stored (dry run: would be), were there, and had been deleted there."""

    imported: Count
    existing: Count
    deleted: Count


class FindIngestionApiKeyRequest(Struct, rename="camel", forbid_unknown_fields=True):
    """A key that somebody has found."""

    api_key: AdoptedKey

    def __repr__(self) -> str:
        """Leave the key out: requests are printed when something fails."""
        return "FindIngestionApiKeyRequest()"


class AuthorizeRequest(Struct, rename="camel"):
    """The key that a sender presented."""

    api_key: str

    def __repr__(self) -> str:
        """Leave the key out: requests are printed when something fails."""
        return "AuthorizeRequest()"


class KeyTraffic(Struct, rename="camel"):
    """A key's traffic since it exists, up to 5 seconds late."""

    requests: Count
    bytes: Count
    refusals: Count


class IngestionApiKey(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """A key as lists show it: never the key itself."""

    id: KeyId
    last_update_timestamp: Millis
    name: str
    description: str | UnsetType = UNSET
    expiration: Millis | UnsetType = UNSET
    enabled: bool
    signals: list[Signal] | UnsetType = UNSET
    limits: KeyLimits | UnsetType = UNSET
    owner: str | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    last_used_timestamp: Millis | UnsetType = UNSET
    usage: KeyTraffic | UnsetType = UNSET


class GeneratedIngestionApiKeyResponse(IngestionApiKey, kw_only=True):
    """A new key, and the only time that it is shown."""

    api_key: str

    def __repr__(self) -> str:
        """Leave the key out: answers are printed when something fails."""
        return f"GeneratedIngestionApiKeyResponse(id={self.id!r})"


class RotatedIngestionApiKeyResponse(GeneratedIngestionApiKeyResponse, kw_only=True):
    """The successor, and the old key with the expiration that it has now."""

    predecessor: IngestionApiKey

    def __repr__(self) -> str:
        """Leave the key out: answers are printed when something fails."""
        return f"RotatedIngestionApiKeyResponse(id={self.id!r})"


class AuditEntry(Struct, rename="camel"):
    """One change of one key: who made it, when, from where."""

    id: Count
    timestamp: Millis
    action: Action
    key_id: KeyId
    key_name: str
    who: str
    origin: str
    changes: dict[str, Any]


class ItemEstimate(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """How many items (spans, data points, log records) the backend accepted, by the items per byte
    of some requests.
    """

    count: Count
    error: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    """The standard error; 0 = each request was looked at, absent = unknown."""
    samples: Count
    """Requests that were looked at."""


class KeyUsageRow(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """What one key sent in one day or month, or in all days that were asked for."""

    period: str | UnsetType = UNSET
    """`yyyy-MM-dd` or `yyyy-MM`, UTC; absent = all days that were asked for."""
    key_id: str
    """A number in digits, or static:NAME."""
    name: str
    """Empty for a key that was deleted long ago."""
    owner: str | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    requests: Count
    bytes: Count
    refusals: Count
    items: dict[str, ItemEstimate] | UnsetType = UNSET
    """Signal → its items; only where samples are taken."""


class ServerVersion(Struct, rename="camel"):
    """The version of the API that is spoken, in StackState's counting."""

    major: int = 7
    minor: int = 0
    patch: int = 0
    diff: str = ""
    commit: str = ""
    is_dev: bool = False


class ServerInfo(Struct, rename="camel"):
    """What the `sts` CLI asks first."""

    version: ServerVersion
    deployment_mode: str = "SelfHosted"


class IngestionApiKeyInvalidExpiryError(
    Struct, tag_field="_type", tag="IngestionApiKeyInvalidExpiryError"
):
    """The expiration is not in the future."""

    message: str


class IngestionApiKeyInvalidInputError(
    Struct, tag_field="_type", tag="IngestionApiKeyInvalidInputError"
):
    """Something else in the request cannot be."""

    message: str


class ApiError(Struct, rename="camel", omit_defaults=True):
    """What went wrong, and what to do."""

    type: str = field(name="_type")
    message: str
    error_code: int | UnsetType = UNSET


class ErrorsResponse(Struct, rename="camel", tag_field="_type", tag="ErrorsResponse"):
    """Any other failure."""

    tracking_key: str
    server_timestamp: Millis
    errors: list[ApiError]


BadRequest: TypeAlias = IngestionApiKeyInvalidExpiryError | IngestionApiKeyInvalidInputError

encode: Final = msgspec.json.Encoder().encode
