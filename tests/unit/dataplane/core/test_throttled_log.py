from __future__ import annotations

from typing import Any

import structlog.testing

from gateway.dataplane.core.throttled_log import INTERVAL_S, MAX_GROUPS, ThrottledLog

Events = list[Any]


def test_the_first_of_a_kind_is_logged_at_once_and_the_others_after_a_minute() -> None:
    throttled = ThrottledLog()
    with structlog.testing.capture_logs() as events:
        for _ in range(5):
            throttled.warn("a TLS handshake failed", "192.0.2.1:1", 0.0, "NO_SHARED_CIPHER")
        throttled.sweep(INTERVAL_S - 1)
    assert events == [
        {
            "event": "a TLS handshake failed",
            "log_level": "warning",
            "peer": "192.0.2.1:1",
            "detail": "NO_SHARED_CIPHER",
        }
    ]
    with structlog.testing.capture_logs() as events:
        throttled.sweep(INTERVAL_S)
    (summary,) = events
    assert summary["more"] == 4
    assert summary["network"] == "192.0.2.0/24"


def test_one_noisy_network_hides_no_other() -> None:
    throttled = ThrottledLog()
    with structlog.testing.capture_logs() as events:
        throttled.warn("x", "192.0.2.1:1", 0.0)
        throttled.warn("x", "192.0.2.2:1", 0.0)
        throttled.warn("x", "198.51.100.1:1", 0.0)
        throttled.warn("y", "192.0.2.1:1", 0.0)
    assert [(event["event"], event["peer"]) for event in events] == [
        ("x", "192.0.2.1:1"),
        ("x", "198.51.100.1:1"),
        ("y", "192.0.2.1:1"),
    ]


def test_a_network_that_went_quiet_is_logged_at_once_again() -> None:
    throttled = ThrottledLog()
    with structlog.testing.capture_logs() as events:
        throttled.warn("x", "192.0.2.1:1", 0.0)
        throttled.sweep(INTERVAL_S)
        throttled.warn("x", "192.0.2.1:1", INTERVAL_S + 1)
    assert len(events) == 2


def test_the_networks_that_are_told_apart_are_bounded_and_the_others_are_counted() -> None:
    throttled = ThrottledLog()
    with structlog.testing.capture_logs() as events:
        for number in range(MAX_GROUPS + 100):
            throttled.warn("x", f"10.{number // 256}.{number % 256}.1:1", 0.0)
    assert len(events) == MAX_GROUPS + 1
    with structlog.testing.capture_logs() as events:
        throttled.sweep(INTERVAL_S)
    assert [event["more"] for event in events] == [99]
