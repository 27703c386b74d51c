"""Lists of revoked client certificates: read at the start, watched, and told to the workers.

A new list is in force for the next request of every connection, also of those that are open. A file
that cannot be used changes nothing: the list that it held before stays, and so does one that is out
of date. Both are logged, because nobody can tell what has been revoked since.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from gateway.channel import Revoked
from gateway.config import Config
from gateway.control.core.current_config import CurrentConfig
from gateway.control.core.errors import StartError
from gateway.control.metrics.config_metrics import ConfigMetrics
from gateway.control.workers.worker_handle import WorkerHandle, WorkerObserver
from gateway.control.workers.worker_set import WorkerSet

if TYPE_CHECKING:
    from gateway import revocation_lists

LOOK_S: Final = 5.0
"""A file is used when two looks in a row find it: whoever writes it has finished."""
CHUNK: Final = 10_000
"""Certificates in one message to a worker."""

_log = structlog.get_logger("gateway.control")


class _Place(NamedTuple):
    """Where a list is, and where the authorities are that may sign it."""

    crl_file: str
    ca_file: str


_Mark = tuple[int, int, int] | None
_Marks = dict[str, _Mark]
"""File → what changes when it is written or replaced; None: it cannot be read."""


class RevocationWatch(WorkerObserver):
    """Reads the lists of a configuration, and looks at them again and again."""

    def __init__(
        self,
        config: CurrentConfig,
        workers: WorkerSet,
        metrics: ConfigMetrics,
        look_s: float = LOOK_S,
    ) -> None:
        self._config = config
        self._workers = workers
        self._metrics = metrics
        self._look_s = look_s
        self._lists: dict[_Place, revocation_lists.Revoked] = {}
        self._ids: frozenset[bytes] = frozenset()
        self._seen: _Marks = {}
        self._used: _Marks = {}
        self._refused: _Marks | None = None
        self._told_outdated: set[tuple[str, float]] = set()

    async def use(self, config: Config) -> None:
        """Read the lists of a configuration, before its workers start; others stay in force.

        Raises `StartError` where one that was never read cannot be.
        """
        places = _places(config)
        if not places and not self._lists:
            return
        marks = _marks(places)
        problems = await self._read(places)
        missing = [text for place, text in problems.items() if place not in self._lists]
        if missing:
            raise StartError("; ".join(missing))
        self._used = self._seen = marks
        self._publish(problems)

    def keep_only(self, config: Config) -> None:
        """Let go of lists that a configuration no longer names."""
        places = set(_places(config))
        if places != set(self._lists):
            self._lists = {place: each for place, each in self._lists.items() if place in places}
            self._publish({})

    async def run(self) -> None:
        """Look again and again. Never returns."""
        while True:
            await asyncio.sleep(self._look_s)
            await self.look()

    async def look(self) -> None:
        """Look once: use what has changed and is whole, or say what is wrong with it."""
        places = _places(self._config.config)
        if not places:
            return
        found = await asyncio.to_thread(_marks, places)
        is_settled, self._seen = found == self._seen, found
        if found == self._used:
            if self._refused is not None:
                self._refused = None
                self._show(good=True)
        elif is_settled and found != self._refused:
            await self._take(places, found)
        self._tell_outdated()

    def worker_started(self, worker: WorkerHandle) -> None:
        """Tell a new worker what is revoked, before it accepts (`WorkerObserver`)."""
        if self._ids:
            for message in _messages(self._ids):
                worker.send(message)

    async def _take(self, places: list[_Place], found: _Marks) -> None:
        problems = await self._read(places)
        changed = sorted(file for file, mark in found.items() if self._used.get(file) != mark)
        self._publish(problems)
        if problems:
            self._refused = found
            return
        self._used, self._refused = found, None
        _log.info("new lists of revoked certificates are in use", files=changed)

    async def _read(self, places: list[_Place]) -> dict[_Place, str]:
        """Take over the lists that can be used; return what is wrong with the others."""
        good, problems = await asyncio.to_thread(_read_all, places)
        self._lists.update(good)
        return problems

    def _publish(self, problems: dict[_Place, str]) -> None:
        """Have the workers decide by the present lists."""
        ids = frozenset[bytes]().union(*(each.ids for each in self._lists.values()))
        if ids != self._ids:
            self._ids = ids
            for message in _messages(ids):
                self._workers.send_to_all(message)
        self._show(good=not problems)
        if problems:
            _log.error(
                "lists of revoked certificates cannot be used; those in use are kept",
                reasons=list(problems.values()),
            )
        self._tell_outdated()

    def _show(self, *, good: bool) -> None:
        ends = {
            place.crl_file: each.next_update_s
            for place, each in self._lists.items()
            if each.next_update_s is not None
        }
        self._metrics.revocation_lists_read(ends, good=good)

    def _tell_outdated(self) -> None:
        """Log, once for each, that a list is out of date."""
        now = time.time()
        for place, each in self._lists.items():
            ends_s = each.next_update_s
            if ends_s is None or ends_s > now or (place.crl_file, ends_s) in self._told_outdated:
                continue
            self._told_outdated.add((place.crl_file, ends_s))
            _log.warning(
                "a list of revoked certificates is out of date; it stays in use, but nobody can"
                " tell what was revoked since: have its authority write a new one",
                file=place.crl_file,
            )


def _places(config: Config) -> list[_Place]:
    found: dict[_Place, None] = {}
    for listener in config.listen:
        tls = listener.tls
        if tls is not None and tls.client_ca_file is not None:
            for file in tls.client_crl_files:
                found[_Place(str(file), str(tls.client_ca_file))] = None
    return list(found)


def _marks(places: list[_Place]) -> _Marks:
    return {file: _mark(file) for place in places for file in place}


def _mark(file: str) -> _Mark:
    try:
        state = Path(file).stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino


def _read_all(
    places: list[_Place],
) -> tuple[dict[_Place, revocation_lists.Revoked], dict[_Place, str]]:
    """Read lists; return those that can be used, and what is wrong with the others. Blocks."""
    from gateway.revocation_lists import (  # noqa: PLC0415 - 9 MB, which only lists need
        RevocationListError,
        read_authorities,
        read_lists,
    )

    good: dict[_Place, revocation_lists.Revoked] = {}
    problems: dict[_Place, str] = {}
    for place in places:
        try:
            authorities = read_authorities(Path(place.ca_file).read_bytes())
            good[place] = read_lists(Path(place.crl_file).read_bytes(), authorities)
        except OSError as error:
            reason = (error.strerror or "error").lower()
            problems[place] = f"{error.filename} cannot be read ({reason})"
        except RevocationListError as error:
            problems[place] = f"{place.crl_file} {error}"
    return good, problems


def _messages(ids: frozenset[bytes]) -> Iterator[Revoked]:
    """Write all ids as messages; none of them says that nothing is revoked any more."""
    rest = list(ids)
    for start in range(0, max(len(rest), 1), CHUNK):
        end = start + CHUNK
        yield Revoked(rest[start:end], first=start == 0, last=end >= len(rest))
