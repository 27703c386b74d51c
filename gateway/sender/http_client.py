"""OTLP/HTTP over one kept-alive HTTP/1.1 connection, on aiohttp."""

from __future__ import annotations

from typing import Final, Self

import aiohttp

from gateway.otlp.services import Service
from gateway.sender.agents import AgentPath, parse_agent_response
from gateway.sender.grpc_client import USER_AGENT
from gateway.sender.response import ExportResponse, parse_http_response
from gateway.sender.target import Plan, SendProtocol
from gateway.sender.unreachable import cause_of

_MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
"""OTLP specification 1.11: the limit for responses. Further bytes are not read."""
_CONTENT_TYPES: Final = {
    SendProtocol.HTTP: "application/x-protobuf",
    SendProtocol.JSON: "application/json",
    SendProtocol.INTAKE: "application/json",
}


class HttpConnection:
    """One connection to an OTLP/HTTP server."""

    def __init__(self, plan: Plan, session: aiohttp.ClientSession) -> None:
        self._plan = plan
        self._session = session

    @classmethod
    async def open(cls, plan: Plan) -> Self:
        """Create a session; aiohttp connects with the first request.

        Raises:
            PlanError: the CA file is unusable.
        """
        context = plan.tls.context("http/1.1") if plan.endpoint.is_tls else True
        connector = aiohttp.TCPConnector(ssl=context, limit=1)
        # The caller sets the deadline. Redirects could send the key to another server.
        timeout = aiohttp.ClientTimeout(total=None)
        return cls(plan, aiohttp.ClientSession(connector=connector, timeout=timeout))

    @property
    def is_usable(self) -> bool:
        """Whether another request is possible: aiohttp reconnects automatically."""
        return True

    async def export(self, service: Service | AgentPath, payload: bytes) -> ExportResponse:
        """Make one Export request; `payload` is the message, already compressed.

        Raises:
            UnreachableError: there is no connection, or no response.
        """
        url = f"{self._plan.endpoint.url}{service.http_path}"
        try:
            async with self._session.post(
                url, data=payload, headers=self._headers(), allow_redirects=False
            ) as response:
                body = await _read_body(response)
        except (aiohttp.ClientError, OSError) as error:
            raise cause_of(error) from error
        headers = {name.lower(): value for name, value in response.headers.items()}
        if isinstance(service, AgentPath):
            return parse_agent_response(response.status, headers, body)
        return parse_http_response(service, response.status, headers, body)

    async def close(self) -> None:
        """Close the connection."""
        await self._session.close()

    def _headers(self) -> dict[str, str]:
        plan = self._plan
        headers = {"Content-Type": _CONTENT_TYPES[plan.protocol], "User-Agent": USER_AGENT}
        if plan.compression != "none":
            headers["Content-Encoding"] = plan.compression
        if plan.protocol is SendProtocol.INTAKE:
            headers |= {"sts-api-key": plan.key} if plan.key is not None else {}
        elif plan.authorization is not None:
            headers["Authorization"] = plan.authorization
        return headers


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_RESPONSE_BYTES:
            break
    return bytes(body)
