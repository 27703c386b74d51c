from __future__ import annotations

import msgspec
from structlog.testing import capture_logs

from gateway.channel import Refused
from gateway.control.metrics.refusal_log import LINES_A_TURN, RefusalLog

REFUSED = Refused(
    who="ab12cd34",
    reason="key_revoked",
    count=3,
    peer="10.1.2.3:4567",
    scheme="StackState",
    key_id="7",
    digest_prefix="ab12cd34",
    protocol="grpc",
    signal="traces",
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_refusal_is_a_warning_at_once_that_says_who_why_and_whose_key() -> None:
    with capture_logs() as logs:
        RefusalLog({"7": "agent eu"}.__getitem__, lambda _: None, Clock()).take(REFUSED)
    assert logs == [
        {
            "event": "refused",
            "log_level": "warning",
            "reason": "key_revoked",
            "count": 3,
            "peer": "10.1.2.3:4567",
            "protocol": "grpc",
            "signal": "traces",
            "scheme": "StackState",
            "key_id": "7",
            "key_name": "agent eu",
            "digest": "ab12cd34",
        }
    ]


def test_a_line_says_whose_data_the_key_sends() -> None:
    with capture_logs() as logs:
        RefusalLog(lambda _: "", lambda _: None, Clock(), {"7": "Team A"}.__getitem__).take(REFUSED)
    assert logs[0]["owner"] == "Team A"


def test_what_is_not_known_is_left_out() -> None:
    bare = Refused("10.1.2.0/24", "key_missing", 1, "10.1.2.3:4567", "", "", "", "", "")
    with capture_logs() as logs:
        RefusalLog(lambda _: "", lambda _: None, Clock()).take(bare)
    assert set(logs[0]) == {"event", "log_level", "reason", "count", "peer"}


def test_more_of_the_same_is_summed_up_after_a_minute() -> None:
    clock = Clock()
    refusals = RefusalLog(lambda _: "", lambda _: None, clock)
    with capture_logs() as logs:
        for _ in range(4):
            refusals.take(REFUSED)
        clock.now += 30
        refusals.sweep()
        assert len(logs) == 1
        clock.now += 31
        refusals.sweep()
    assert [log["count"] for log in logs] == [3, 9]
    assert logs[1]["within_s"] == 61
    assert logs[1]["event"].startswith("refused, summary")


def test_what_has_not_been_told_is_told_at_the_end() -> None:
    clock = Clock()
    refusals = RefusalLog(lambda _: "", lambda _: None, clock)
    with capture_logs() as logs:
        for _ in range(3):
            refusals.take(REFUSED)
        clock.now += 5
        refusals.close()
        refusals.close()
    assert [log["count"] for log in logs] == [3, 6]


def test_one_misconfigured_sender_hides_no_other() -> None:
    refusals = RefusalLog(lambda _: "", lambda _: None, Clock())
    with capture_logs() as logs:
        for _ in range(5):
            refusals.take(REFUSED)
        refusals.take(msgspec.structs.replace(REFUSED, who="ffff0000", digest_prefix="ffff0000"))
        refusals.take(msgspec.structs.replace(REFUSED, reason="key_expired"))
    assert [(log["digest"], log["reason"]) for log in logs] == [
        ("ab12cd34", "key_revoked"),
        ("ffff0000", "key_revoked"),
        ("ab12cd34", "key_expired"),
    ]


def test_an_embedding_program_gets_every_refusal() -> None:
    seen: list[Refused] = []
    refusals = RefusalLog(lambda _: "", seen.append, Clock())
    for _ in range(3):
        refusals.take(REFUSED)
    assert seen == [REFUSED] * 3


def test_a_flood_of_refusals_is_written_some_lines_in_a_turn_in_their_order() -> None:
    refusals = RefusalLog(lambda _: "", lambda _: None, Clock())
    flood = [f"{number:08x}" for number in range(3 * LINES_A_TURN + 1)]
    with capture_logs() as logs:
        for who in flood:
            refusals.take(msgspec.structs.replace(REFUSED, who=who, digest_prefix=who))
        written = [len(logs)]
        while refusals.sweep():
            written.append(len(logs))
    assert written == [LINES_A_TURN, 2 * LINES_A_TURN, 3 * LINES_A_TURN]
    assert [log["digest"] for log in logs] == flood


def test_summaries_that_are_due_together_are_written_some_in_a_turn() -> None:
    clock = Clock()
    refusals = RefusalLog(lambda _: "", lambda _: None, clock)
    flood = [f"{number:08x}" for number in range(2 * LINES_A_TURN)]
    with capture_logs() as logs:
        for who in [*flood, *flood]:
            refusals.take(msgspec.structs.replace(REFUSED, who=who))
        while refusals.sweep():
            pass
        clock.now += 61
        before = len(logs)
        assert refusals.sweep()
        assert len(logs) == before + LINES_A_TURN
        while refusals.sweep():
            pass
    assert sum(log["event"] != "refused" for log in logs) == len(flood)


def test_what_waits_for_its_turn_is_told_at_the_end() -> None:
    refusals = RefusalLog(lambda _: "", lambda _: None, Clock())
    with capture_logs() as logs:
        for number in range(2 * LINES_A_TURN):
            refusals.take(msgspec.structs.replace(REFUSED, who=f"{number:08x}"))
        refusals.close()
    assert len(logs) == 2 * LINES_A_TURN
