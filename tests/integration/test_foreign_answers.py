"""Commands that ask a server: whatever it sends, they neither fail oddly nor print it raw."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from gateway.cli.main import run
from gateway.cli.output import Exit
from tests.support.foreign_server import foreign_server

TOKEN: Final = "token-of-the-admin"
ATTACK: Final = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\u202egnp.exe\u2066\r\nline"
KEY: Final = {"id": 1, "name": "agent", "lastUpdateTimestamp": 1_700_000_000_000, "enabled": True}
CHANGE: Final = {
    "id": 1,
    "timestamp": 1_700_000_000_000,
    "action": "create",
    "keyId": 1,
    "keyName": "agent",
    "who": "alice",
    "origin": "127.0.0.1",
    "changes": {},
}
REQUEST: Final = {"time": "now", "peer": "::1", "bytes": 1, "result": "accepted", "duration_ms": 1}
PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
USAGE: Final = {"keyId": "1", "name": "a", "requests": 1, "bytes": 2, "refusals": 3}


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout + self.stderr


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command in this process against a server that answers with `body`."""

    def ask(*arguments: str, body: object = None, status: int = 200, raw: bytes = b"") -> Ended:
        sent = raw or json.dumps(body).encode()
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        monkeypatch.setenv("GATEWAY_TOKEN", TOKEN)
        with foreign_server(sent, status) as server:
            code = run([*arguments, "--url", server.url])
        monkeypatch.undo()
        return Ended(code, out.getvalue(), err.getvalue())

    return ask


def is_safe(text: str) -> bool:
    """Whether only line breaks of our own are in it, and nothing that is not seen."""
    return all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize(
    "command, body",
    [
        (("keys", "list"), [{**KEY, "name": ATTACK, "description": ATTACK}]),
        (("keys", "list", "--output", "json"), [{**KEY, "name": ATTACK, ATTACK: ATTACK}]),
        (("keys", "audit"), [{**CHANGE, "who": ATTACK, "changes": {ATTACK: ATTACK}}]),
        (("keys", "usage"), [{**USAGE, "name": ATTACK, "owner": ATTACK, "period": ATTACK}]),
        (("keys", "usage", "--output", "csv"), [{**USAGE, "name": ATTACK, "keyId": ATTACK}]),
        (("keys", "usage", "--output", "json"), [{**USAGE, "labels": {ATTACK: ATTACK}}]),
        (("keys", "create", "--name", "a"), {**KEY, "apiKey": ATTACK}),
        (("trace",), {**REQUEST, "peer": ATTACK, "outcome": ATTACK, "result": ATTACK}),
        (("trace", "--output", "json"), {**REQUEST, "peer": ATTACK}),
    ],
)
def test_what_a_server_sends_cannot_control_the_terminal(
    ask: Any, command: tuple[str, ...], body: object
) -> None:
    ended = ask(*command, body=body)
    assert ended.code == Exit.OK, ended.stderr
    assert "owned" in ended.stdout
    assert is_safe(ended.text)


def test_a_line_break_in_a_name_begins_no_line(ask: Any) -> None:
    ended = ask("keys", "list", body=[{**KEY, "name": "a\nb"}])
    assert len(ended.stdout.splitlines()) == 2
    assert "a\\x0ab" in ended.stdout
    traced = ask("trace", body={**REQUEST, "peer": "a\nb"})
    assert len(traced.stdout.splitlines()) == 1


@pytest.mark.parametrize("command", [("keys", "list"), ("trace",)])
@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_what_a_server_says_why_not_cannot_control_the_terminal(
    ask: Any, command: tuple[str, ...], status: int
) -> None:
    ended = ask(*command, body={"error": ATTACK}, status=status)
    assert ended.code != Exit.OK
    assert "owned" in ended.stderr
    assert is_safe(ended.text)


NESTED: Final = b"[" * 100_000
WRONG: Final = [b"null", b"7", b"{}", b'[{"id": 1}]', b"<html>", b"\xff\xfe", NESTED]


@pytest.mark.parametrize(
    "command",
    [
        ("list",),
        ("audit",),
        ("usage",),
        ("create", "--name", "a"),
        ("rotate", "--id", "1", "--overlap", "1h"),
        ("disable", "--id", "1"),
    ],
)
@pytest.mark.parametrize("raw", WRONG)
def test_a_wrong_shape_is_an_error_of_keys(ask: Any, command: tuple[str, ...], raw: bytes) -> None:
    ended = ask("keys", *command, raw=raw)
    assert ended.code == Exit.UNREACHABLE
    assert "does not answer as a gateway does" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("raw", [b"7", b"[]", b'{"bytes": "x"}', b"<html>", b"\xff\xfe", NESTED])
def test_a_wrong_shape_is_an_error_of_trace(ask: Any, raw: bytes) -> None:
    ended = ask("trace", raw=raw)
    assert ended.code == Exit.UNREACHABLE
    assert "does not answer as a gateway does" in ended.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"expiration": "soon"},
        {"expiration": 10**30},
        {"signals": 7},
        {"limits": [1]},
        {"limits": {"requests": {}}},
    ],
)
def test_the_audit_log_shows_changes_of_any_shape(ask: Any, changes: object) -> None:
    assert ask("keys", "audit", body=[{**CHANGE, "changes": changes}]).code == Exit.OK


def test_times_that_no_calendar_has_are_a_wrong_shape(ask: Any) -> None:
    ended = ask("keys", "list", body=[{**KEY, "expiration": 10**15}])
    assert ended.code == Exit.UNREACHABLE


@pytest.mark.parametrize("command", [("keys", "list"), ("trace",)])
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_token_for_this_machine_goes_through_no_proxy(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], name: str
) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN", TOKEN)
    with foreign_server() as proxy, foreign_server(json.dumps([KEY]).encode()) as server:
        for each in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(each, proxy.url)
            monkeypatch.setenv(each.upper(), proxy.url)
        run([*command, "--url", f"http://{name}:{server.port}"])
        assert len(server.asked) == 1
        assert proxy.asked == []


# Python's http.client leaves it to the garbage collector to close what a proxy has refused.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)
def test_a_proxy_gets_a_tunnel_and_never_the_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN", TOKEN)
    with foreign_server(status=403) as proxy:
        for each in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(each, proxy.url)
        assert run(["keys", "list", "--url", "https://gateway.invalid:8090"]) == Exit.UNREACHABLE
        assert run(["keys", "list", "--url", "http://gateway.invalid:8090"]) == Exit.UNREACHABLE
        assert proxy.asked == ["CONNECT gateway.invalid:8090"]
        assert TOKEN not in "".join(proxy.heads)
    assert "the token crosses the network readable" in capsys.readouterr().err


def test_the_own_token_is_not_read_through_a_link(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody's state folder could send any file of ours to whoever listens on the address."""
    secret = tmp_path / "secret"
    secret.write_text("private")
    (tmp_path / "admin-token").symlink_to(secret)
    monkeypatch.delenv("GATEWAY_TOKEN", raising=False)
    config = tmp_path / "gateway.yaml"
    config.write_text(f"state_dir: {tmp_path}\n")
    with foreign_server() as server:
        assert run(["trace", "--url", server.url, "--config", str(config)]) == Exit.BAD_INPUT
        assert server.asked == []
    assert "symbolic link" in capsys.readouterr().err
