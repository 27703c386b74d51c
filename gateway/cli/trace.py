"""`gateway trace`: what a running gateway's requests become, one line each, as they end."""

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

import typer

from gateway.cli.output import Colour, Exit, fail, info, paint, warning
from gateway.config.units import duration_text, parse_duration

_STDIN: Final = "-"
_CONNECT_S: Final = 5.0
_SILENCE_S: Final = 30.0
"""Beyond the time asked for: the gateway ends the answer by itself."""
_SHOWN: Final = (
    ("peer", "from"),
    ("key_id", "key"),
    ("backend", "backend"),
    ("backend_code", "answered"),
    ("trace_id", "trace"),
)

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
        "--url", metavar="URL", help="The gateway's admin address; else the configuration's."
    ),
]
TokenFileOption = Annotated[
    str | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="The admin token (- is standard input); else $GATEWAY_TOKEN, else the gateway's own.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="The gateway's configuration; else $GATEWAY_CONFIG."
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
    """Show what requests of a running gateway become, accepted ones too, as they end.

    A gateway that nobody watches spends nothing on this. A very busy one leaves requests out, and
    says how many.

    Examples:

    gateway trace --peer 10.1.2.3

    gateway trace --key-id 250558013078953 --for 5m --output json
    """
    if output not in {"text", "json"}:
        fail("--output: write text or json", Exit.BAD_INPUT)
    query = _query(key_id, peer, for_)
    target, token = _target(url, token_file, config)
    try:
        for line in _lines(target, token, query):
            _show(line, as_json=output == "json")
    except KeyboardInterrupt:
        raise typer.Exit(Exit.OK) from None
    except (OSError, http.client.HTTPException) as error:
        fail(f"{target.geturl()} does not answer: {error}", Exit.UNREACHABLE)


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
                "--peer: write an address or a network, such as 10.1.2.3 or 10.0.0.0/8",
                Exit.BAD_INPUT,
            )
    return query


def _target(
    url: str | None, token_file: str | None, config: Path | None
) -> tuple[SplitResult, str]:
    """Find the admin address and the token that opens it."""
    token = _given_token(token_file)
    if url is not None and token is not None:
        return _checked(url), token
    from gateway.config import ConfigError, load

    try:
        loaded = load(config, (), os.environ).config
    except ConfigError as faulty:
        fail(str(faulty), Exit.BAD_INPUT)
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
        fail("--url: write http://HOST:PORT or https://HOST:PORT", Exit.BAD_INPUT)
    return parts


def _given_token(token_file: str | None) -> str | None:
    if token_file is None:
        return os.environ.get("GATEWAY_TOKEN")
    try:
        text = sys.stdin.read() if token_file == _STDIN else Path(token_file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"--token-file: {error}", Exit.BAD_INPUT)
    if not text.strip():
        fail("--token-file: it is empty: put the admin token there", Exit.BAD_INPUT)
    return text.strip()


def _own_token(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except OSError as error:
        fail(
            f"no admin token in {file} ({error.strerror}): name the gateway's configuration with"
            " --config, or give the token with --token-file or GATEWAY_TOKEN",
            Exit.BAD_INPUT,
        )


def _lines(
    target: SplitResult, token: str, query: Mapping[str, str]
) -> Iterator[Mapping[str, Any]]:
    """Give the lines of the answer as they come."""
    connection = _connect(target)
    try:
        path = f"{target.path.rstrip('/')}/-/trace?{urlencode(query)}"
        connection.request("POST", path, headers={"X-API-Token": token})
        if connection.sock is not None:
            connection.sock.settimeout(parse_duration(query["for"]) + _SILENCE_S)
        response = connection.getresponse()
        if response.status != http.client.OK:
            _refused(response)
        while line := response.readline():
            if line.strip():
                yield json.loads(line)
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
        text = json.loads(response.read())["error"]
    except (ValueError, KeyError, TypeError):
        text = "is this the admin address of a gateway?"
    bad = response.status == http.client.BAD_REQUEST
    fail(f"{response.status}: {text}", Exit.BAD_INPUT if bad else Exit.REFUSED)


def _show(line: Mapping[str, Any], *, as_json: bool) -> None:
    if "watching" in line:
        if not line["watching"]:
            warning("a worker does not answer: its requests may be missing")
    elif "dropped" in line:
        warning(f"{line['dropped']} more requests were left out: narrow the trace down")
    elif as_json:
        info(json.dumps(line))
    else:
        info(_as_text(line))


def _as_text(line: Mapping[str, Any]) -> str:
    result = str(line.get("result", ""))
    colour = Colour.GREEN if result == "accepted" else Colour.RED
    kind = "/".join(str(line[name]) for name in ("protocol", "signal") if name in line)
    outcome = line.get("outcome", "")
    verdict = f" ({outcome})" if outcome not in {"", "allowed"} else ""
    details = " ".join(f"{word} {line[name]}" for name, word in _SHOWN if name in line)
    return (
        f"{line['time']} {paint(result, colour)}{verdict} {line.get('code', '')} {kind} "
        f"{line['bytes']} B {line['duration_ms']:.1f} ms {details}"
    )
