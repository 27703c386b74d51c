"""How a command learns that the gateways that share a PostgreSQL have taken its change over.

Nothing is written, and nothing is sent unless a command asks. A command that has changed the store
asks, by NOTIFY on a channel to which all gateways listen, which of them have its revision; they
answer on the asker's own channel once all their workers have confirmed that revision. The server
knows which gateways must answer: a gateway's listening connection carries its name
(`application_name`), and is gone from the server's list however the gateway ends. A gateway that is
not connected cannot be asked: it reads the store when it connects again. One of a version without
this has no such name and is not waited for.
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
from typing import TYPE_CHECKING, Final

from gateway.keys.store import Confirmation

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

APPLICATION: Final = "otlp-gateway"
"""Every connection's `application_name`; a gateway's listening one has its name after a space."""
ASK_CHANNEL: Final = "otlp_gateway_confirmed"
AGAIN_S: Final = 0.5
"""Time between two looks at who is connected; who has not answered is asked again."""

_ANSWER_CHANNEL: Final = "otlp_gateway_confirmed_{}"
_QUESTION: Final = re.compile(r"([0-9a-f]{16}) ([0-9]{1,18})")
_MOST_QUESTIONS: Final = 1_000
_LONGEST_HOST: Final = 30
"""PostgreSQL cuts names after 63 bytes."""
_NOTIFY: Final = "SELECT pg_notify($1, $2)"
_CONNECTED: Final = (
    "SELECT application_name FROM pg_stat_activity"
    " WHERE datname = current_database() AND starts_with(application_name, $1)"
)
_NAMED: Final = f"{APPLICATION} "
_ECHO: Final = ""


class NotificationPublisher:
    """A `ConfirmationPublisher` by notifications.

    `wake` has the gateway call `answer` on its listening connection.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        host = re.sub(r"[^A-Za-z0-9._-]", "?", socket.gethostname())[:_LONGEST_HOST]
        self.name = f"{host} {os.getpid()}-{secrets.token_hex(4)}"
        """The host's name, and which gateway on it."""
        self._wake = wake
        self._confirmed = 0
        self._questions: dict[str, int] = {}
        """Who asks → for which revision; oldest first."""

    def publish(self, revision: int) -> None:
        """Say that every live worker has the store's `revision`, or that none lives."""
        self._confirmed = revision
        if self._due():
            self._wake()

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
            await connection.execute(_NOTIFY, _ANSWER_CHANNEL.format(asker), self.name)
            self._questions.pop(asker, None)

    def _due(self) -> list[str]:
        return [asker for asker, wanted in self._questions.items() if wanted <= self._confirmed]


async def wait_for_gateways(
    connection: Connection, revision: int, timeout_s: float
) -> Confirmation:
    """Wait until all connected gateways have confirmed `revision`, which is committed.

    A gateway that ends meanwhile is not waited for. Raises what asyncpg does.
    """
    question = _Question(secrets.token_hex(8))
    await connection.add_listener(question.channel, question.take_answer)
    deadline_s = time.monotonic() + timeout_s
    while True:
        connected = await connected_gateways(connection)
        pending = connected - question.answers
        left_s = deadline_s - time.monotonic()
        if not pending or left_s <= 0:
            break
        await connection.execute(_NOTIFY, ASK_CHANNEL, f"{question.asker} {revision}")
        await connection.execute(_NOTIFY, question.channel, _ECHO)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(AGAIN_S, left_s)):
                await question.until_answered(pending)
        if _ECHO not in question.answers:
            return Confirmation(frozenset(), frozenset(pending), is_deaf=True)
    return Confirmation(frozenset(question.answers - {_ECHO}), frozenset(pending))


async def connected_gateways(connection: Connection) -> set[str]:
    """List the names of gateways that can be asked. Raises what asyncpg does."""
    rows = await connection.fetch(_CONNECTED, _NAMED)
    return {row[0].removeprefix(_NAMED) for row in rows}


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

    async def until_answered(self, gateways: set[str]) -> None:
        """Return when all of them have answered."""
        while not gateways <= self.answers:
            self._heard.clear()
            await self._heard.wait()
