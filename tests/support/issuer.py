"""An identity provider on a real socket: real keys, real signatures, and tricks as a test decides.

`async with ScriptedIssuer() as issuer:` listens on 127.0.0.1; `issuer.token()` makes what senders
present. `issuer.keys` is what it publishes, `issuer.trick` what it does instead.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE: Final = "otlp-gateway"
DISCOVERY: Final = "/.well-known/openid-configuration"
KEYS: Final = "/keys"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def part_of(content: object) -> str:
    """Write one part of a token: bytes as they are, anything else as JSON."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def unsigned(header: object, claims: object, signature: bytes = b"") -> str:
    """Write a token by hand, with whatever signature."""
    return f"{part_of(header)}.{part_of(claims)}.{part_of(signature)}"


@dataclass
class SigningKey:
    """A private key of an issuer, with the name that it is published under."""

    kid: str | None
    algorithm: str
    private: PrivateKey

    @classmethod
    def make(cls, kid: str | None, algorithm: str = "ES256", bits: int = 2048) -> Self:
        """Make a new key of the kind that the algorithm needs."""
        if algorithm.startswith("ES"):
            curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
            return cls(kid, algorithm, ec.generate_private_key(curves[algorithm]))
        if algorithm == "EdDSA":
            return cls(kid, algorithm, ed25519.Ed25519PrivateKey.generate())
        return cls(kid, algorithm, rsa.generate_private_key(65537, bits))

    def jwk(self, **more: Any) -> dict[str, Any]:
        """Return the public key as it is published; None removes a member."""
        public = self.private.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            members = RSAAlgorithm.to_jwk(public, as_dict=True)
        elif isinstance(public, ec.EllipticCurvePublicKey):
            members = ECAlgorithm.to_jwk(public, as_dict=True)
        else:
            members = OKPAlgorithm.to_jwk(public, as_dict=True)
        members = {**members, "kid": self.kid, "use": "sig", "alg": self.algorithm, **more}
        return {name: value for name, value in members.items() if value is not None}

    def pem(self) -> bytes:
        """Return the public key as a file: what a confused verifier takes for a secret."""
        return self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, claims: dict[str, Any], algorithm: str | None = None, **header: Any) -> str:
        """Sign claims. `header` replaces members of the header, None removes them."""
        members = {"kid": self.kid, "typ": "JWT", **header}
        kept = {name: value for name, value in members.items() if value is not None}
        return jwt.encode(claims, self.private, algorithm or self.algorithm, headers=kept)

    def confuse(self, claims: dict[str, Any]) -> str:
        """Sign with the public key as if it were a shared secret (RFC 8725 §2.1)."""
        head = unsigned({"alg": "HS256", "kid": self.kid}, claims).rstrip(".")
        secret = self.pem()
        return f"{head}.{part_of(hmac.new(secret, head.encode(), hashlib.sha256).digest())}"


Trick = Literal["", "hang", "close"]


@dataclass
class ScriptedIssuer:
    """See the module."""

    keys: list[SigningKey] = field(default_factory=lambda: [SigningKey.make("k1")])
    path: str = ""
    """Of the issuer's URL."""
    port: int = 0
    trick: Trick = ""
    status: int = 200
    content_type: str = "application/json"
    body: bytes | None = None
    """Instead of the keys."""
    discovered: dict[str, Any] = field(default_factory=dict)
    """Replaces members of the discovery document."""
    asked: list[str] = field(default_factory=list)
    """Paths, in the order of the requests."""
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self._runner: web.ServerRunner | None = None
        self._released = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Go away; entering again comes back on the same port."""
        self._released.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._released = asyncio.Event()

    @property
    def url(self) -> str:
        """The issuer, as tokens name it."""
        return f"{self._origin}{self.path}"

    @property
    def _origin(self) -> str:
        scheme, host = ("https", "localhost") if self.tls is not None else ("http", "127.0.0.1")
        return f"{scheme}://{host}:{self.port}"

    @property
    def key_fetches(self) -> int:
        """How often the keys were asked for."""
        return self.asked.count(KEYS)

    def claims(self, **more: Any) -> dict[str, Any]:
        """Return the claims of a good token; None removes one."""
        now = int(time.time())
        claims = {"iss": self.url, "sub": "agent-eu", "aud": AUDIENCE, "exp": now + 600}
        return {name: value for name, value in {**claims, **more}.items() if value is not None}

    def token(self, **more: Any) -> str:
        """Make a good token, signed with the newest key."""
        return self.keys[-1].sign(self.claims(**more))

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.trick == "hang":
            await self._released.wait()
        if self.trick and request.transport is not None:
            request.transport.close()
        headers = {"Content-Type": self.content_type, "Location": f"{self.url}/elsewhere"}
        return web.Response(status=self.status, body=self._body(request.path), headers=headers)

    def _body(self, path: str) -> bytes:
        if path == self.path.rstrip("/") + DISCOVERY:
            found = {"issuer": self.url, "jwks_uri": f"{self._origin}{KEYS}"}
            return json.dumps(found | self.discovered).encode()
        if self.body is not None:
            return self.body
        return json.dumps({"keys": [key.jwk() for key in self.keys]}).encode()
