from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.control.admin.health import LIVE_GRACE_S, GatewayState, Health

GOOD = GatewayState(keys_loaded=True, accepting=2, wanted=2, stores=[], backends=[])


def test_ready_when_keys_are_loaded_and_a_worker_accepts() -> None:
    is_ready, detail = Health(lambda: GOOD).ready()
    assert is_ready
    assert detail["status"] == "ready"
    assert detail["reasons"] == []
    assert detail["workers"] == {"accepting": 2, "wanted": 2}


@pytest.mark.parametrize(
    "change,reason",
    [
        ({"keys_loaded": False}, "keys are not loaded"),
        ({"accepting": 0}, "no worker accepts connections (0 of 2)"),
    ],
)
def test_not_ready_says_why(change: dict[str, Any], reason: str) -> None:
    is_ready, detail = Health(lambda: replace(GOOD, **change)).ready()
    assert not is_ready
    assert detail["status"] == "not ready"
    assert [reason in each for each in detail["reasons"]] == [True]


def test_not_ready_while_draining() -> None:
    health = Health(lambda: GOOD)
    health.is_draining = True
    is_ready, detail = health.ready()
    assert not is_ready
    assert detail["draining"] is True
    assert "draining" in detail["reasons"][0]


def test_one_of_several_workers_is_enough() -> None:
    assert Health(lambda: replace(GOOD, accepting=1)).ready()[0]


def test_a_store_or_backend_that_is_down_is_told_but_does_not_gate() -> None:
    down: dict[str, Any] = {"stores": [{"up": False}], "backends": [{"up": False}]}
    is_ready, detail = Health(lambda: replace(GOOD, **down)).ready()
    assert is_ready
    assert detail["stores"] == down["stores"]
    assert detail["backends"] == down["backends"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_live_until_no_worker_has_accepted_for_too_long() -> None:
    clock = Clock()
    health = Health(lambda: GOOD, clock)
    clock.now = LIVE_GRACE_S
    assert health.live()[0]
    clock.now += 1
    is_live, detail = health.live()
    assert not is_live
    assert detail["reasons"]


def test_live_again_as_soon_as_a_worker_accepts_and_the_grace_starts_anew() -> None:
    clock = Clock()
    states = [GOOD]
    health = Health(lambda: states[-1], clock)
    clock.now = 2 * LIVE_GRACE_S
    health.worker_changed(None)
    assert health.live()[0]
    states.append(replace(GOOD, accepting=0))
    health.worker_changed(None)
    clock.now += LIVE_GRACE_S
    health.worker_changed(None)
    assert health.live()[0]
    clock.now += 1
    assert not health.live()[0]


def test_live_while_draining_however_long_it_takes() -> None:
    clock = Clock()
    health = Health(lambda: GOOD, clock)
    health.is_draining = True
    clock.now = 2 * LIVE_GRACE_S
    assert health.live()[0]
