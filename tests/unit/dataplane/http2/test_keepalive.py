"""When a backend is asked whether it still answers, with a clock of the test's own."""

from __future__ import annotations

import pytest

from gateway.dataplane.http2.keepalive import Keepalive, Step


class Backend:
    """A connection that is looked at once a second; `now` is the clock."""

    def __init__(self) -> None:
        self.keepalive = Keepalive()
        self.now = 1_000.0
        self.last_received = 1_000.0
        self.answers = 0
        self.steps: dict[float, Step] = {}

    def look(self, *, waits: bool) -> Step:
        return self.keepalive.next_step(self.now, self.last_received, self.answers, waits=waits)

    def pass_time(self, seconds: int, *, waits: bool, answers_pings: bool = False) -> None:
        """Let time pass; note each second in which something is to be done."""
        for _ in range(seconds):
            self.now += 1
            step = self.look(waits=waits)
            if step is not Step.NOTHING:
                self.steps[self.now - 1_000] = step
            if step is Step.PING and answers_pings:
                self.last_received = self.now
                self.keepalive.answered()


@pytest.fixture(name="backend")
def _backend() -> Backend:
    return Backend()


def test_an_idle_connection_is_left_alone(backend: Backend) -> None:
    backend.pass_time(600, waits=False)
    assert not backend.steps


def test_a_silent_backend_is_given_up_within_twenty_seconds(backend: Backend) -> None:
    backend.pass_time(19, waits=True)
    assert backend.steps == {10: Step.PING, 19: Step.GIVE_UP}


def test_a_backend_that_left_a_request_unanswered_is_asked_though_no_stream_is_open(
    backend: Backend,
) -> None:
    backend.now += 5
    backend.keepalive.request_unanswered(backend.now)
    assert backend.look(waits=False) is Step.PING
    backend.pass_time(9, waits=False)
    assert backend.steps == {14: Step.GIVE_UP}


def test_a_caller_that_gives_up_at_once_proves_nothing_until_there_is_silence(
    backend: Backend,
) -> None:
    backend.keepalive.request_unanswered(backend.now)
    assert backend.look(waits=False) is Step.NOTHING
    backend.pass_time(3, waits=False, answers_pings=True)
    assert backend.steps == {3: Step.PING}


def test_what_came_after_the_request_ended_is_an_answer_too(backend: Backend) -> None:
    backend.keepalive.request_unanswered(backend.now)
    backend.last_received = backend.now + 1
    backend.pass_time(60, waits=False)
    assert not backend.steps


def test_anything_that_comes_after_the_ping_answers_it(backend: Backend) -> None:
    backend.pass_time(10, waits=True)
    assert backend.keepalive.is_asking
    backend.last_received = backend.now
    backend.pass_time(1, waits=True)
    assert not backend.keepalive.is_asking


def test_a_process_that_was_held_up_reads_before_it_judges(backend: Backend) -> None:
    backend.pass_time(10, waits=True)
    backend.now += 60  # stopped, or starved: the answer is there, and has not been read
    assert backend.look(waits=True) is Step.NOTHING
    backend.pass_time(1, waits=True)
    assert backend.steps == {10: Step.PING, 71: Step.GIVE_UP}


def test_no_server_gets_more_than_three_pings_without_an_answer_in_between(
    backend: Backend,
) -> None:
    """With a fourth, servers of grpc-go end the connection, and its requests with it."""
    backend.pass_time(60, waits=True, answers_pings=True)
    assert list(backend.steps.values())[:4] == [Step.PING] * 3 + [Step.REPLACE]
    assert Step.PING not in list(backend.steps.values())[3:]


def test_an_answer_to_a_request_allows_pings_again(backend: Backend) -> None:
    backend.pass_time(31, waits=True, answers_pings=True)
    assert list(backend.steps.values()) == [Step.PING] * 3
    backend.answers += 1
    backend.pass_time(12, waits=True, answers_pings=True)
    assert list(backend.steps.values()) == [Step.PING] * 4
