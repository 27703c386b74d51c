"""How a command learns that the gateways that share a PostgreSQL have taken its change over.

A command that has changed the store asks, by NOTIFY on a channel to which all gateways listen,
which of them have its revision; they answer on the asker's own channel once all their workers have
confirmed that revision. For askers that cannot listen they write it into their rows
(`gateway_rows`). The rows, and the server's list of connections, say which gateways must answer: a
gateway's listening connection carries its name (`application_name`). Gateways behind a pooler are
not reached: they write their rows when they have found the change by looking.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final

from gateway.keys.confirmations.gateway_rows import Fleet, GatewayRow, fleet
from gateway.keys.store import Confirmation

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

ASK_CHANNEL: Final = "otlp_gateway_confirmed"
AGAIN_S: Final = 0.5
"""Time between two looks at who is connected; who has not answered is asked again."""

_ANSWER_CHANNEL: Final = "otlp_gateway_confirmed_{}"
_BY_ROWS: Final = "rows"
"""Asks in the place of an asker that can hear: who confirms writes it into its row."""
_QUESTION: Final = re.compile(rf"([0-9a-f]{{16}}|{_BY_ROWS}) ([0-9]{{1,18}})")
_MOST_QUESTIONS: Final = 1_000
_LONGEST_HOST: Final = 30
"""PostgreSQL cuts names after 63 bytes."""
_NOTIFY: Final = "SELECT pg_notify($1, $2)"


class NotificationPublisher:
    """A `ConfirmationPublisher` by notifications, and by a row in the database.

    `wake` has the gateway call `answer` on its listening connection, and `sign`.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        host = re.sub(r"[^A-Za-z0-9._-]", "?", socket.gethostname())[:_LONGEST_HOST]
        self.name = f"{host} {os.getpid()}-{secrets.token_hex(4)}"
        """The host's name, and which gateway on it."""
        self.is_deaf = False
        """Whether no question comes through: what is published is to be written at once."""
        self._wake = wake
        self._confirmed = 0
        self._row: GatewayRow | None = None
        self._must_sign = False
        self._questions: dict[str, int] = {}
        """Who asks → for which revision; oldest first."""

    def publish(self, revision: int) -> None:
        """Say that every live worker has the store's `revision`, or that none lives."""
        self._confirmed = revision
        is_news = self.is_deaf and self._row is not None and not self._row.says(revision)
        if is_news or self._due():
            self._wake()

    def begin(self, on_problem: Callable[[str], None]) -> None:
        """Have a row from now on. `on_problem` is told what keeps it from being written."""
        self._row = GatewayRow(self.name, on_problem)

    async def sign(self, connection: Connection) -> None:
        """Write the row if need be. Raises what asyncpg does when it breaks."""
        if self._row is not None:
            await self._row.sign(
                connection, self._confirmed, at_once=self.is_deaf or self._must_sign
            )
            self._must_sign = False

    @property
    def may_be_signed(self) -> bool:
        """Whether there is a row, or may be."""
        return self._row is not None and self._row.may_stand

    async def leave(self, connection: Connection) -> None:
        """Take the row away. Raises what asyncpg does."""
        if self._row is not None:
            await self._row.leave(connection)

    def close(self) -> None:
        """Answer nobody any more; the end of the connection tells the rest."""
        self._questions.clear()

    def take_question(self, *notification: object) -> None:
        """Take note of who asks: asyncpg's listener. What is no question is left alone."""
        question = _QUESTION.fullmatch(str(notification[-1]))
        if question is None:
            return
        self._questions[question[1]] = int(question[2])
        if len(self._questions) > _MOST_QUESTIONS:
            del self._questions[next(iter(self._questions))]
        self._wake()  # to answer, or to look for the change if its own notification was lost

    async def answer(self, connection: Connection) -> None:
        """Answer whom it can be answered. Raises what asyncpg does; then tries again when woken."""
        for asker in self._due():
            if asker == _BY_ROWS:
                self._must_sign = True
            else:
                await connection.execute(_NOTIFY, _ANSWER_CHANNEL.format(asker), self.name)
            self._questions.pop(asker, None)

    def _due(self) -> list[str]:
        return [asker for asker, wanted in self._questions.items() if wanted <= self._confirmed]


async def wait_for_gateways(
    connection: Connection, revision: int, timeout_s: float
) -> Confirmation:
    """Wait until all gateways that can be reached have confirmed `revision`, which is committed.

    A gateway that ends meanwhile is not waited for. Raises what asyncpg does.
    """
    question = _Question(secrets.token_hex(8))
    await connection.add_listener(question.channel, question.take_answer)
    deadline_s = time.monotonic() + timeout_s
    while True:
        gateways = await fleet(connection, revision)
        awaited = gateways.known - gateways.confirmed - question.answers - gateways.silent
        left_s = deadline_s - time.monotonic()
        if not awaited or left_s <= 0:
            return _confirmation(gateways, question.answers)
        await connection.execute(_NOTIFY, ASK_CHANNEL, f"{question.asker} {revision}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(AGAIN_S, left_s)):
                await question.until_answered(awaited)


async def wait_for_rows(
    connected: Callable[[], AbstractAsyncContextManager[Connection]],
    revision: int,
    timeout_s: float,
) -> Confirmation:
    """Do as `wait_for_gateways`, behind a pooler: nothing is heard, and no connection is kept."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        async with connected() as connection:
            gateways = await fleet(connection, revision)
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not gateways.known - gateways.confirmed - gateways.silent:
                return _confirmation(gateways, set())
            await connection.execute(_NOTIFY, ASK_CHANNEL, f"{_BY_ROWS} {revision}")
        await asyncio.sleep(min(AGAIN_S, left_s))


def _confirmation(gateways: Fleet, answers: set[str]) -> Confirmation:
    confirmed = gateways.confirmed | answers
    return Confirmation(confirmed, gateways.known - confirmed, has_standbys=gateways.has_standbys)


class _Question:
    """A command's end: who has answered it."""

    def __init__(self, asker: str) -> None:
        self.asker = asker
        self.channel = _ANSWER_CHANNEL.format(asker)
        self.answers: set[str] = set()
        self._heard = asyncio.Event()

    def take_answer(self, *notification: object) -> None:
        """Take note of who answers: asyncpg's listener."""
        self.answers.add(str(notification[-1]))
        self._heard.set()

    async def until_answered(self, gateways: frozenset[str]) -> None:
        """Return when all of them have answered."""
        while not gateways <= self.answers:
            self._heard.clear()
            await self._heard.wait()
