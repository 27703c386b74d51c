"""Sessions of the console: how long they last, and what ends them."""

from __future__ import annotations

from gateway.control.admin.console import sessions
from gateway.control.admin.console.sessions import Sessions, digest_of_token, is_proof
from gateway.control.admin.roles import Caller, Role

ALICE = Caller("alice", Role.ADMINISTRATOR)
BOB = Caller("bob", Role.ADMINISTRATOR)


class _Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _sessions(clock: _Clock, names: dict[bytes, Caller]) -> Sessions:
    return Sessions(names.get, clock)


def test_a_session_ends_when_it_is_idle_or_old_or_closed() -> None:
    clock, names = _Clock(), {digest_of_token("secret"): ALICE}
    opened = _sessions(clock, names)
    cookie, session = opened.open(ALICE, "secret")

    while clock.now_s + sessions.IDLE_S < sessions.LONGEST_S:
        clock.now_s += sessions.IDLE_S
        assert opened.find(cookie) is session
    clock.now_s = sessions.LONGEST_S + 1
    assert opened.find(cookie) is None

    idle, _ = opened.open(ALICE, "secret")
    clock.now_s += sessions.IDLE_S + 1
    assert opened.find(idle) is None

    closed, _ = opened.open(ALICE, "secret")
    opened.close(closed)
    assert opened.find(closed) is None


def test_a_session_ends_with_its_token_or_when_the_token_has_another_name() -> None:
    names = {digest_of_token("secret"): ALICE}
    opened = _sessions(_Clock(), names)
    cookie, _ = opened.open(ALICE, "secret")
    names[digest_of_token("secret")] = BOB
    assert opened.find(cookie) is None

    again, _ = opened.open(BOB, "secret")
    names.clear()
    assert opened.find(again) is None


def test_the_session_that_was_used_longest_ago_makes_room() -> None:
    opened = _sessions(_Clock(), {digest_of_token("secret"): ALICE})
    first, _ = opened.open(ALICE, "secret")
    second, _ = opened.open(ALICE, "secret")
    assert opened.find(first) is not None
    for _ in range(sessions.MOST - 1):
        opened.open(ALICE, "secret")
    assert opened.find(first) is not None
    assert opened.find(second) is None


def test_a_proof_is_of_one_session() -> None:
    opened = _sessions(_Clock(), {digest_of_token("secret"): ALICE})
    _, one = opened.open(ALICE, "secret")
    _, other = opened.open(ALICE, "secret")
    assert is_proof(one, one.proof)
    assert not is_proof(one, other.proof)
    assert not is_proof(one, "")
    assert not is_proof(one, "é")


def test_neither_a_token_nor_a_cookie_is_kept() -> None:
    opened = _sessions(_Clock(), {digest_of_token("secret-token"): ALICE})
    cookie, _ = opened.open(ALICE, "secret-token")
    kept = repr(vars(opened))
    assert "secret-token" not in kept
    assert cookie not in kept
