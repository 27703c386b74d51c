"""Checks of certificate, key and CA files, with the library that will use them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_REASONS: Final = {
    "KEY_VALUES_MISMATCH": "the key does not belong to the certificate in cert_file",
    "KEY_TYPE_MISMATCH": "the key does not belong to the certificate in cert_file",
}


def check_chain(cert_file: Path, key_file: Path) -> dict[str, str]:
    """Load a certificate chain and its key as a TLS server or client does.

    Returns errors by setting: `cert_file`, `key_file` or both.
    """
    errors = {
        "cert_file": _check_pem(cert_file, b"CERTIFICATE-----", "a certificate"),
        "key_file": _check_pem(key_file, b"PRIVATE KEY-----", "a private key"),
    }
    found = {name: text for name, text in errors.items() if text is not None}
    return found or _load(cert_file, key_file)


def check_ca(ca_file: Path) -> str | None:
    """Load CA certificates; return what is wrong with the file."""
    problem = _check_pem(ca_file, b"CERTIFICATE-----", "a certificate")
    if problem is not None:
        return problem
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=ca_file)
    except (ssl.SSLError, OSError):
        return f"{ca_file} contains no readable certificate: export it as PEM again"
    return None


def check_revocation_lists(files: Sequence[Path], ca_file: Path) -> Iterator[tuple[int, str]]:
    """Read lists of revoked certificates; yield what is wrong with which of the files."""
    from gateway.revocation_lists import (  # noqa: PLC0415 - 9 MB, which only lists need
        RevocationListError,
        read_authorities,
        read_lists,
    )

    try:
        authorities = read_authorities(ca_file.read_bytes())
    except (OSError, RevocationListError):
        return  # what is wrong with the CA file is said of that
    for place, file in enumerate(files):
        try:
            read_lists(file.read_bytes(), authorities)
        except OSError as error:
            reason = (error.strerror or "error").lower()
            yield place, f"{file} cannot be read ({reason}): check path and permissions"
        except RevocationListError as error:
            yield place, f"{file} {error}"


def _check_pem(file: Path, marker: bytes, what: str) -> str | None:
    try:
        content = file.read_bytes()
    except OSError as error:
        reason = (error.strerror or "error").lower()
        return f"{file} cannot be read ({reason}): check path and permissions"
    if marker not in content:
        return f"{file} does not contain {what} in PEM ('-----BEGIN …'): convert it with openssl"
    return None


class _EncryptedKeyError(Exception):
    """OpenSSL asked for a passphrase."""


def _refuse_passphrase() -> str:
    raise _EncryptedKeyError


def _load(cert_file: Path, key_file: Path) -> dict[str, str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert_file, key_file, password=_refuse_passphrase)
    except _EncryptedKeyError:
        return {"key_file": f"{key_file} has a passphrase: store the key without one, mode 0600"}
    except ssl.SSLError as error:
        if error.reason in _REASONS:
            return {"key_file": _REASONS[error.reason]}
        return {"cert_file": _unreadable(cert_file, key_file, error)}
    except OSError as error:
        return {"cert_file": f"cannot be read ({error.strerror}): check path and permissions"}
    return {}


def _unreadable(cert_file: Path, key_file: Path, error: ssl.SSLError) -> str:
    reason = (error.reason or "damaged").lower().replace("_", " ")
    return f"{cert_file} and {key_file} cannot be used ({reason}): export them as PEM again"
