"""The carriers of a key on the agents' intake: all of OTLP's, and the query, `DD-Api-Key`, Basic.

What a header holds was read by `credentials`; here it is decided what it means on this route. A
query is read, and rid of its key, without touching its other parameters: they go on byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from gateway.dataplane.credentials import SERVICE_BEARER, Credential, choose

if TYPE_CHECKING:
    from gateway.dataplane.credentials import CredentialReader
    from gateway.dataplane.heads import RequestHead
    from gateway.dataplane.routes import IntakeRules

QUERY: Final = b"api_key"
"""Name of the parameter."""
_QUERY_CARRIER: Final = b"query"
_WORDS: Final = {
    "KEY_MISSING": "INTAKE_KEY_MISSING",
    "KEY_EMPTY": "INTAKE_KEY_MISSING",
    "SCHEME_BEARER": "INTAKE_SCHEME",
    "SCHEME_UNKNOWN": "INTAKE_SCHEME",
}
"""Refusals whose text would send an agent's operator to OTLP's settings."""


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _is_key(parameter: bytes) -> bool:
    name = parameter.partition(b"=")[0]
    return name == QUERY or (b"%" in name and _decoded(name) == QUERY)


def key_values_in(query: bytes) -> Iterator[bytes]:
    """Give the keys of a query (application/x-www-form-urlencoded); an empty one is none."""
    for parameter in query.split(b"&"):
        if _is_key(parameter) and (value := _decoded(parameter.partition(b"=")[2])):
            yield value


def keys_in(query: bytes, reader: CredentialReader) -> list[Credential]:
    """Read the keys of a query."""
    return [reader.read(_QUERY_CARRIER, value) for value in key_values_in(query)]


def without_key(query: bytes | None) -> bytes | None:
    """Return the query without its keys, None if nothing is left: no question mark, either."""
    if query is None:
        return None
    parameters = query.split(b"&")
    kept = [parameter for parameter in parameters if not _is_key(parameter)]
    if len(kept) == len(parameters):
        return query
    return b"&".join(kept) if kept else None


def choose_intake(head: RequestHead, reader: CredentialReader, rules: IntakeRules) -> Credential:
    """Return the one credential of a request to the intake, or one that says why there is none.

    A Kubernetes token `passes_unchecked` where the route says so and nothing stands beside it.
    """
    credentials = head.credentials
    if len(credentials) == 1 and head.query is None and credentials[0].digest is not None:
        return credentials[0]  # the usual case
    found = [credential.on_intake or credential for credential in credentials]
    if head.query is not None:
        found += keys_in(head.query, reader)
    chosen = choose(found)
    if chosen.digest is not None:
        return chosen
    if chosen.refusal == SERVICE_BEARER:
        passes = rules.passes_service_bearer and len(found) == 1
        return chosen._replace(passes_unchecked=passes)
    words = _WORDS.get(chosen.refusal)
    return chosen if words is None else chosen._replace(refusal=words)
