"""The documented paths are the real ones, each reaches the receiver where the page says, and there
are no others.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal

import pytest

from gateway import intake, metrics
from gateway.settings import IntakeSettings
from tests.support.exchange import Answer
from tests.support.intake_gateway import ask, gateway_before
from tests.support.plane import KEY
from tests.support.sink import RawSink

PAGE: Final = (Path(__file__).parents[2] / "docs/intake.md").read_text(encoding="utf-8")
Style = Literal["receiver", "router"]


def _table(first: str) -> list[list[str]]:
    """Read the table whose first column is `first`: its cells without the marks of code."""
    rows: list[list[str]] = []
    is_inside = False
    for line in PAGE.splitlines():
        cells = [cell.strip().strip("`") for cell in line.split("|")[1:-1]]
        if is_inside and not cells:
            break
        if is_inside and not set("".join(cells)) <= {"-"}:
            rows.append(cells)
        is_inside = is_inside or (bool(cells) and cells[0] == first)
    assert rows, f"no table begins with {first}"
    return rows


PATHS: Final = _table("Path")
WHOLE: Final = _table("Whole path")
MAPPING: Final = _table("At the gateway")


def _row_cells(row: intake.Row) -> list[str]:
    path = f"{row.path}*" if row.is_prefix else row.path
    again = "held, then 503" if row.drops_on_failure else "503"
    return [path, row.method, row.route.value, row.sender.value, again]


def test_the_page_names_every_path_and_no_other() -> None:
    assert [_row_cells(row) for row in intake.ROWS] == PATHS
    assert [_row_cells(intake.REMOTE_WRITE)] == WHOLE


@pytest.mark.parametrize("style", ["receiver", "router"])
@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
async def test_each_documented_path_reaches_the_receiver_as_the_page_says(
    style: Style, http2: bool
) -> None:
    settings = IntakeSettings(path=style)
    async with RawSink() as sink, gateway_before(sink, intake=settings) as gateway:
        for path, receiver, router in MAPPING:
            method = "GET" if path.endswith("features") else "POST"
            body = b"" if method == "GET" else b"{}"
            query = "?a=1&b=%2F&a=1"
            answer = await ask(gateway.port, path + query, body=body, method=method, http2=http2)
            assert answer.status == 200, path
            expected = receiver if style == "receiver" else router
            assert sink.requests[-1].path == expected + query
        assert len(sink.requests) == len(MAPPING)


@pytest.mark.parametrize("style", ["receiver", "router"])
async def test_every_path_exists_below_every_base_url(style: Style) -> None:
    """Each row × each base: routed, never redirected, and mapped by the rule of its base."""
    settings = IntakeSettings(path=style)
    rules = {
        "/receiver/stsAgent": {"receiver": "/stsAgent", "router": "/receiver/stsAgent"},
        "/stsAgent": {"receiver": "/stsAgent", "router": "/stsAgent"},
        "": {"receiver": "/stsAgent", "router": "/receiver/stsAgent"},
    }
    async with RawSink() as sink, gateway_before(sink, intake=settings) as gateway:
        for base, targets in rules.items():
            for path, method, route, sender, _ in PATHS:
                path = path.replace("*", "some_one-4.7")  # noqa: PLW2901 - of this one
                before = gateway.count(metrics.INTAKE_REQUESTS, route, sender, "accepted")
                body = b"" if method == "GET" else b"{}"
                answer = await ask(gateway.port, base + path, body=body, method=method)
                assert answer.status == 200, base + path
                after = gateway.count(metrics.INTAKE_REQUESTS, route, sender, "accepted")
                assert after == before + 1
                if route != "validate":
                    assert sink.requests[-1].path == targets[style] + path


NOWHERE: Final = (
    "/stsAgent",
    "/stsAgent/",
    "/receiver",
    "/receiver/intake",
    "/receiver//stsAgent/intake",
    "/receiver/stsAgent/stsAgent/intake",
    "/stsagent/intake",
    "/INTAKE",
    "/intake/x",
    "///intake",
    "/stsAgent///intake",
    "//api/v1/series",
    "/api/v1/series/",
    "/api//v1/series",
    "/stsAgent/./intake",
    "/stsAgent/../intake",
    "/stsAgent/%69ntake",
    "/stsAgent%2fintake",
    "/api/v2",
    "/api/v2/",
    "/api/v2/spans",
    "/stsAgent/api/v2/spans",
    "/api/v2/traces",
    "/api/v2/series/",
    "/api/v2/a/b",
    "/api/v2/..",
    "/api/v2/.",
    "/api/v2/%2e%2e",
    "/api/v2/a%2fb",
    "/api/v2/a;b",
    "/rbac/",
    "/rbac",
    "/rbac/scope/..",
    "/support/flare/",
    "/prometheus/api/v1/write",
    "/stsAgent/prometheus/api/v1/write",
    "/receiver/prometheus/api/v1/query",
    "/stsAgent/otel/v1/traces//",
    "/stsAgent/otel/v1//traces",
    "/stsAgent//otel//v1/traces",
    "/stsAgent/otel/v1/profiles",
    "/stsAgent/v1/traces",
    "/internal/api/security/ingestion/authorize",
    "/api/v1/validate/",
    "ftp://receiver/intake",
    "receiver/intake",
)


@pytest.mark.parametrize("target", NOWHERE)
async def test_everything_else_is_not_found(target: str) -> None:
    async with RawSink() as sink, gateway_before(sink) as gateway:
        answer = await ask(gateway.port, target)
        assert answer.status == 404
        assert answer.field("location") is None
        assert not sink.requests


@pytest.mark.parametrize("base", intake.BASES)
async def test_otlp_below_a_base_url_may_have_one_slash_too_many(base: str) -> None:
    async with RawSink() as sink, gateway_before(sink) as gateway:
        for path in ("/otel/v1/logs", "//otel/v1/logs", "/otel//v1/logs", "/otel/v1/logs/"):
            fields = (("content-type", "application/json"), ("sts-api-key", KEY))
            answer = await ask(gateway.port, base + path, fields)
            assert answer.status == 200, path
            assert sink.requests[-1].path == "/v1/logs"


async def test_a_target_in_absolute_form_is_served_as_its_path() -> None:
    async with RawSink() as sink, gateway_before(sink) as gateway:
        answer = await ask(gateway.port, "http://any.host/intake?a=1")
        assert answer.status == 200
        assert sink.requests[-1].path == "/stsAgent/intake?a=1"


@pytest.mark.parametrize(
    "method, path, allow",
    [
        ("GET", "/intake", "POST"),
        ("PUT", "/receiver/stsAgent/api/v1/series", "POST"),
        ("DELETE", "/support/flare", "POST"),
        ("GET", "/rbac/scope", "POST"),
        ("POST", "/features", "GET"),
        ("POST", "/stsAgent/api/v1/validate", "GET"),
        ("GET", "/api/v1/connections", "POST"),
    ],
)
async def test_another_method_is_told_which_one_there_is(
    method: str, path: str, allow: str
) -> None:
    """Also to the process agent, and before the key is looked at."""
    async with RawSink() as sink, gateway_before(sink) as gateway:
        answer = await ask(gateway.port, path, (), b"", method=method)
        assert (answer.status, answer.field("allow")) == (405, allow)
        assert not sink.requests
        assert gateway.count(metrics.REQUESTS, "intake", "intake", "405", "method") == 1


@pytest.mark.parametrize("path", ["/intake", "/api/v1/series", "/rbac/scope", "/api/v1/collector"])
async def test_a_path_that_the_receiver_does_not_have_raises_the_alarm(path: str) -> None:
    """Its 404 is passed on: the transactional forwarder would take it for success all the same."""
    async with RawSink(lambda _: Answer(404, body=b"no")) as sink, gateway_before(sink) as gateway:
        answer = await ask(gateway.port, path)
        assert (answer.status, answer.body) == (404, b"no")
        assert gateway.counted(metrics.BACKEND_ROUTE_MISSING) == {("intake", "intake"): 1}


async def test_a_redirect_is_neither_passed_on_nor_made() -> None:
    """An agent would follow it with GET, without its data, and take a page there for success."""
    moved = Answer(302, fields=(("location", "/elsewhere"),), body=b"")
    async with RawSink(lambda _: moved) as sink, gateway_before(sink) as gateway:
        answer = await ask(gateway.port, "/intake")
        assert (answer.status, answer.field("location")) == (503, None)


async def test_without_a_receiver_the_paths_exist_all_the_same() -> None:
    """Never a 404, which would be taken for success; the text names the setting."""
    async with RawSink() as sink, gateway_before(sink, backends=()) as gateway:
        answer = await ask(gateway.port, "/intake")
        assert (answer.status, answer.field("retry-after")) == (503, "2")
        assert b"backends.intake.urls" in answer.body


def test_the_limits_of_size_speak_of_the_documented_paths() -> None:
    keys = {re.sub(r"/\*?$", "", row[0]) for row in (*PATHS, *WHOLE)}
    assert keys == intake.SIZE_KEYS
