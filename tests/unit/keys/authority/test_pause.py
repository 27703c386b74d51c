from __future__ import annotations

from dataclasses import dataclass, field

from gateway.keys.authority.pause import PauseAfterFailures


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Setup:
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.pause = PauseAfterFailures(3, 5.0, self.clock)

    def fail(self, times: int) -> None:
        for _ in range(times):
            self.pause.failed()


def test_there_is_no_pause_before_the_last_failure_in_a_row() -> None:
    setup = Setup()
    setup.fail(2)
    assert not setup.pause.is_on
    setup.fail(1)
    assert setup.pause.is_on


def test_a_success_between_failures_begins_the_count_anew() -> None:
    setup = Setup()
    setup.fail(2)
    setup.pause.succeeded()
    setup.fail(2)
    assert not setup.pause.is_on


def test_a_pause_ends_by_itself() -> None:
    setup = Setup()
    setup.fail(3)
    setup.clock.now += 4.9
    assert setup.pause.is_on
    setup.clock.now += 0.1
    assert not setup.pause.is_on


def test_one_failure_after_a_pause_begins_the_next_at_once() -> None:
    setup = Setup()
    setup.fail(3)
    setup.clock.now += 5.0
    setup.fail(1)
    assert setup.pause.is_on
    setup.clock.now += 5.0
    assert not setup.pause.is_on


def test_a_success_after_a_pause_forgives_all_failures() -> None:
    setup = Setup()
    setup.fail(3)
    setup.clock.now += 5.0
    setup.pause.succeeded()
    setup.fail(2)
    assert not setup.pause.is_on


def test_a_success_of_a_question_under_way_ends_a_pause() -> None:
    setup = Setup()
    setup.fail(3)
    setup.pause.succeeded()
    assert not setup.pause.is_on


def test_a_failure_of_a_question_under_way_makes_a_pause_longer() -> None:
    setup = Setup()
    setup.fail(3)
    setup.clock.now += 3.0
    setup.fail(1)
    setup.clock.now += 4.9
    assert setup.pause.is_on
