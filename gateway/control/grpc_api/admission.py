"""Who may follow keys: callers with an admin token, or with a certificate where one is demanded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc
import grpc.aio

from gateway.control.admin.roles import Role
from gateway.control.admin.token_gate import Rejected, TokenGate

TOKEN_FIELD: Final = "x-api-token"  # noqa: S105 - the field's name
_CODES: Final = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Admission:
    """Checks tokens with `gate`. `demands_certificates`: whether no one else gets a connection."""

    def __init__(self, gate: TokenGate, demands_certificates: Callable[[], bool]) -> None:
        self._gate = gate
        self._demands_certificates = demands_certificates

    async def admit(self, context: Context) -> str:
        """Return who calls, for the log. Ends the call (raises) if nobody who may."""
        if self._demands_certificates():
            names = context.auth_context().get("x509_common_name", ())
            return f"certificate {b', '.join(names).decode('utf-8', 'replace')!a}"
        metadata = context.invocation_metadata() or ()
        tokens = [str(value) for name, value in metadata if name == TOKEN_FIELD]
        admitted = await self._gate.admit(peer_host(context.peer()), tokens, Role.READER)
        if isinstance(admitted, Rejected):
            code = _CODES[admitted.status]
            await context.abort(code, f"{admitted.text}; over gRPC: metadata {TOKEN_FIELD}")
        return f"token {admitted.name}"


def peer_host(peer: str) -> str:
    """Return the address in gRPC's `ipv4:HOST:PORT` or `ipv6:[HOST]:PORT`; "" for others."""
    kind, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0]
    return host.strip("[]").removeprefix("::ffff:") if kind in {"ipv4", "ipv6"} else ""
