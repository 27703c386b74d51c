"""Which room may import which, and which third-party library may be imported where.

Imports point downwards: a room may import those that its row names, and no others. Imports inside
functions count too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

PACKAGE: Final = Path(__file__).parents[2] / "gateway"


class Room(NamedTuple):
    """What a room may import besides itself, the standard library and `gateway` (the version)."""

    rooms: frozenset[str]
    libraries: frozenset[str]


def _room(rooms: str = "", libraries: str = "") -> Room:
    return Room(frozenset(rooms.split()), frozenset(libraries.split()))


ROOMS: Final = {
    # words
    "model": _room(),
    "outcome": _room(),
    "intake": _room(),
    "metrics": _room(),
    "terminal": _room(),
    "settings": _room(libraries="msgspec"),
    "channel": _room("model settings", "msgspec"),
    "log": _room("channel terminal", "structlog"),
    # bytes and protocols, without I/O and policy
    "wire": _room("model outcome", "hpack httptools"),
    "otlp": _room("model outcome", "cramjam google.protobuf google.rpc opentelemetry.proto"),
    # keys and configuration
    "keys": _room(
        "model outcome",
        "aiohttp aiosqlite asyncpg cachetools circuitbreaker msgspec sqlalchemy tenacity yaml",
    ),
    "config": _room("intake keys.material model settings", "pydantic pydantic_core yaml"),
    # the two kinds of process, which never import each other
    "dataplane": _room(
        "channel intake keys.material log metrics model outcome settings wire",
        "hpack httptools msgspec structlog uvloop",
    ),
    "control": _room(
        "channel config intake keys log metrics model outcome settings terminal",
        "aiohttp cryptography msgspec prometheus_client structlog uvloop",
    ),
    # tools to try the gateway with
    "receiver": _room("intake model otlp outcome", "google.protobuf hypercorn"),
    "sender": _room("intake model otlp outcome", "aiohttp google.protobuf h2 opentelemetry.proto"),
    "demo": _room(
        "channel config control intake keys log model otlp outcome receiver terminal",
        "cryptography opentelemetry.proto rich uvloop yaml",
    ),
    # commands
    "cli": _room(
        "config control demo keys log model otlp outcome receiver sender settings terminal",
        "rich typer yaml",
    ),
}

WORKERS_NEVER_LOAD: Final = frozenset(
    {
        "aiohttp",
        "aiosqlite",
        "asyncpg",
        "cryptography",
        "google",
        "grpc",
        "hypercorn",
        "opentelemetry",
        "prometheus_client",
        "pydantic",
        "rich",
        "sqlalchemy",
        "sqlite3",
        "typer",
        "yaml",
    }
)
"""What would cost each worker memory that its keys and buffers need."""


class Import(NamedTuple):
    """One import statement's target."""

    importer: str
    target: str

    @property
    def room(self) -> str:
        """The room whose rules apply."""
        return self.importer.split(".")[1]


def _modules() -> list[Path]:
    return sorted(
        path
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE or path.stem != ("__init__")
    )


def _imports(path: Path) -> Iterator[Import]:
    importer = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(importer, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}: write absolute imports"
            yield from (Import(importer, f"{node.module}.{alias.name}") for alias in node.names)


ALL: Final = [each for path in _modules() for each in _imports(path)]


def _is_within(target: str, allowed: frozenset[str]) -> bool:
    return any(f"{target}.".startswith(f"{name}.") for name in allowed)


def test_every_room_has_its_rules() -> None:
    assert {each.room for each in ALL} <= set(ROOMS)


def test_rooms_import_downwards_only() -> None:
    wrong = [
        each
        for each in ALL
        if each.target.startswith("gateway.")
        and each.target != "gateway.__version__"
        and not _is_within(
            each.target.removeprefix("gateway."), ROOMS[each.room].rooms | {each.room}
        )
    ]
    assert wrong == []


def test_the_rules_have_no_circle() -> None:
    order: list[str] = []
    while len(order) < len(ROOMS):
        ready = [
            name
            for name, room in ROOMS.items()
            if name not in order and {each.split(".")[0] for each in room.rooms} <= set(order)
        ]
        assert ready, f"these import each other: {sorted(set(ROOMS) - set(order))}"
        order += ready


def test_libraries_are_imported_where_they_belong() -> None:
    wrong = [
        each
        for each in ALL
        if each.target.split(".")[0] not in sys.stdlib_module_names | {"gateway"}
        and not _is_within(each.target, ROOMS[each.room].libraries)
    ]
    assert wrong == []


@pytest.fixture(scope="module", name="loaded_by_a_worker")
def _loaded_by_a_worker() -> frozenset[str]:
    """Start a worker as control does, but for a channel: it loads everything, then ends."""
    command = [sys.executable, "-P", "-X", "importtime", "-m", "gateway.dataplane.worker"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    times = [line for line in ended.stderr.splitlines() if line.startswith("import time:")]
    return frozenset(line.rpartition("|")[2].strip() for line in times)


def test_a_worker_loads_the_data_path(loaded_by_a_worker: frozenset[str]) -> None:
    assert {"gateway.dataplane.exchange", "gateway.wire.http2"} <= loaded_by_a_worker


def test_a_worker_loads_no_library_of_controls(loaded_by_a_worker: frozenset[str]) -> None:
    # A library without any of its modules was asked for and not let in.
    loaded = {name.partition(".")[0] for name in loaded_by_a_worker if "." in name}
    assert sorted(loaded & WORKERS_NEVER_LOAD) == []
