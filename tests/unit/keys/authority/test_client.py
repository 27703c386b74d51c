"""Asking a remote authority: what is a verdict, and what says nothing about the key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.keys.authority.client import (
    ATTEMPTS,
    FAILURES,
    AuthorityClient,
    AuthorityError,
    AuthorityOptions,
    Failure,
)
from tests.support.authority import NO, YES, Behaviour, ScriptedAuthority

KEY = "canary-key-3f81"
GARBAGE = b"\x00\xffnot http at all\r\n\r\n"


async def _ask(behaviour: Behaviour, dialect: Any = "authorize", **settings: Any) -> bool:
    async with ScriptedAuthority(lambda _: behaviour) as authority:
        return await _ask_once(AuthorityOptions(authority.url(), dialect, **settings))


async def _ask_once(settings: AuthorityOptions) -> bool:
    client = AuthorityClient(settings)
    try:
        return await client.ask(KEY)
    finally:
        await client.close()


@pytest.mark.parametrize(
    "dialect, status, is_good",
    [
        ("authorize", 204, True),
        ("authorize", 403, False),
        ("validate", 200, True),
        ("validate", 202, True),
        ("validate", 204, True),
        ("validate", 403, False),
    ],
)
async def test_only_these_answers_are_verdicts(dialect: str, status: int, is_good: bool) -> None:
    assert await _ask(status, dialect) is is_good


@pytest.mark.parametrize(
    "dialect, behaviour, reason",
    [
        ("authorize", 200, Failure.UNEXPECTED),
        *(
            (dialect, status, Failure.UNEXPECTED)
            for dialect in ("authorize", "validate")
            for status in (301, 302, 307, 400, 401, 404, 405, 409, 418)
        ),
        ("authorize", 429, Failure.THROTTLED),
        ("validate", 429, Failure.THROTTLED),
        ("authorize", 500, Failure.ERROR),
        ("validate", 503, Failure.ERROR),
        ("authorize", GARBAGE, Failure.UNREACHABLE),
        ("validate", "close", Failure.UNREACHABLE),
        ("authorize", "hang", Failure.TIMEOUT),
    ],
)
async def test_no_other_answer_says_anything_about_the_key(
    dialect: str, behaviour: Behaviour, reason: Failure
) -> None:
    with pytest.raises(AuthorityError) as failed:
        await _ask(behaviour, dialect, timeout_s=0.5)
    assert failed.value.reason is reason
    assert KEY not in str(failed.value)


async def test_an_authority_that_is_not_there_says_nothing() -> None:
    async with ScriptedAuthority() as authority:
        url = authority.url()
    with pytest.raises(AuthorityError) as failed:
        await _ask_once(AuthorityOptions(url, "authorize"))
    assert failed.value.reason is Failure.UNREACHABLE


async def test_authorize_is_asked_as_the_platform_documents_it() -> None:
    async with ScriptedAuthority() as authority:
        url = authority.url("/internal/api/security/ingestion/authorize")
        await _ask_once(AuthorityOptions(url, "authorize", headers={"X-Tenant": "t"}))
        await _ask_once(AuthorityOptions(url, "authorize", with_receiver_key=False))
        (method, path, headers), (_, plain, _) = authority.requests
        assert (method, path) == ("POST", f"{authority_path(url)}?withReceiverKey=true")
        assert plain == authority_path(url)
        assert headers["Content-Type"] == "application/json"
        assert headers["X-Tenant"] == "t"
        assert authority.asked == [KEY, KEY]


def authority_path(url: str) -> str:
    return "/" + url.split("/", 3)[3]


async def test_validate_sends_the_key_in_its_header() -> None:
    async with ScriptedAuthority() as authority:
        await _ask_once(AuthorityOptions(authority.url("/stsAgent/api/v1/validate"), "validate"))
        assert authority.requests[0][:2] == ("GET", "/stsAgent/api/v1/validate")
        assert authority.asked == [KEY]


@pytest.mark.parametrize("failure", [500, "close", GARBAGE])
async def test_a_failure_that_passes_is_not_noticed(failure: Behaviour) -> None:
    answers: list[Behaviour] = [failure, YES]
    async with ScriptedAuthority(lambda _: answers.pop(0)) as authority:
        assert await _ask_once(AuthorityOptions(authority.url(), "authorize"))
        assert len(authority.asked) == 2


@pytest.mark.parametrize("status", [401, 429])
async def test_what_will_be_answered_again_is_not_asked_again(status: int) -> None:
    async with ScriptedAuthority(lambda _: status) as authority:
        with pytest.raises(AuthorityError):
            await _ask_once(AuthorityOptions(authority.url(), "authorize"))
        assert len(authority.asked) == 1


async def test_after_failures_in_a_row_it_is_left_alone() -> None:
    async with ScriptedAuthority(lambda _: 500) as authority:
        client = AuthorityClient(AuthorityOptions(authority.url(), "authorize"))
        reasons = []
        for _ in range(FAILURES + 3):
            with pytest.raises(AuthorityError) as failed:
                await client.ask(KEY)
            reasons.append(failed.value.reason)
        await client.close()
        assert reasons == [Failure.ERROR] * FAILURES + [Failure.PAUSED] * 3
        assert len(authority.asked) == FAILURES * ATTEMPTS


async def test_a_denial_is_no_failure() -> None:
    async with ScriptedAuthority(lambda _: NO) as authority:
        client = AuthorityClient(AuthorityOptions(authority.url(), "authorize"))
        answers = [await client.ask(KEY) for _ in range(FAILURES * 2)]
        await client.close()
        assert answers == [False] * (FAILURES * 2)


async def test_no_more_than_so_many_are_asked_at_once() -> None:
    async with ScriptedAuthority() as authority:
        authority.wait_for = asyncio.Event()
        client = AuthorityClient(
            AuthorityOptions(authority.url(), "authorize", max_concurrent=3, timeout_s=20)
        )
        asking = [asyncio.create_task(client.ask(f"key-{n}")) for n in range(12)]
        while len(authority.asked) < 3:
            await asyncio.sleep(0.005)
        authority.wait_for.set()
        assert await asyncio.gather(*asking) == [True] * 12
        assert authority.most_at_once <= 3
        await client.close()


async def test_each_request_is_counted_by_what_came_of_it() -> None:
    results: list[str] = []
    answers: list[Behaviour] = [500, YES, NO]
    async with ScriptedAuthority(lambda _: answers.pop(0)) as authority:
        client = AuthorityClient(
            AuthorityOptions(authority.url(), "authorize"),
            lambda result, seconds: results.append(result if seconds > 0 else "no time"),
        )
        await client.ask(KEY)
        await client.ask(KEY)
        await client.close()
    assert results == ["error", "allowed", "denied"]


def test_settings_do_not_show_their_headers() -> None:
    settings = AuthorityOptions("http://h/authorize", "authorize", headers={"X": "secret-value"})
    assert "secret-value" not in repr(settings)
