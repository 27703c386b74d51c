"""The account of held memory."""

from __future__ import annotations

from gateway.dataplane.core.budget import Budget


def test_the_account_wakes_readers_only_when_there_is_room_again() -> None:
    budget = Budget(1_000)
    woken: list[str] = []
    budget.charge(1_000)
    assert budget.used >= budget.limit
    budget.wait("one", lambda: woken.append("one"))
    budget.wait("two", lambda: woken.append("two"))
    budget.forget("two")
    budget.release(50)
    assert woken == []
    budget.release(60)
    assert woken == ["one"]
    budget.release(200)
    assert woken == ["one"]
    assert not budget.is_near
