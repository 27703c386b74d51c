"""What is said of a key while its authority answers, and while it does not."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import Counter
from collections.abc import Awaitable
from typing import Any, Literal

import pytest

from gateway.keys.authority.client import AuthorityError, Failure
from gateway.keys.authority.verdicts import DOUBT_S, JITTER, CacheLimits, KeyVerdict, Verdicts, Why
from gateway.model import digest_of

KEY = "a-key"


class _Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class _Authority:
    """Says what `says` tells for a key; True by default."""

    def __init__(self) -> None:
        self.says: dict[str, bool | None] = {}
        self.default: bool | None = True
        self.asked: list[str] = []
        self.hold: asyncio.Event | None = None

    async def ask(self, key: str) -> bool:
        self.asked.append(key)
        if self.hold is not None:
            await self.hold.wait()
        said = self.says.get(key, self.default)
        if said is None:
            raise AuthorityError(Failure.TIMEOUT, "no answer")
        return said


class _Counted:
    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def hit(self, kind: str) -> None:
        self.counts["hit", kind] += 1

    def miss(self, kind: str) -> None:
        self.counts["miss", kind] += 1

    def stale(self, kind: str) -> None:
        self.counts["stale", kind] += 1

    def coalesced(self, kind: str) -> None:
        self.counts["coalesced", kind] += 1


class Setting:
    """Verdicts on one scripted authority, with a clock that the test moves."""

    def __init__(self, *authorities: _Authority, **limits: Any) -> None:
        plain: dict[str, Any] = {
            "size": 1_000,
            "ttl_s": 300.0,
            "negative_size": 100,
            "negative_ttl_s": 30.0,
            "max_stale_s": 3_600.0,
            "unknown_rate": 0.0,
        }
        self.clock = _Clock()
        self.authority = authorities[0] if authorities else _Authority()
        self.counted = _Counted()
        self.changed: list[bytes] = []
        self.verdicts = Verdicts(
            authorities or (self.authority,),
            CacheLimits(**(plain | limits)),
            self.counted,
            self.changed.append,
            self.clock,
        )

    async def look_up(self, key: str = KEY, why: Why = "unknown") -> KeyVerdict:
        answer = self.verdicts.look_up(digest_of(key.encode()), key, why)
        return answer if isinstance(answer, KeyVerdict) else await answer

    def begin(self, key: str = KEY) -> KeyVerdict | Awaitable[KeyVerdict]:
        return self.verdicts.look_up(digest_of(key.encode()), key, "unknown")


async def test_a_good_key_is_asked_for_once_within_its_time() -> None:
    setting = Setting()
    first = await setting.look_up()
    assert (first.verdict, first.source) == ("allowed", "authority")
    assert 300 * (1 - JITTER) <= first.fresh_s <= 300 * (1 + JITTER)
    setting.clock.now += 200
    again = await setting.look_up()
    assert (again.verdict, again.source) == ("allowed", "cache")
    assert again.fresh_s == pytest.approx(first.fresh_s - 200)
    assert setting.authority.asked == [KEY]


async def test_a_bad_key_is_asked_for_once_within_its_own_time() -> None:
    setting = Setting()
    setting.authority.default = False
    assert (await setting.look_up())[:2] == ("denied", "authority")
    setting.clock.now += 20
    assert (await setting.look_up())[:2] == ("denied", "cache")
    setting.clock.now += 20
    assert (await setting.look_up())[:2] == ("denied", "authority")
    assert len(setting.authority.asked) == 2


async def test_an_unknown_key_is_undecided_while_nobody_answers_and_this_is_not_remembered() -> (
    None
):
    setting = Setting()
    setting.authority.default = None
    assert (await setting.look_up()).verdict == "undecided"
    setting.authority.default = True
    assert (await setting.look_up()).verdict == "allowed"


async def test_a_known_key_is_served_stale_while_nobody_answers_up_to_the_bound() -> None:
    setting = Setting(max_stale_s=3_600.0)
    await setting.look_up()
    setting.authority.default = None
    setting.clock.now += 3_000
    stale = await setting.look_up()
    assert (stale.verdict, stale.source) == ("allowed", "stale")
    assert 0 < stale.refresh_s <= stale.fresh_s <= 10
    setting.clock.now += 599
    assert (await setting.look_up()).fresh_s <= 1
    setting.clock.now += 2
    assert (await setting.look_up()).verdict == "undecided"
    assert setting.counted.counts["stale", "positive"] == 2


async def test_with_no_staleness_allowed_a_key_is_undecided_as_soon_as_its_time_is_over() -> None:
    setting = Setting(max_stale_s=0.0)
    fresh = await setting.look_up()
    setting.authority.default = None
    setting.clock.now += fresh.fresh_s + 0.1
    assert (await setting.look_up()).verdict == "undecided"


async def test_a_key_in_use_is_asked_for_again_before_its_time_is_over() -> None:
    setting = Setting()
    first = await setting.look_up()
    assert 0 < first.refresh_s < first.fresh_s
    assert (await setting.look_up(why="refresh")).source == "cache"
    setting.clock.now += first.refresh_s + 0.1
    assert (await setting.look_up()).source == "cache"
    renewed = await setting.look_up(why="refresh")
    assert (renewed.source, len(setting.authority.asked)) == ("authority", 2)


async def test_a_refresh_that_nobody_answers_changes_nothing() -> None:
    setting = Setting()
    first = await setting.look_up()
    setting.authority.default = None
    setting.clock.now += first.refresh_s + 0.1
    answer = await setting.look_up(why="refresh")
    assert (answer.verdict, answer.source) == ("allowed", "cache")
    assert answer.fresh_s == pytest.approx(first.fresh_s - first.refresh_s - 0.1)


async def test_a_doubted_verdict_is_asked_for_again_but_not_all_the_time() -> None:
    setting = Setting()
    await setting.look_up()
    setting.authority.default = False
    assert (await setting.look_up(why="doubt")).verdict == "allowed"
    setting.clock.now += DOUBT_S + 0.1
    assert (await setting.look_up(why="doubt")).verdict == "denied"
    assert setting.changed == [digest_of(KEY.encode())]


async def test_all_workers_hear_of_a_verdict_that_turned() -> None:
    setting = Setting()
    setting.authority.default = False
    denied = await setting.look_up()
    assert setting.changed == []
    setting.authority.default = True
    setting.clock.now += denied.fresh_s + 0.1
    await setting.look_up()
    setting.authority.default = False
    setting.clock.now += 400
    await setting.look_up()
    assert digest_of(KEY.encode()) in setting.changed


async def test_one_question_per_key_is_under_way_whoever_asks() -> None:
    setting = Setting()
    setting.authority.hold = asyncio.Event()
    waiting = [setting.begin() for _ in range(50)]
    assert not any(isinstance(each, KeyVerdict) for each in waiting)
    setting.authority.hold.set()
    answers = await asyncio.gather(*(each for each in waiting if not isinstance(each, KeyVerdict)))
    assert {answer.verdict for answer in answers} == {"allowed"}
    assert setting.authority.asked == [KEY]
    assert setting.counted.counts["coalesced", "positive"] == 49


async def test_whoever_gives_up_takes_nothing_from_the_others() -> None:
    setting = Setting()
    setting.authority.hold = asyncio.Event()
    first, second = setting.begin(), setting.begin()
    assert not isinstance(first, KeyVerdict)
    assert not isinstance(second, KeyVerdict)
    leaving = asyncio.ensure_future(first)
    staying = asyncio.ensure_future(second)
    await asyncio.sleep(0)
    leaving.cancel()
    setting.authority.hold.set()
    assert (await staying).verdict == "allowed"


async def test_unknown_keys_are_asked_for_at_the_bucket_s_rate_and_undecided_beyond() -> None:
    setting = Setting(unknown_rate=10.0)
    setting.authority.default = False
    first = [(await setting.look_up(f"made-up-{n}")).verdict for n in range(100)]
    assert Counter(first) == {"denied": 10, "undecided": 90}
    setting.clock.now += 0.5
    later = [(await setting.look_up(f"other-{n}")).verdict for n in range(100)]
    assert Counter(later) == {"denied": 5, "undecided": 95}
    assert len(setting.authority.asked) == 15


async def test_known_keys_need_none_of_the_bucket() -> None:
    setting = Setting(unknown_rate=1.0)
    await setting.look_up()
    await setting.look_up("made-up")
    setting.clock.now += 400
    await setting.look_up("another")
    assert (await setting.look_up()).source == "authority"


async def test_made_up_keys_push_no_known_key_out() -> None:
    setting = Setting(negative_size=50)
    await setting.look_up()
    setting.authority.default = False
    for number in range(500):
        await setting.look_up(f"made-up-{number}")
    assert (await setting.look_up()).source == "cache"
    assert setting.verdicts.entries() == {"positive": 1, "negative": 50}


async def test_memory_is_bounded_under_a_hundred_thousand_made_up_keys_a_minute() -> None:
    setting = Setting(unknown_rate=50.0, negative_size=1_000)
    setting.authority.default = False
    await _make_up(setting, range(90_000))
    tracemalloc.start()
    try:
        await _make_up(setting, range(90_000, 100_000))
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 1_000_000
    assert len(setting.authority.asked) <= 50 + 50 * 60 + 1
    assert setting.verdicts.entries()["negative"] <= 1_000


async def _make_up(setting: Setting, numbers: range) -> None:
    for number in numbers:
        setting.clock.now += 60 / 100_000
        answer = setting.begin(f"made-up-{number}")
        if not isinstance(answer, KeyVerdict):
            await answer


@pytest.mark.parametrize(
    "says, verdict",
    [
        ((True, None), "allowed"),
        ((None, True), "allowed"),
        ((False, True), "allowed"),
        ((False, False), "denied"),
        ((False, None), "undecided"),
        ((None, False), "undecided"),
    ],
)
async def test_of_several_authorities_one_that_knows_the_key_is_enough(
    says: tuple[bool | None, bool | None], verdict: Literal["allowed", "denied", "undecided"]
) -> None:
    first, second = _Authority(), _Authority()
    first.default, second.default = says
    assert (await Setting(first, second).look_up()).verdict == verdict


async def test_what_was_confirmed_before_a_restart_is_asked_for_and_else_served_stale() -> None:
    before, after = Setting(), Setting(unknown_rate=1.0, max_stale_s=3_600.0)
    await before.look_up()
    before.clock.now += 600
    ((digest, age_s),) = await before.verdicts.confirmed()
    assert (digest, age_s) == (digest_of(KEY.encode()), 600)
    after.verdicts.restore(digest, age_s)
    after.authority.default = None
    stale = await after.look_up()
    assert (stale.verdict, stale.source) == ("allowed", "stale")
    after.clock.now += 3_001
    assert (await after.look_up()).verdict == "undecided"


async def test_what_is_too_old_to_be_served_is_not_known_after_a_restart() -> None:
    setting = Setting(max_stale_s=60.0)
    setting.verdicts.restore(digest_of(KEY.encode()), 61.0)
    assert setting.verdicts.entries()["positive"] == 0
