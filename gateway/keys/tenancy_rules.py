"""What a key's owner, labels and headers may be.

Each check raises `InvalidInputError` with a text that says what to do and never contains a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from gateway.keys.api_key import looks_issued
from gateway.keys.errors import InvalidInputError
from gateway.keys.tenancy import Tenancy, TenancyUpdate, same_header

MAX_OWNER_LENGTH: Final = 255
MAX_PAIRS: Final = 16
"""Labels of one key, and headers of one key."""
MAX_LABEL_NAME_LENGTH: Final = 63
MAX_LABEL_VALUE_LENGTH: Final = 255
MAX_HEADER_NAME_LENGTH: Final = 128
MAX_HEADER_VALUE_LENGTH: Final = 1_024

_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110 §5.6.2."""
_HEADER_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
"""What gRPC ("ASCII-Value") and HTTP both carry unchanged."""
_KEY_CARRIERS: Final = frozenset(
    {"authorization", "proxy-authorization", "proxy-authenticate", "sts-api-key", "dd-api-key"}
)
_CONNECTION: Final = frozenset(
    {
        "connection",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OWN: Final = ("forwarded", "x-forwarded", "x-gateway-key")
"""How the names begin by which the gateway says who sends (`forward.*`)."""
_SENDERS: Final = (
    "accept",
    "access-control",
    "content-",
    "cookie",
    "grpc-",
    "origin",
    "user-agent",
)
"""How the names begin without which the backend cannot read the sender's request."""


def check_owner(owner: str | None) -> None:
    """Refuse an owner that cannot be shown everywhere; None or empty = there is none."""
    if not owner:
        return
    _check_shown("the owner", owner, MAX_OWNER_LENGTH)


def check_labels(labels: Mapping[str, str | None]) -> None:
    """Refuse labels that cannot be; a value of None is taken away."""
    for name, value in labels.items():
        check_label_name(name)
        if value is not None:
            check_label_value(name, value)


def check_label_name(name: str) -> None:
    """Refuse the name of a label that cannot be."""
    if looks_issued(name.encode()):
        msg = "the name of a label is a key: labels are shown everywhere, keys are not"
        raise InvalidInputError(msg)
    if len(name) > MAX_LABEL_NAME_LENGTH or not _LABEL_NAME.fullmatch(name):
        msg = (
            f"the name of a label cannot be {_shown(name)}: up to {MAX_LABEL_NAME_LENGTH} letters,"
            " digits and . _ / - with a letter or digit at both ends, as in team"
        )
        raise InvalidInputError(msg)


def check_label_value(name: str | None, value: str) -> None:
    """Refuse the value of the label `name`; None = of some label."""
    what = "a label" if name is None else f"the label {name}"
    _check_shown(f"the value of {what}", value, MAX_LABEL_VALUE_LENGTH)


def check_headers(headers: Mapping[str, str | None]) -> None:
    """Refuse headers that cannot be, or that are not a key's to set; None is taken away."""
    seen: dict[str, str] = {}
    for name, value in headers.items():
        check_header_name(name)
        first = seen.setdefault(same_header(name), name)
        if first is not name:
            msg = f"the headers {first} and {name} are one for many servers: remove one"
            raise InvalidInputError(msg)
        if value is not None:
            check_header_value(name, value)


def check_header_name(name: str) -> None:
    """Refuse the name of a header that cannot be, or that is not a key's to set."""
    if looks_issued(name.encode()):
        msg = "the name of a header is a key: headers are shown everywhere, keys are not"
        raise InvalidInputError(msg)
    if len(name) > MAX_HEADER_NAME_LENGTH or not _TOKEN.fullmatch(name):
        msg = (
            f"the name of a header cannot be {_shown(name)}: one word of up to"
            f" {MAX_HEADER_NAME_LENGTH} letters, digits and -, as in X-Scope-OrgID"
        )
        raise InvalidInputError(msg)
    reason = _reserved(same_header(name))
    if reason is not None:
        msg = f"the header {name} cannot be set by a key: {reason}"
        raise InvalidInputError(msg)


def check_header_value(name: str, value: str) -> None:
    """Refuse a value that HTTP and gRPC do not both carry unchanged."""
    if not value:
        msg = f"the header {name} has no value: write {name}=VALUE"
    elif len(value) > MAX_HEADER_VALUE_LENGTH:
        msg = (
            f"the value of the header {name} is {len(value)} characters long: at most"
            f" {MAX_HEADER_VALUE_LENGTH} are possible"
        )
    elif looks_issued(value.encode()):
        msg = f"the value of the header {name} is a key: headers are shown everywhere, keys are not"
    elif not _HEADER_VALUE.fullmatch(value):
        msg = (
            f"the value of the header {name} cannot be sent: use visible ASCII characters, with"
            " spaces only between them"
        )
    else:
        return
    raise InvalidInputError(msg)


def check_tenancy(tenancy: Tenancy | None) -> None:
    """Refuse a whole tenancy that cannot be, as it would be stored."""
    if tenancy is None:
        return
    check_owner(tenancy.owner)
    check_labels(dict(tenancy.labels))
    check_headers(dict(tenancy.headers))
    for what, pairs in ("labels", tenancy.labels), ("headers", tenancy.headers):
        if len(pairs) > MAX_PAIRS:
            msg = f"the key has {len(pairs)} {what}: at most {MAX_PAIRS} are possible"
            raise InvalidInputError(msg)


def check_update(update: TenancyUpdate) -> None:
    """Refuse a change that cannot be, whatever the key has now."""
    check_owner(update.owner)
    check_labels(update.labels or {})
    check_headers(update.headers or {})


def texts_of(owner: str | None, *maps: Mapping[str, str | None] | None) -> Iterable[str | None]:
    """Return all texts that are shown, to be compared with a key."""
    yield owner
    for each in maps:
        yield from (each or {}).keys()
        yield from (each or {}).values()


def _check_shown(what: str, text: str, longest: int) -> None:
    if len(text) > longest:
        msg = f"{what} is {len(text)} characters long: at most {longest} are possible"
    elif not text.isprintable():
        msg = f"{what} contains line breaks or control characters: use printable ones only"
    elif not text:
        msg = f"{what} is empty: write one, as in team-a, or leave it out"
    elif text != text.strip():
        msg = f"{what} begins or ends with a space: write it without"
    elif looks_issued(text.encode()):
        msg = f"{what} is a key: owners and labels are shown everywhere, keys are not"
    else:
        return
    raise InvalidInputError(msg)


def _reserved(name: str) -> str | None:
    """Say why a header, by the common form of its name, is not a key's to set."""
    if name in _KEY_CARRIERS:
        return "it carries the API key; set forward.key to decide which one the backend gets"
    if name in _CONNECTION:
        return "it belongs to the connection, not to the request"
    if name.startswith(_OWN):
        return "the gateway itself says there who sends; see forward in the configuration"
    if name.startswith(_SENDERS):
        return "it is the sender's, and the backend needs it to read the request"
    if name.endswith("-bin"):
        return "over gRPC a name that ends with -bin has a binary value; choose another one"
    return None


def _shown(name: str) -> str:
    """Quote a name that cannot be, without what could control a terminal."""
    if not name:
        return "empty"
    return ascii(name if len(name) <= MAX_LABEL_NAME_LENGTH else f"{name[:40]}…")
