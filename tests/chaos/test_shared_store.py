"""Two gateways on one PostgreSQL: a thousand keys come and go through both at once while both serve
traffic, and PostgreSQL is killed in the middle. Every answer to the traffic is judged.

What the answer must be follows from what was said before the request was sent. A gateway that has
acknowledged a change (`X-Gateway-Confirmed`) decides by it at once; the other one from when it
reports the store's revision (`/readyz`). In between either answer is right. A key that was never
made is refused, but while PostgreSQL is away nobody can tell.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from gateway.keys.api_key import ApiKey
from tests.support.members import Decision, Key, Member, Sender, running_member
from tests.support.postgresql import PostgresqlServer
from tests.support.sink import RawSink

CHANGES: Final = 1_000
CRASH_AFTER: Final = 400
WRITERS: Final = 10
PAUSE_S: Final = 0.02
"""Between two requests of one sender: most of the time is for the changes."""
KEYS: Final = "/api/security/ingestion/api_keys"
RUN_S: Final = 300.0
"""Only taken by a test that fails."""
NOT_THERE: Final = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class Trial:
    """Changes keys through both gateways, sends with them through both, and judges the answers."""

    def __init__(self, members: list[Member], url: str) -> None:
        self.members = members
        self.keys: list[Key] = []
        self.wrong: list[str] = []
        self.seen: Counter[tuple[int, bool, Decision]] = Counter()
        """Answers by gateway, whether PostgreSQL was away, and decision."""
        self.acknowledged = 0
        self.unacknowledged = 0
        self.is_away = False
        """Whether PostgreSQL is away, or not all workers have been told that it is back."""
        self.is_returning = False
        self.is_over = False
        self._url = url
        self._chance = random.Random(7)
        self._fresh: list[tuple[Key, set[int]]] = []
        """Acknowledged since the last settling: a key, and who is bound to know it."""

    # Changes

    async def change(self, member: Member, count: int) -> None:
        """Have so many creates and deletes acknowledged, as chance has it."""
        done = 0
        while done < count:
            victims = [key for key in self.keys if not key.is_deleting]
            is_delete = len(victims) > 20 and self._chance.random() < 0.45
            key = self._chance.choice(victims) if is_delete else None
            found = await self._create(member) if key is None else await self._delete(member, key)
            done += found
            self.acknowledged += found
            self.unacknowledged += not found

    async def _create(self, member: Member) -> bool:
        status, is_confirmed, body = await member.call("POST", KEYS, {"name": "agent"})
        if not await self._is_done(200, status, body):
            return False
        created = json.loads(body)
        key = Key(created["apiKey"], created["id"])
        self.keys.append(key)
        await self._note(member, key, key.known_by, is_confirmed=is_confirmed)
        return True

    async def _delete(self, member: Member, key: Key) -> bool:
        key.is_deleting = True
        status, is_confirmed, body = await member.call("DELETE", f"{KEYS}/{key.id}")
        if not await self._is_done(204, status, body):
            return False
        await self._note(member, key, key.gone_by, is_confirmed=is_confirmed)
        return True

    async def _is_done(self, wanted: int, status: int, body: bytes) -> bool:
        if status != wanted:
            assert self.is_away, body
            assert status == 503, body
            await asyncio.sleep(0.02)
        return status == wanted

    async def _note(
        self, member: Member, key: Key, knowing: set[int], *, is_confirmed: bool
    ) -> None:
        """Take note of an acknowledged change, and see that its gateway decides by it at once."""
        self._fresh.append((key, knowing))
        if is_confirmed:
            await self._hold_to(member, key, knowing)

    async def _hold_to(self, member: Member, key: Key, knowing: set[int]) -> None:
        """From now on the gateway is bound to know this of the key: see whether it does."""
        knowing.add(member.number)
        await self.judge(member, self._chance.choice(member.senders), key)

    async def settle(self) -> bool:
        """Have both gateways report all that was acknowledged so far; False while nobody can."""
        was_away, fresh, self._fresh = self.is_away, self._fresh, []
        try:
            (head,) = await _fetch(self._url, "SELECT revision FROM gateway_key_store")
        except NOT_THERE:
            assert was_away or self.is_away
            self._fresh += fresh
            return False
        for member in self.members:
            await member.until_reported(head["revision"])
        for key, knowing in fresh:
            for member in self.members:
                if member.number not in knowing:
                    await self._hold_to(member, key, knowing)
        return True

    async def settle_for_ever(self) -> None:
        """Settle until it is over."""
        while not self.is_over:
            await self.settle()
            await asyncio.sleep(0.05)

    # Traffic

    async def traffic(self, member: Member, sender: Sender) -> None:
        """Send one request after the other until it is over."""
        while not self.is_over:
            await self.judge(member, sender, self._some_key())
            await asyncio.sleep(PAUSE_S)

    def _some_key(self) -> Key:
        choice = self._chance.random()
        if choice < 0.2 or not self.keys:
            return Key(ApiKey.generate().reveal())
        return self._chance.choice(self.keys[-30:] if choice < 0.6 else self.keys)

    async def judge(self, member: Member, sender: Sender, key: Key) -> None:
        """Send with the key, and compare the answer with what was known before and after."""
        rightly = key.rightly(member.number)
        may_exist = member.number not in key.known_by | key.gone_by
        was_away, could_not_tell = self.is_away, sender.cannot_tell and not self.is_returning
        found = await sender.send(key)
        is_away = was_away or self.is_away
        if key.is_deleting:
            rightly = rightly | {Decision.REFUSED}
        if is_away and may_exist:
            rightly = rightly | {Decision.UNDECIDED}
        if could_not_tell and key.id is None and not self.is_returning:
            rightly = {Decision.UNDECIDED}
        if found is None or found not in rightly:
            said = f"{sender.said}\n  instead of {rightly} by {member.number}: {key}"
            self.wrong.append(said)
            return
        self.seen[member.number, is_away, found] += 1
        is_still_away = self.is_away and not self.is_returning
        sender.cannot_tell |= is_still_away and found is Decision.UNDECIDED

    # PostgreSQL

    async def crash(self, server: PostgresqlServer) -> None:
        """Kill it in the middle; start it again when all workers have noticed and served on."""
        await self._until(lambda: self.acknowledged >= CRASH_AFTER)
        self.is_away = True
        server.kill()
        senders = [sender for member in self.members for sender in member.senders]
        await self._until(lambda: all(sender.cannot_tell for sender in senders))
        enough = min(self._served_while_away()) + 50
        await self._until(lambda: min(self._served_while_away()) > enough)
        self.is_returning = True
        await asyncio.to_thread(server.start)
        await self._until_back()
        self.is_away = self.is_returning = False
        for sender in senders:
            sender.cannot_tell = False

    def _served_while_away(self) -> list[int]:
        """Count for each gateway the requests with good keys."""
        return [self.seen[member.number, True, Decision.ACCEPTED] for member in self.members]

    async def _until_back(self) -> None:
        """Return when all workers know that PostgreSQL is back."""
        for member in self.members:
            while not (await member.store())["up"]:
                await asyncio.sleep(0.02)
        # Workers that decide by what came later have been told that, too. So many changes may have
        # been made before, and be acknowledged only now.
        enough = self.acknowledged + WRITERS
        await self._until(lambda: self.acknowledged > enough)
        while not await self.settle():
            await asyncio.sleep(0.02)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await asyncio.sleep(0.01)


async def _fetch(url: str, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


@pytest.mark.timeout(2 * RUN_S)
async def test_two_gateways_decide_rightly_through_a_thousand_changes_and_a_crash(
    server: PostgresqlServer, tmp_path: Path
) -> None:
    url = await server.new_database()
    async with AsyncExitStack() as stack:
        sink = await stack.enter_async_context(RawSink())
        members = [
            await stack.enter_async_context(running_member(number, tmp_path, sink, url))
            for number in (0, 1)
        ]
        trial = Trial(members, url)
        async with asyncio.timeout(RUN_S), asyncio.TaskGroup() as group:
            run = group.create_task
            for member in members:
                for sender in member.senders:
                    run(trial.traffic(member, sender))
            run(trial.settle_for_ever())
            writers = [
                run(trial.change(member, CHANGES // WRITERS)) for member in members * (WRITERS // 2)
            ]
            await asyncio.gather(*writers, run(trial.crash(server)))
            trial.is_over = True

        assert await trial.settle()
        assert trial.wrong == []
        assert trial.acknowledged == CHANGES
        for number in (0, 1):
            for decision in Decision:
                assert trial.seen[number, True, decision], "while PostgreSQL was away"
            assert trial.seen[number, False, Decision.ACCEPTED]
            assert trial.seen[number, False, Decision.REFUSED]
        await _check_agreement(trial, url)


async def _check_agreement(trial: Trial, url: str) -> None:
    """Compare what each worker of both gateways decides, on every key, with the database."""
    rows = await _fetch(url, "SELECT id, deleted_at_ms IS NULL AS is_live FROM gateway_keys")
    is_live = {row["id"]: row["is_live"] for row in rows}
    for key in trial.keys:
        # A delete that was not acknowledged may have been done or not.
        if key.gone_by or not key.is_deleting:
            assert is_live[key.id] == (not key.gone_by)
    assert 0 <= len(is_live) - len(trial.keys) <= WRITERS, "at most what each was doing"
    wanted = [Decision.ACCEPTED if is_live[key.id] else Decision.REFUSED for key in trial.keys]
    for member in trial.members:
        status, _, body = await member.call("GET", "/metrics")
        assert status == 200
        assert f'gateway_keys{{state="active"}} {sum(is_live.values())}.0' in body.decode()
    of_workers = [sender for member in trial.members for sender in member.senders[:2]]
    sweeps = [sender.send_all(trial.keys) for sender in of_workers]
    assert await asyncio.gather(*sweeps) == [wanted] * len(sweeps)
