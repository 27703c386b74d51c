"""What `gateway trace` says at its end."""

from __future__ import annotations

from gateway.cli.trace_summary import TraceSummary


def _after(seconds: float) -> TraceSummary:
    times = iter((0.0, seconds))
    return TraceSummary(lambda: next(times))


def test_requests_are_summed_up_by_what_became_of_them() -> None:
    summary = _after(90)
    for result, outcome in (
        ("accepted", "allowed"),
        ("denied", "key_expired"),
        ("accepted", "allowed"),
        ("backend_unreachable", "allowed"),
    ):
        summary.add(result, outcome)
    summary.leave_out(7)
    assert summary.text() == (
        "4 requests in 90s: 2 accepted, 1 denied (key_expired), 1 backend_unreachable,"
        " 7 more left out"
    )


def test_one_request_is_no_plural_and_none_is_said_in_words() -> None:
    one = _after(0.2)
    one.add("accepted", "allowed")
    assert one.text() == "1 request in 1s: 1 accepted"
    assert _after(60).text() == "no requests in 1m"
