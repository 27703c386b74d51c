"""Who is let in, and how slowly tokens can be guessed. Time stands still unless a test moves it."""

from __future__ import annotations

import asyncio

import pytest

from gateway.control.admin.roles import Caller, Role
from gateway.control.admin.token_gate import FREE, MOST_ADDRESSES, MOST_WAITING, Rejected, TokenGate
from gateway.keys.scope import Scope

ALICE = Caller("alice", Role.ADMINISTRATOR)
MANAGER = Caller("carol", Role.KEY_MANAGER)
TEAM = Caller("team-a", Role.KEY_MANAGER, Scope(frozenset({("team", "a")})))
BY_CERTIFICATE = Caller("ops", Role.KEY_MANAGER)
ATTACKER, OPERATOR = "192.0.2.1", "198.51.100.7"


class Clock:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> TokenGate:
    # Far longer than a test: what waits, waits for the clock above, not for the event loop.
    return TokenGate(
        {"right": ALICE, "read": Caller("bob", Role.READER), "team": TEAM, "manage": MANAGER}.get,
        lambda certificate: BY_CERTIFICATE if certificate else None,
        clock=clock,
        interval_s=3600.0,
    )


async def status(gate: TokenGate, remote: str, *tokens: str) -> int | str:
    admitted = await gate.admit(remote, tokens, Role.READER)
    return admitted.status if isinstance(admitted, Rejected) else admitted.name


async def is_held_up(gate: TokenGate, remote: str, token: str) -> bool:
    """Whether a request with this token has to wait for its turn."""
    asked = asyncio.ensure_future(gate.admit(remote, [token], Role.READER))
    await asyncio.sleep(0)
    held_up = not asked.done()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    return held_up


async def use_up(gate: TokenGate, remote: str) -> None:
    for number in range(FREE):
        assert await status(gate, remote, f"guess-{number}") == 401


async def test_a_right_token_is_let_in_by_its_name(gate: TokenGate) -> None:
    assert await status(gate, OPERATOR, "right") == "alice"
    assert await status(gate, OPERATOR, "right", "right") == "alice"


async def test_none_and_a_wrong_one_are_told_apart(gate: TokenGate) -> None:
    missing = await gate.admit(OPERATOR, [], Role.READER)
    wrong = await gate.admit(OPERATOR, ["wrong"], Role.READER)
    assert isinstance(missing, Rejected)
    assert isinstance(wrong, Rejected)
    assert "no token" in missing.text
    assert "unknown token" in wrong.text
    assert await status(gate, OPERATOR, "right", "wrong") == 401


async def test_a_few_wrong_ones_hold_up_nobody(gate: TokenGate) -> None:
    for number in range(FREE - 1):
        await status(gate, ATTACKER, f"guess-{number}")
    assert await status(gate, ATTACKER, "right") == "alice"


async def test_after_them_right_and_wrong_ones_wait_alike(gate: TokenGate) -> None:
    await use_up(gate, ATTACKER)
    assert await is_held_up(gate, ATTACKER, "guess")
    assert await is_held_up(gate, ATTACKER, "right")


async def test_other_addresses_and_requests_without_tokens_wait_for_nothing(
    gate: TokenGate,
) -> None:
    await use_up(gate, ATTACKER)
    assert await status(gate, OPERATOR, "right") == "alice"
    assert await status(gate, ATTACKER) == 401


async def test_time_pays_for_wrong_ones(gate: TokenGate, clock: Clock) -> None:
    await use_up(gate, ATTACKER)
    clock.now_s += 3600.0
    assert await status(gate, ATTACKER, "guess") == 401
    assert await is_held_up(gate, ATTACKER, "right")
    clock.now_s += 3600.0
    assert await status(gate, ATTACKER, "right") == "alice"


async def test_more_than_a_few_waiting_ones_are_rejected_away(gate: TokenGate) -> None:
    await use_up(gate, ATTACKER)
    waiting = [
        asyncio.ensure_future(gate.admit(ATTACKER, ["x"], Role.READER)) for _ in range(MOST_WAITING)
    ]
    await asyncio.sleep(0)
    rejected = await gate.admit(ATTACKER, ["right"], Role.READER)
    assert isinstance(rejected, Rejected)
    assert rejected.status == 429
    assert rejected.retry_after_s
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await is_held_up(gate, ATTACKER, "right")


@pytest.mark.parametrize(
    "one, other, is_same",
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.9", "192.0.2.9", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("192.0.2.9", "192.0.2.10", False),
        ("", "192.0.2.10", False),
    ],
)
async def test_a_network_of_ipv6_is_one_sender(
    gate: TokenGate, one: str, other: str, is_same: bool
) -> None:
    await use_up(gate, one)
    assert await is_held_up(gate, other, "right") == is_same


async def test_memory_is_bounded_however_many_addresses_guess(gate: TokenGate) -> None:
    for number in range(MOST_ADDRESSES + 100):
        await gate.admit(
            f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", ["guess"], Role.READER
        )
    assert len(gate._addresses) == MOST_ADDRESSES


@pytest.mark.parametrize(
    "tokens, certificate, needed, expected",
    [
        (["right"], False, Role.ADMINISTRATOR, "alice"),
        (["read"], False, Role.READER, "bob"),
        (["read"], False, Role.KEY_MANAGER, 403),
        (["right", "read"], False, Role.KEY_MANAGER, 403),
        ([], True, Role.KEY_MANAGER, "ops"),
        ([], True, Role.ADMINISTRATOR, 403),
        (["right"], True, Role.ADMINISTRATOR, "alice"),
        (["read"], True, Role.KEY_MANAGER, 403),
        (["wrong"], True, Role.READER, 401),
        ([], False, Role.READER, 401),
    ],
)
async def test_a_role_allows_what_it_says_and_a_token_counts_before_a_certificate(
    gate: TokenGate,
    tokens: list[str],
    certificate: bool,
    needed: Role,
    expected: str | int,
) -> None:
    presented = {"subjectAltName": ()} if certificate else None
    admitted = await gate.admit(OPERATOR, tokens, needed, presented)
    found = admitted.status if isinstance(admitted, Rejected) else admitted.name
    assert found == expected


async def test_who_has_labels_may_ask_only_where_its_scope_is_looked_at(gate: TokenGate) -> None:
    refused = await gate.admit(OPERATOR, ["team"], Role.READER)
    assert isinstance(refused, Rejected)
    assert refused.status == 403
    assert refused.text == "'team-a' has labels, for keys alone: this needs a token without labels"
    assert await gate.admit(OPERATOR, ["team"], Role.KEY_MANAGER, takes_scopes=True) == TEAM


async def test_of_two_tokens_with_one_role_the_one_with_labels_counts(gate: TokenGate) -> None:
    for tokens in (["team", "manage"], ["manage", "team"], ["right", "team"]):
        assert await gate.admit(OPERATOR, tokens, Role.READER, takes_scopes=True) == TEAM


async def test_who_may_not_do_something_is_told_by_name_and_role(gate: TokenGate) -> None:
    for _ in range(FREE + 1):  # and it is no guess
        refused = await gate.admit(OPERATOR, ["read"], Role.KEY_MANAGER)
        assert isinstance(refused, Rejected)
        assert refused.text == "the role of 'bob' is reader: this needs the role key_manager"
    assert await status(gate, OPERATOR, "right") == "alice"
