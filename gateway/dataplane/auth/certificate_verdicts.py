"""Requests on listeners that look at clients' certificates: when the certificate decides, and when
the key does.

A certificate that has ended is refused whatever else comes. Where one is needed it does not replace
the key. Elsewhere it stands in for a key that did not come; a key that came decides, good or bad.
"""

from __future__ import annotations

from typing import Final

from gateway.dataplane.auth.keyring import verdict_on
from gateway.dataplane.core.certificates import MISSING, ClientCertificate
from gateway.dataplane.core.credential import Credential
from gateway.model import Denied, Verdict

_NO_KEY: Final = frozenset({"KEY_MISSING", "INTAKE_KEY_MISSING"})


def verdict_by_certificate(
    certificate: ClientCertificate, credential: Credential, signal: int, now_ms: int
) -> Verdict | None:
    """Return what the certificate decides; None: it is for the key to decide.

    `signal` is a bit of `Signal.bit`, `now_ms` Unix time in milliseconds.
    """
    ended = certificate.ended(now_ms)
    if ended:
        return Denied(ended, certificate.principal)
    if not certificate.is_identity:
        return None
    has_key = credential.digest is not None or credential.refusal not in _NO_KEY
    if certificate.is_needed:
        verdict = _of_certificate(certificate, signal, now_ms)
        return verdict if isinstance(verdict, Denied) else None
    if has_key:
        return None
    if certificate.refusal == MISSING:
        return Denied("IDENTITY_MISSING")
    return _of_certificate(certificate, signal, now_ms)


def _of_certificate(certificate: ClientCertificate, signal: int, now_ms: int) -> Verdict:
    principal = certificate.principal
    if principal is None:
        return Denied(certificate.refusal)
    return verdict_on(principal, signal, now_ms)
