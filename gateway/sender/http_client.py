"""OTLP/HTTP over one kept-alive HTTP/1.1 connection, on aiohttp."""

from __future__ import annotations

from typing import Final, Self

import aiohttp

from gateway.otlp.services import Service
from gateway.sender.agents import AgentPath, agent_answer
from gateway.sender.answer import Answer, http_answer
from gateway.sender.grpc_client import USER_AGENT
from gateway.sender.target import Plan, SendProtocol
from gateway.sender.unreachable import cause_of

_MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""OTLP specification 1.11: limit for responses. What is beyond is not read."""
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
        """Make ready; aiohttp connects with the first request.

        Raises:
            PlanError: the CA file is unusable.
        """
        context = plan.tls.context("http/1.1") if plan.endpoint.is_tls else True
        connector = aiohttp.TCPConnector(ssl=context, limit=1)
        # The caller has the deadline; redirects would send the key to somebody else.
        timeout = aiohttp.ClientTimeout(total=None)
        return cls(plan, aiohttp.ClientSession(connector=connector, timeout=timeout))

    @property
    def is_usable(self) -> bool:
        """Whether another request may be made: aiohttp connects again by itself."""
        return True

    async def export(self, service: Service | AgentPath, payload: bytes) -> Answer:
        """Make one Export request; `payload` is the message, compressed as the plan says.

        Raises:
            UnreachableError: there is no connection, or no answer.
        """
        url = f"{self._plan.endpoint.url}{service.http_path}"
        try:
            async with self._session.post(
                url, data=payload, headers=self._headers(), allow_redirects=False
            ) as response:
                body = await _read_answer(response)
        except (aiohttp.ClientError, OSError) as error:
            raise cause_of(error) from error
        headers = {name.lower(): value for name, value in response.headers.items()}
        if isinstance(service, AgentPath):
            return agent_answer(response.status, headers, body)
        return http_answer(service, response.status, headers, body)

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


async def _read_answer(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            break
    return bytes(body)
