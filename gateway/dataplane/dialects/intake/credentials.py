"""The carriers of a key on the agents' intake: all of OTLP's, and the query, `DD-Api-Key`, Basic.

What a header holds was read by `auth.credentials`; here it is decided what it means on this route.
"""

from __future__ import annotations

from typing import Final

from gateway.dataplane.auth.credentials import SERVICE_BEARER, CredentialReader, choose
from gateway.dataplane.core.credential import Credential
from gateway.dataplane.core.heads import RequestHead
from gateway.dataplane.core.query_key import key_values_in

_QUERY_CARRIER: Final = b"query"
_REASONS: Final = {
    "KEY_MISSING": "INTAKE_KEY_MISSING",
    "KEY_EMPTY": "INTAKE_KEY_MISSING",
    "SCHEME_BEARER": "INTAKE_SCHEME",
    "SCHEME_UNKNOWN": "INTAKE_SCHEME",
}
"""Refusals whose text would send an agent's operator to OTLP's settings, and those sent instead."""


def choose_intake(
    head: RequestHead, reader: CredentialReader, *, passes_service_bearer: bool
) -> Credential:
    """Return the one credential of a request to the intake, or one that says why there is none.

    A Kubernetes token `passes_unchecked` where the route allows it and nothing stands beside it.
    """
    credentials = head.credentials
    if len(credentials) == 1 and head.query is None and credentials[0].digest is not None:
        return credentials[0]  # the usual case
    found = [credential.on_intake or credential for credential in credentials]
    if head.query is not None:
        found += [reader.read(_QUERY_CARRIER, value) for value in key_values_in(head.query)]
    chosen = choose(found)
    if chosen.digest is not None:
        return chosen
    if chosen.refusal == SERVICE_BEARER:
        passes = passes_service_bearer and len(found) == 1
        return chosen._replace(passes_unchecked=passes)
    reason = _REASONS.get(chosen.refusal)
    return chosen if reason is None else chosen._replace(refusal=reason)
