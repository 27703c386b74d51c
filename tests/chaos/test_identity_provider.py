"""An identity provider that rotates its keys, errs, hangs and goes away under its senders: what was
acknowledged is at the backend, and no good token ever gets a no.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Final

from tests.support.bodies import logs
from tests.support.clients import http1_request
from tests.support.exchange import PROTOBUF
from tests.support.issuer import AUDIENCE, ScriptedIssuer, SigningKey
from tests.support.process import Gateway, running_gateway
from tests.support.sink import RawSink

SENDERS: Final = 4
ENOUGH: Final = 3 * SENDERS
"""Answers in each situation."""
WAIT_S: Final = 60.0
"""Only taken by a test that fails."""
ACCEPTED, AGAIN = 200, 503


class Senders:
    """Each sends one numbered item after the other, with a token that nobody has seen before."""

    def __init__(self, gateway: Gateway, issuer: ScriptedIssuer) -> None:
        self.answers: Counter[int] = Counter()
        self.acknowledged: set[bytes] = set()
        self._gateway = gateway
        self._issuer = issuer
        self._number = 0
        self._is_stopped = False

    async def run(self) -> None:
        """Send until it is stopped."""
        await asyncio.gather(*(self._send_again_and_again() for _ in range(SENDERS)))

    def stop(self) -> None:
        """Begin nothing new."""
        self._is_stopped = True

    async def until(self, status: int) -> None:
        """Wait until enough of one answer have come from now on."""
        wanted = self.answers[status] + ENOUGH
        async with asyncio.timeout(WAIT_S):
            while self.answers[status] < wanted:
                await asyncio.sleep(0.02)

    async def _send_again_and_again(self) -> None:
        while not self._is_stopped:
            self._number += 1
            body = logs([self._number]).SerializeToString()
            token = self._issuer.token(jti=str(self._number), team="a")
            fields = (
                ("Content-Type", PROTOBUF),
                ("Authorization", f"Bearer {token}"),
                ("Content-Length", str(len(body))),
            )
            response = await http1_request(self._gateway.port, "/v1/logs", fields, body)
            self.answers[response.status] += 1
            if response.status == ACCEPTED:
                self.acknowledged.add(body)
            else:
                await asyncio.sleep(0.05)


async def test_whatever_an_issuer_does_loses_nothing_and_refuses_no_good_token(
    tmp_path: Path,
) -> None:
    async with ScriptedIssuer() as issuer, RawSink() as sink:
        tree = {
            "backends": {"otlp_http": {"urls": [sink.http_url]}},
            "keys": {
                "stores": [f"jwt+{issuer.url}"],
                "jwt": {
                    "audience": AUDIENCE,
                    "timeout": "500ms",
                    "refresh": "5s",
                    "map": {"headers": {"X-Scope-OrgID": "$.team"}},
                },
            },
        }
        async with running_gateway(tmp_path, tree) as gateway:
            senders = Senders(gateway, issuer)
            running = asyncio.create_task(senders.run())
            await senders.until(ACCEPTED)
            await _away_and_back(issuer, senders)
            await _wrong_answers(issuer, senders)
            senders.stop()
            await running
        assert set(senders.answers) <= {ACCEPTED, AGAIN}, senders.answers
        assert senders.acknowledged <= {request.body for request in sink.requests}
        assert {request.field("x-scope-orgid") for request in sink.requests} == {"a"}


async def _away_and_back(issuer: ScriptedIssuer, senders: Senders) -> None:
    """Rotate while the issuer can be asked, then while it is away."""
    issuer.keys.append(SigningKey.make("k2"))
    await senders.until(ACCEPTED)
    await issuer.stop()
    await senders.until(ACCEPTED)  # with the keys that are known
    issuer.keys.append(SigningKey.make("k3"))
    await senders.until(AGAIN)
    await issuer.__aenter__()
    await senders.until(ACCEPTED)


async def _wrong_answers(issuer: ScriptedIssuer, senders: Senders) -> None:
    """Rotate while it answers, but not with its keys."""
    issuer.trick = "hang"
    issuer.keys.append(SigningKey.make("k4"))
    await senders.until(AGAIN)
    issuer.trick, issuer.status, issuer.body = "", 500, b"<html>canary"
    await senders.until(AGAIN)
    issuer.status = 200
    await senders.until(AGAIN)
    issuer.body = None
    await senders.until(ACCEPTED)
