"""A key in the query of a target (`?api_key=…`): finding it, and the query without it.

The query's other parameters go on byte for byte (application/x-www-form-urlencoded, WHATWG URL §5).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

QUERY_KEY: Final = b"api_key"
"""Name of the parameter."""


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _is_key(parameter: bytes) -> bool:
    name = parameter.partition(b"=")[0]
    return name == QUERY_KEY or (b"%" in name and _decoded(name) == QUERY_KEY)


def key_values_in(query: bytes) -> Iterator[bytes]:
    """Yield the keys of a query; an empty one is none."""
    for parameter in query.split(b"&"):
        if _is_key(parameter) and (value := _decoded(parameter.partition(b"=")[2])):
            yield value


def without_key(query: bytes) -> bytes | None:
    """Return the query without its keys, None if nothing is left: no question mark, either."""
    parameters = query.split(b"&")
    kept = [parameter for parameter in parameters if not _is_key(parameter)]
    if len(kept) == len(parameters):
        return query
    return b"&".join(kept) if kept else None
