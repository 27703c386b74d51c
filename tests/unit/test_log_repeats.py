"""Lines that repeat. Time stands still unless a test moves it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from gateway.channel import LogLine
from gateway.log import configure, listen, tell_repeats
from gateway.log_repeats import EACH_TIME, MAX_LINES, MAX_TEXTS, Event, RepeatedLines


class Log:
    """The lines that come out, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.lines: list[dict[str, Any]] = []
        self.processor = RepeatedLines(self._write, lambda: self.now_s)

    def _write(self, event: Event) -> None:
        self.lines.append(dict(event))

    def __call__(self, text: str, level: str = "warning", **fields: Any) -> None:
        event = {"event": text, "level": level, "logger": "gateway.control", **fields}
        with contextlib.suppress(structlog.DropEvent):
            self._write(self.processor(None, level, event))

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return [line["event"] + (f" +{line['more']}" if "more" in line else "") for line in lines]


@pytest.fixture
def log() -> Log:
    return Log()


def test_the_first_is_written_at_once_and_the_others_are_counted_once_a_minute(log: Log) -> None:
    for _ in range(5):
        log("the store is away")
    assert log.take() == ["the store is away"]
    log.now_s += 59
    log.processor.tell()
    assert log.take() == []
    log.now_s += 1
    log.processor.tell()
    assert log.lines[0]["within_s"] == 60
    assert log.take() == ["the store is away +4"]
    log.now_s += 60
    log.processor.tell()
    log("the store is away")
    assert log.take() == ["the store is away"]


def test_whatever_is_logged_tells_what_is_due(log: Log) -> None:
    log("one")
    log("one")
    log.now_s += 60
    log("two")
    assert log.take() == ["one", "one +1", "two"]


def test_the_end_tells_the_rest(log: Log) -> None:
    log("one")
    log("one")
    log.processor.tell_rest()
    assert log.take() == ["one", "one +1"]


def test_other_fields_are_another_line_but_not_what_varies(log: Log) -> None:
    log("away", store="a", error="timeout")
    log("away", store="b", error="timeout")
    log("away", store="b", error="refused", pid=7, wait_s=1.0)
    log.processor.tell_rest()
    assert log.take() == ["away", "away", "away +1"]


def test_another_level_and_another_logger_are_another_line(log: Log) -> None:
    log("text")
    log("text", "error")
    log("text", logger="asyncio")
    assert len(log.take()) == 3


def _raised(text: str) -> ValueError:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int(f"text {text}")
    return caught.value


def _raised_elsewhere() -> ValueError:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("elsewhere")
    return caught.value


def test_a_bug_that_strikes_again_is_counted_and_another_one_is_written(log: Log) -> None:
    for number in range(3):
        log("internal error", "error", exc_info=_raised(str(number)))
    log("internal error", "error", exc_info=_raised_elsewhere())
    log.processor.tell_rest()
    assert log.take() == ["internal error", "internal error", "internal error +2"]


def test_no_exception_is_held(log: Log) -> None:
    log("internal error", "error", exc_info=_raised(""))
    log("internal error", "error", exc_info=_raised(""))
    log.take()
    log.processor.tell_rest()
    assert "exc_info" not in log.lines[0]


def test_summaries_of_others_pass(log: Log) -> None:
    for _ in range(3):
        log("refused", count=7)
        log("a handshake failed", more=2, within_s=60)
    assert len(log.take()) == 6


def test_what_somebody_asked_for_is_written_each_time(log: Log) -> None:
    for _ in range(3):
        log("reloaded", "info", **{EACH_TIME: True})
    assert log.take() == ["reloaded"] * 3
    assert all(EACH_TIME not in line for line in log.lines)


def test_details_for_debugging_are_never_left_out(log: Log) -> None:
    for _ in range(3):
        log("a detail", "debug")
    assert len(log.take()) == 3


def test_a_text_with_ever_new_fields_is_bounded(log: Log) -> None:
    for number in range(MAX_LINES * 3):
        log("a peer", peer=str(number))
    assert len(log.take()) == MAX_LINES + 1
    log("another text")
    assert log.take() == ["another text"]


def test_ever_new_texts_are_bounded(log: Log) -> None:
    for number in range(MAX_TEXTS * 3):
        log(f"text {number}")
    assert len(log.take()) <= MAX_TEXTS + MAX_LINES + 1
    assert len(log.processor._texts) == MAX_TEXTS + 1


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = (structlog.get_config(), root.handlers, root.level)
    yield
    structlog.configure(**before[0])
    root.handlers = before[1]
    root.setLevel(before[2])


@pytest.mark.usefixtures("_logging_as_before")
def test_all_lines_of_a_process_are_summarised_those_of_libraries_too() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    for _ in range(3):
        structlog.get_logger("gateway.control").warning("away", store="s")
        logging.getLogger("asyncio").error("lost")
        structlog.get_logger("gateway.control").error("a bug", exc_info=_raised("key=hidden"))
    tell_repeats(rest=True)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line.get("more")) for line in lines] == [
        ("away", None),
        ("lost", None),
        ("a bug", None),
        ("away", 2),
        ("lost", 2),
        ("a bug", 2),
    ]
    assert list(lines[3])[:4] == ["timestamp", "level", "logger", "event"]
    assert (lines[3]["logger"], lines[3]["level"]) == ("gateway.control", "warning")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("_logging_as_before")
def test_no_text_in_the_log_controls_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = _Terminal()
    configure("info", "auto", stream)
    structlog.get_logger().warning("text \x1b[2J", scheme="\x1b[2J\u202e\n", other=["\x1b"])
    structlog.get_logger().error("a bug", exc_info=_raised("\x1b[2J"))
    assert all(char.isprintable() or char == "\n" for char in stream.getvalue())
    assert "ValueError" in stream.getvalue()


@pytest.mark.usefixtures("_logging_as_before")
def test_a_listener_gets_what_is_written_without_secrets_and_summaries_of_the_rest() -> None:
    heard: list[LogLine] = []
    configure("info", "json", io.StringIO())
    stop = listen(heard.append)
    log = structlog.get_logger("gateway.control")
    for _ in range(3):
        log.warning("refused", token="canary", places=["a"], count_of={"b": 1}, n=2**70)
    log.debug("not written")
    tell_repeats(rest=True)
    stop()
    log.warning("not heard any more")

    first, summary = heard
    assert (first.level, first.logger, first.event) == ("warning", "gateway.control", "refused")
    assert first.fields["token"] == "***"
    assert (first.fields["places"], first.fields["n"]) == ("['a']", str(2**70))
    assert (summary.event, summary.fields["more"]) == ("refused", 2)
