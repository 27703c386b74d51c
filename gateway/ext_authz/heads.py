"""Request heads as another proxy describes them, made what the data path decides on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from gateway.dataplane.auth.credentials import AUTHORIZATION, CredentialReader
from gateway.dataplane.core.heads import FieldKind, FieldKinds, Pair, RequestHead
from gateway.wire import hpack

_LONGEST_LENGTH: Final = 18
_GRPC: Final = b"application/grpc"
_JOINED: Final = re.compile(rb"([^ ]+ +[^ ]*), *([^ ,]+ +[^ ].*)", re.DOTALL)
"""Two values of Authorization, each a scheme, a space and a credential."""


@dataclass(frozen=True, slots=True)
class ForeignHead:
    """A head as the proxy has it."""

    method: bytes
    target: bytes
    """Path and query."""
    is_http2: bool
    """Whether the caller speaks HTTP/2, or a later version."""
    fields: Iterable[Pair]
    """Names in lower case; pseudo-fields count for nothing here."""


@dataclass(frozen=True, slots=True)
class ReadHead:
    """A head, and the names of those of its fields that no backend may get from a caller."""

    head: RequestHead
    names: list[bytes]
    """Of all fields."""
    dropped: list[str]
    carriers: list[str]
    """Names of fields that carry a key."""
    is_grpc_over_http1: bool


class HeadReader:
    """Reads heads. `kinds` knows what becomes of each field, `dropped` are the operator's names."""

    def __init__(self, credentials: CredentialReader, dropped: Iterable[str]) -> None:
        self._credentials = credentials
        self._kinds = FieldKinds()
        names = ["x-gateway-key-id", "x-gateway-key-name", *dropped]
        self._dropped = {name.lower().replace("_", "-").encode() for name in names}

    def read(self, foreign: ForeignHead, of_keys: AbstractSet[bytes] = frozenset()) -> ReadHead:
        """Read a head. `of_keys` are headers that keys have: no caller may state them."""
        path, mark, query = foreign.target.partition(b"?")
        head = RequestHead(foreign.method, path, query if mark else None, is_http2=foreign.is_http2)
        dropped: set[str] = set()
        carriers: list[Pair] = []
        names: list[bytes] = []
        for name, value in foreign.fields:
            names.append(name)
            common = name.replace(b"_", b"-")
            if common in self._dropped or common in of_keys:
                dropped.add(name.decode("latin-1"))
            match self._kinds.kind_of(name):
                case FieldKind.CREDENTIAL:
                    carriers.append((name, value))
                    head.credentials += [
                        self._credentials.read(name, each) for each in _as_sent(name, value)
                    ]
                case FieldKind.CONTENT_TYPE:
                    head.content_type = head.content_type or value.strip(b" \t")
                case FieldKind.CONTENT_LENGTH:
                    head.content_length = _length(value)
                case FieldKind.FORWARD:
                    head.fields.append((name, value))
        head.credentials_h2 = hpack.encode(carriers)
        return ReadHead(
            head,
            names,
            sorted(dropped),
            sorted({name.decode("latin-1") for name, _ in carriers}),
            not foreign.is_http2 and head.content_type.lower().startswith(_GRPC),
        )


def _as_sent(name: bytes, value: bytes) -> list[bytes]:
    """Return the values of a field that the proxy has joined (RFC 9110 §5.3).

    A key has no space, so that what is taken apart here is refused in any case: the sender is told
    what is wrong.
    """
    if name == AUTHORIZATION and (joined := _JOINED.fullmatch(value)):
        return [*joined.groups()]
    return [value]


def _length(value: bytes) -> int:
    text = value.strip(b" \t")
    return int(text) if text.isdigit() and len(text) <= _LONGEST_LENGTH else -1
