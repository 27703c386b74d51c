"""Values of the settings under `keys.jwt`: algorithms, and places in a token's claims."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from gateway.keys.jwt.claim_paths import ClaimPath

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""How a token may be signed (RFC 7518 §3.1, RFC 8037): with public keys only. So neither `none` nor
the HMAC algorithms are there.
"""


def _checked_claim(text: str) -> str:
    ClaimPath.parse(text)
    return text


Claim = Annotated[str, AfterValidator(_checked_claim)]
"""Where a claim stands, such as `$.team`."""
