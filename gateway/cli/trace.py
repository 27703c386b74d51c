"""`gateway trace`: watch a running gateway's requests, one line each, as they complete."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import ssl
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn
from urllib.parse import SplitResult, urlencode, urlsplit

import msgspec
import typer

from gateway.cli.answers import WrongShapeError, decoded
from gateway.cli.output import Colour, Exit, fail, info, note, warning
from gateway.cli.trace_summary import TraceSummary
from gateway.config.addresses import is_loopback
from gateway.config.units import duration_text, parse_duration
from gateway.keys.state_file import StateFileError, open_state_file
from gateway.terminal import escaped

_STDIN: Final = "-"
_CONNECT_S: Final = 5.0
_SILENCE_S: Final = 30.0
"""Added to the requested time, after which the gateway ends the response."""
_SHOWN: Final = (
    ("peer", "from"),
    ("key_id", "key"),
    ("backend", "backend"),
    ("backend_code", "answered"),
    ("trace_id", "trace"),
)

_MOST_BYTES: Final = 64 * 1024
"""Of a line of the response, and of a token's file."""


class _Line(msgspec.Struct):
    """A line of the response: what is read of it. A request, `watching` or `dropped`."""

    watching: bool | None = None
    for_s: float = 0.0
    dropped: int = 0
    time: str = ""
    peer: str = ""
    protocol: str = ""
    signal: str = ""
    key_id: str = ""
    bytes: int = 0
    outcome: str = ""
    result: str = ""
    code: str = ""
    backend: str = ""
    backend_code: str = ""
    duration_ms: float = 0.0
    trace_id: str = ""


class _Refusal(msgspec.Struct):
    """A response that is a no."""

    error: str


KeyOption = Annotated[
    str | None, typer.Option("--key-id", metavar="ID", help="Only requests with this key.")
]
PeerOption = Annotated[
    str | None,
    typer.Option("--peer", metavar="CIDR", help="Only requests from this address or network."),
]
ForOption = Annotated[
    str, typer.Option("--for", metavar="DURATION", help="How long to watch; at most 1h.")
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The gateway's admin address [default: the address in the configuration].",
    ),
]
TokenFileOption = Annotated[
    str | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help=(
            "File with the admin token; - is standard input [default: GATEWAY_TOKEN, else the "
            "gateway's own token]."
        ),
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The gateway's configuration file [default: the file named by GATEWAY_CONFIG].",
    ),
]
OutputOption = Annotated[
    str, typer.Option("--output", "-o", metavar="text|json", help="Text, or JSON lines.")
]


def trace(
    key_id: KeyOption = None,
    peer: PeerOption = None,
    for_: ForOption = "60s",
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    config: ConfigOption = None,
    output: OutputOption = "text",
) -> None:
    """Watch the requests of a running gateway, including accepted ones, as they complete.

    This costs the gateway nothing while no trace runs. On a very busy gateway some requests are
    left out, and the output says how many.

    Examples:

    gateway trace --peer 10.1.2.3

    gateway trace --key-id 250558013078953 --for 5m --output json
    """
    if output not in {"text", "json"}:
        fail("--output must be text or json", Exit.BAD_INPUT)
    query = _query(key_id, peer, for_)
    target, token = _target(url, token_file, config)
    if not (token.isascii() and token.isprintable()):
        fail(
            "the token contains characters that no token has: look for line breaks", Exit.BAD_INPUT
        )
    summary = TraceSummary()
    try:
        for line in _lines(target, token, query):
            _show(line, summary, as_json=output == "json")
        note(summary.text())
    except KeyboardInterrupt:
        note(summary.text())
        raise typer.Exit(Exit.OK) from None
    except WrongShapeError as error:
        fail(
            f"{target.geturl()} does not answer as a gateway does ({error}): is it the gateway's"
            " admin address?",
            Exit.UNREACHABLE,
        )
    except (OSError, http.client.HTTPException) as error:
        fail(f"no response from {target.geturl()}: {error}", Exit.UNREACHABLE)


def _query(key_id: str | None, peer: str | None, duration: str) -> dict[str, str]:
    try:
        query = {"for": duration_text(parse_duration(duration))}
    except ValueError as error:
        fail(f"--for: {error}", Exit.BAD_INPUT)
    if key_id:
        query["key_id"] = key_id
    if peer:
        try:
            query["peer"] = str(ipaddress.ip_network(peer, strict=False))
        except ValueError:
            fail(
                "--peer must be an address or a network, such as 10.1.2.3 or 10.0.0.0/8",
                Exit.BAD_INPUT,
            )
    return query


def _target(
    url: str | None, token_file: str | None, config: Path | None
) -> tuple[SplitResult, str]:
    """Find the admin address and its token."""
    token = _given_token(token_file)
    if url is not None and token is not None:
        return _checked(url), token
    from gateway.config import ConfigError, load

    try:
        loaded = load(config, (), os.environ).config
    except ConfigError as error:
        fail(str(error), Exit.BAD_INPUT)
    if url is None:
        scheme = "https" if loaded.admin.tls is not None else "http"
        host, _, port = loaded.admin.address.rpartition(":")
        local = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - compared
        url = f"{scheme}://{local.get(host, host)}:{port}"
    if token is None and loaded.admin.tokens:
        token = loaded.admin.tokens[0].token.get_secret_value()
    return _checked(url), token or _own_token(loaded.state_dir / "admin-token")


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        fail("--url must be http://HOST:PORT or https://HOST:PORT", Exit.BAD_INPUT)
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        warning("--url is http://: the token crosses the network readable; use https://")
    return parts


def _given_token(token_file: str | None) -> str | None:
    if token_file is None:
        return os.environ.get("GATEWAY_TOKEN")
    try:
        text = sys.stdin.read() if token_file == _STDIN else Path(token_file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"--token-file: {error}", Exit.BAD_INPUT)
    if not text.strip():
        fail("--token-file: the file is empty, but must contain the admin token", Exit.BAD_INPUT)
    return text.strip()


def _own_token(file: Path) -> str:
    try:
        with open_state_file(file, for_command=True) as opened:
            return opened.read(_MOST_BYTES).decode("latin-1").strip()
    except (OSError, StateFileError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        fail(
            f"no admin token in {file} ({reason}): set the gateway's configuration with"
            " --config, or the token with --token-file or GATEWAY_TOKEN",
            Exit.BAD_INPUT,
        )


def _lines(
    target: SplitResult, token: str, query: Mapping[str, str]
) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of the response as they arrive."""
    connection = _connect(target)
    try:
        path = f"{target.path.rstrip('/')}/-/trace?{urlencode(query)}"
        connection.request("POST", path, headers={"X-API-Token": token})
        if connection.sock is not None:
            connection.sock.settimeout(parse_duration(query["for"]) + _SILENCE_S)
        response = connection.getresponse()
        if response.status != http.client.OK:
            _refused(response)
        while line := response.readline(_MOST_BYTES):
            if line.strip():
                yield decoded(line, _Line)
    finally:
        connection.close()


def _connect(target: SplitResult) -> http.client.HTTPConnection:
    host = target.hostname or ""
    if target.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, target.port, timeout=_CONNECT_S, context=context)
    return http.client.HTTPConnection(host, target.port, timeout=_CONNECT_S)


def _refused(response: http.client.HTTPResponse) -> NoReturn:
    try:
        text = escaped(decoded(response.read(_MOST_BYTES), _Refusal)["error"])
    except WrongShapeError:
        text = "is this the admin address of a gateway?"
    bad = response.status == http.client.BAD_REQUEST
    fail(f"{response.status}: {text}", Exit.BAD_INPUT if bad else Exit.REFUSED)


def _show(members: Mapping[str, Any], summary: TraceSummary, *, as_json: bool) -> None:
    line = msgspec.convert(members, _Line)
    if line.watching is not None:
        if not line.watching:
            warning("a worker does not respond: its requests may be missing")
        note(f"Watching for {duration_text(line.for_s)}; Ctrl-C ends it.")
        return
    if line.dropped:
        summary.leave_out(line.dropped)
        warning(f"{line.dropped} more requests were left out: narrow down the trace")
        return
    summary.add(line.result, line.outcome)
    if as_json:
        info(json.dumps(members))
    else:
        _show_text(line)


def _show_text(line: _Line) -> None:
    """Write a request. A line break in it would begin a line that looks like another one."""
    kind = "/".join(each for each in (line.protocol, line.signal) if each)
    verdict = f" ({line.outcome})" if line.outcome not in {"", "allowed"} else ""
    details = " ".join(
        f"{word} {value}" for name, word in _SHOWN if (value := getattr(line, name)) != ""
    )
    rest = f"{verdict} {line.code} {kind} {line.bytes} B {line.duration_ms:.1f} ms {details}"
    colour = Colour.GREEN if line.result == "accepted" else Colour.RED
    info(f"{escaped(line.time)} ", (escaped(line.result), colour), escaped(rest))
