"""Handshakes that stop half-way or are for nothing, and key updates."""

from __future__ import annotations

import hashlib
import hmac
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from bench.hostile.attack import ABUSE, HANDSHAKES, Attack, Target, Traffic
from bench.hostile.flood import UNTIL_READ, Flood, Inbox, Plan, Step

_COUNTED: Final = (ABUSE, HANDSHAKES)
_FIRST_BYTE: Final = b"\x16"
_ABANDONED_AFTER_S: Final = 0.05
_UPDATES_AT_ONCE: Final = 500

_HASHES: Final = {
    "TLS_AES_256_GCM_SHA384": ("sha384", 32),
    "TLS_AES_128_GCM_SHA256": ("sha256", 16),
    "TLS_CHACHA20_POLY1305_SHA256": ("sha256", 32),
}
_KEY_UPDATE: Final = b"\x18\x00\x00\x01\x01"
"""A KeyUpdate that asks for the other side's (RFC 8446, section 4.6.3)."""
_HANDSHAKE: Final = b"\x16"
_RECORD_HEAD: Final = b"\x17\x03\x03"
_TAG_BYTES: Final = 16


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    return context


def _client_hello() -> bytes:
    out = ssl.MemoryBIO()
    handshake = _context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="gateway")
    try:
        handshake.do_handshake()
    except ssl.SSLWantReadError:
        return out.read()
    message = "a handshake without an answer"
    raise AssertionError(message)


def _half_open(target: Target, seconds: float, per_second: float | None) -> Traffic:
    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield _FIRST_BYTE

    plan = Plan((target.tls,), script, connections=1_000, per_second=per_second)
    return Flood(plan).run(seconds)


def _client_hellos(target: Target, seconds: float) -> Traffic:
    """Make the gateway sign, then go away."""
    hello = _client_hello()

    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield hello
        yield _ABANDONED_AFTER_S

    return Flood(Plan((target.tls,), script, connections=200, closes=True)).run(seconds)


class _Handshake(Inbox):
    """A client's TLS 1.3 that gives away its keys."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="gateway")

    def feed(self, data: bytes) -> None:
        """Take the next bytes; see `Inbox`."""
        if self._incoming.pending < 1 << 16:
            self._incoming.write(data)

    def steps(self) -> Iterator[Step]:
        """What to send until it is finished."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if self._outgoing.pending:
                    yield self._outgoing.read()
                yield UNTIL_READ
            else:
                yield self._outgoing.read()
                return

    @property
    def cipher(self) -> str:
        """The suite that was agreed on."""
        agreed = self._tls.cipher()
        return agreed[0] if agreed else ""


def _expand(secret: bytes, label: bytes, length: int, algorithm: str) -> bytes:
    """Return HKDF-Expand-Label with an empty context (RFC 8446, section 7.1)."""
    name = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes((len(name),)) + name + b"\x00\x01"
    return hmac.digest(secret, info, algorithm)[:length]


def key_updates(secret: bytes, cipher: str) -> Iterator[bytes]:
    """Return record after record, each with the key that the one before has announced."""
    algorithm, key_bytes = _HASHES[cipher]
    seal = ChaCha20Poly1305 if "CHACHA" in cipher else AESGCM
    plain = _KEY_UPDATE + _HANDSHAKE
    head = _RECORD_HEAD + (len(plain) + _TAG_BYTES).to_bytes(2, "big")
    hash_bytes = hashlib.new(algorithm).digest_size
    while True:
        key = _expand(secret, b"key", key_bytes, algorithm)
        nonce = _expand(secret, b"iv", 12, algorithm)
        yield head + seal(key).encrypt(nonce, plain, head)
        secret = _expand(secret, b"traffic upd", hash_bytes, algorithm)


def _last_secret(log: Path) -> bytes:
    """Return the sending key's secret of the handshake that was finished last."""
    lines = [
        line
        for line in log.read_text(encoding="ascii").splitlines()
        if line.startswith("CLIENT_TRAFFIC_SECRET_0 ")
    ]
    return bytes.fromhex(lines[-1].split()[2])


def _key_update(target: Target, seconds: float) -> Traffic:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder) / "keys"
        context = _context()
        context.keylog_filename = str(log)

        def script(_number: int, inbox: Inbox) -> Iterator[Step]:
            assert isinstance(inbox, _Handshake)  # noqa: S101 -- the plan's
            yield from inbox.steps()
            updates = key_updates(_last_secret(log), inbox.cipher)
            while True:
                yield b"".join(next(updates) for _ in range(_UPDATES_AT_ONCE))

        plan = Plan((target.tls,), script, connections=8, inbox=lambda: _Handshake(context))
        return Flood(plan).run(seconds)


ATTACKS: Final = (
    Attack(
        "half-open-200",
        "half-open TLS, 200 a second, 1 byte each",
        lambda target, seconds: _half_open(target, seconds, 200),
        _COUNTED,
    ),
    Attack(
        "half-open-1000",
        "half-open TLS, 1,000 at once, 1 byte each",
        lambda target, seconds: _half_open(target, seconds, None),
        _COUNTED,
    ),
    Attack("client-hello", "ClientHello flood", _client_hellos, _COUNTED),
    Attack("key-update", "KeyUpdate flood", _key_update, (ABUSE,)),
)
