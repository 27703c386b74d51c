from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.channel import Refused
from gateway.keys.api_key import ApiKey
from gateway.log import MASK, RefusalLimiter, RefusalNotice, configure, redact

CANARY = "canary3f9c1esecret"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = (structlog.get_config(), root.handlers, root.level)
    yield
    structlog.configure(**before[0])
    root.handlers = before[1]
    root.setLevel(before[2])


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_what_matters_first() -> None:
    stream = io.StringIO()
    assert configure("info", "auto", stream) == "json"
    structlog.get_logger("gateway.control").info("ready", workers=2)
    (line,) = _lines(stream)
    assert list(line)[:4] == ["timestamp", "level", "logger", "event"]
    assert (line["level"], line["logger"], line["event"], line["workers"]) == (
        "info",
        "gateway.control",
        "ready",
        2,
    )
    assert line["timestamp"].endswith("Z")


def test_on_a_terminal_lines_are_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = _Terminal()
    assert configure("info", "auto", stream) == "console"
    structlog.get_logger("gateway.control").info("ready", workers=2)
    assert re.fullmatch(r"\d\d:\d\d:\d\d info +ready workers=2\n", stream.getvalue())


def test_for_people_the_reason_follows_the_message_and_a_librarys_name_comes_first() -> None:
    stream = io.StringIO()
    configure("info", "console", stream)
    structlog.get_logger("gateway.control").warning(
        "reload failed", file="a.yaml", reasons=["no backend", "no key"], workers={"a": 1}
    )
    logging.getLogger("asyncio").error("lost something")
    first, second = (line.partition(" ")[2] for line in stream.getvalue().splitlines())
    assert first == "warning  reload failed – no backend, no key file=a.yaml workers=a: 1"
    assert second == "error    [asyncio] lost something"


def test_colours_stand_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = _Terminal()
    configure("info", "console", stream)
    structlog.get_logger().info("ready")
    assert "\x1b[" in stream.getvalue()


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    configure("warning", "json", stream)
    log = structlog.get_logger()
    log.info("unimportant")
    log.warning("important")
    assert [line["event"] for line in _lines(stream)] == ["important"]


def test_what_libraries_log_comes_through() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger("asyncio").error("lost %s", "something")
    logging.getLogger("asyncio").info("chatter")
    (line,) = _lines(stream)
    assert (line["logger"], line["level"], line["event"]) == ("asyncio", "error", "lost something")


def test_a_traceback_is_written_without_secrets() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    try:
        raise ValueError(f"Authorization: StackState {CANARY}")  # noqa: EM102, TRY003, TRY301 - as careless code would
    except ValueError:
        structlog.get_logger().exception("a bug")
    (line,) = _lines(stream)
    assert "ValueError" in line["exception"]
    assert CANARY not in stream.getvalue()


def test_a_log_that_nobody_reads_any_more_stops_nothing() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    log = structlog.get_logger()
    stream.close()
    log.info("into the void")


@pytest.mark.parametrize(
    "fields",
    [
        {"value": SecretStr(CANARY)},
        {"value": [SecretStr(CANARY)]},
        {"value": {"token": CANARY}},
        {"authorization": CANARY},
        {"Authorization": CANARY},
        {"api_key": CANARY},
        {"key": CANARY},
        {"value": f"iapikey-{CANARY}"},
        {"value": f"iapikeyok-{CANARY}"},
        {"value": f"svctok-{CANARY}"},
        {"value": f"POST /intake?api_key={CANARY}&x=1"},
        {"value": f"POST /intake?x=1&API_KEY={CANARY}"},
        {"value": f"Authorization: StackState {CANARY}"},
        {"value": f"authorization: Basic {CANARY}=="},
        {"value": {"headers": [("authorization", f"Bearer {CANARY}")]}},
        {"value": str([(b"authorization", f"StackState {CANARY}".encode())])},
        {"value": str({"sts-api-key": CANARY})},
        {"value": json.dumps({"DD-Api-Key": CANARY})},
        {"value": f"X-API-Token: {CANARY}"},
        {"value": f"StackState%20{CANARY}"},
        {"value": f"SUSEObservability   {CANARY}"},
        {"value": f"stackstate {CANARY}".encode()},
        {"value": ValueError(f"Bearer {CANARY}")},
        {"value": f"a token eyJhbGciOiJFUzI1NiJ9.{CANARY}.c2ln in a text"},
    ],
)
def test_whatever_looks_like_a_credential_is_masked(fields: dict[str, object]) -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    structlog.get_logger().warning("refused", **fields)
    assert CANARY not in stream.getvalue()
    assert MASK in stream.getvalue()


def test_credentials_are_masked_for_people_too() -> None:
    stream = io.StringIO()
    configure("info", "console", stream)
    structlog.get_logger().warning("refused", authorization=CANARY, value=f"Bearer {CANARY}")
    assert CANARY not in stream.getvalue()
    assert stream.getvalue().count(MASK) == 2


def test_a_credential_in_the_event_itself_is_masked() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    structlog.get_logger().warning(f"got iapikey-{CANARY}")
    assert CANARY not in stream.getvalue()


@given(st.text(alphabet="abc ,;'\"()=&", max_size=20), st.text(max_size=20))
def test_an_issued_key_is_masked_wherever_it_stands(before: str, after: str) -> None:
    key = ApiKey.generate().reveal()
    assert key not in redact(f"{before} {key} {after}")


@pytest.mark.parametrize(
    "text",
    [
        "the gateway cannot check the API key right now: keep the data and try again",
        "key_id=250558013078953 key_name=my-collector digest=3f9c1e22",
        "listening on 127.0.0.1:4317",
        "the Authorization header uses the scheme Bearer: set 'scheme: StackState'",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def _refused(who: str = "3f9c1e22", reason: str = "key_unknown", count: int = 1) -> Refused:
    return Refused(
        who=who,
        reason=reason,
        count=count,
        peer="10.0.0.1:5",
        scheme="stackstate",
        key_id="",
        digest_prefix=who,
        protocol="grpc",
        signal="traces",
    )


def test_the_first_refusal_is_told_at_once() -> None:
    limiter = RefusalLimiter()
    first = _refused(count=3)
    assert limiter.add(first, now=10.0) == RefusalNotice(first, 3, 0.0)


def test_further_ones_are_summed_up_once_a_minute() -> None:
    limiter = RefusalLimiter()
    limiter.add(_refused(), now=0.0)
    latest = _refused(count=5)
    assert limiter.add(_refused(count=2), now=10.0) is None
    assert limiter.add(latest, now=59.0) is None
    assert limiter.due(now=59.9) == []
    assert limiter.due(now=60.0) == [RefusalNotice(latest, 7, 60.0)]
    assert limiter.due(now=61.0) == []


def test_the_next_summary_counts_from_the_last() -> None:
    limiter = RefusalLimiter()
    limiter.add(_refused(), now=0.0)
    limiter.add(_refused(), now=1.0)
    limiter.due(now=60.0)
    limiter.add(_refused(count=4), now=100.0)
    assert limiter.due(now=119.0) == []
    assert [notice.count for notice in limiter.due(now=120.0)] == [4]


def test_who_was_quiet_for_a_minute_is_told_at_once_again() -> None:
    limiter = RefusalLimiter()
    limiter.add(_refused(), now=0.0)
    assert limiter.due(now=60.0) == []
    assert limiter.add(_refused(), now=61.0) is not None


def test_one_misconfigured_sender_hides_no_other() -> None:
    limiter = RefusalLimiter()
    limiter.add(_refused("a"), now=0.0)
    assert limiter.add(_refused("a", "key_expired"), now=0.0) is not None
    assert limiter.add(_refused("b"), now=0.0) is not None
    assert limiter.add(_refused("a"), now=0.0) is None


def test_a_flood_of_made_up_keys_is_summed_up_in_bounded_memory() -> None:
    limiter = RefusalLimiter(max_groups=10)
    told = [limiter.add(_refused(str(number)), now=0.0) for number in range(1000)]
    assert sum(notice is not None for notice in told) == 11
    assert len(limiter._repeats) == 11
    assert [notice.count for notice in limiter.due(now=60.0)] == [989]
