"""Whose connection is begun next, and whose handshake is computed next."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from gateway.dataplane.accept.turns import TURN_S, TURN_STEPS, ClientTurns


@dataclass
class World:
    """Steps that each take `cost_s` of a clock that stands still otherwise."""

    cost_s: float = TURN_S
    now: float = 0.0
    done: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.turns = ClientTurns(asyncio.get_running_loop(), lambda: self.now)

    def add(self, client: str, name: str, behind: str = "") -> None:
        def step() -> None:
            self.now += self.cost_s
            self.done.append(name)
            if behind:
                self.add(client, behind)

        self.turns.add(client, step)


async def test_clients_take_turns_however_many_steps_of_one_wait() -> None:
    world = World(cost_s=0)
    for number in range(1000):
        world.add("flood", f"f{number}")
    world.add("b", "b0")
    world.add("c", "c0")
    world.add("b", "b1")
    await asyncio.sleep(0)
    assert world.done[:6] == ["f0", "b0", "c0", "f1", "b1", "f2"]
    assert len(world.done) == TURN_STEPS
    while len(world.done) < 1003:
        before = len(world.done)
        await asyncio.sleep(0)
        assert before < len(world.done) <= before + TURN_STEPS


async def test_a_turn_of_the_loop_does_only_so_much() -> None:
    world = World(cost_s=TURN_S / 2)
    for number in range(5):
        world.add("a", str(number))
    counts = []
    for _ in range(5):
        await asyncio.sleep(0)
        counts.append(len(world.done))
    assert counts == [2, 4, 5, 5, 5]


async def test_a_step_may_add_the_next() -> None:
    world = World()
    world.add("a", "a0", behind="a1")
    world.add("b", "b0", behind="b1")
    for _ in range(4):
        await asyncio.sleep(0)
    assert world.done == ["a0", "b0", "a1", "b1"]
    world.add("a", "a2")
    await asyncio.sleep(0)
    assert world.done[-1] == "a2"


@pytest.mark.parametrize("clients", [("a", "a"), ("a", "b")])
async def test_a_bug_in_a_step_does_not_keep_others_from_their_turn(
    clients: tuple[str, str],
) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context.get("exception"))
    )
    world = World()
    error = ValueError("a bug")

    def fail() -> None:
        raise error

    world.turns.add(clients[0], fail)
    world.add(clients[1], "next")
    for _ in range(3):
        await asyncio.sleep(0)
    assert (world.done, reported) == (["next"], [error])
    world.turns.add(clients[0], fail)
    await asyncio.sleep(0)
    world.add(clients[1], "later")
    await asyncio.sleep(0)
    assert world.done == ["next", "later"]
