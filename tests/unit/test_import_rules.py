"""Which room may import which, and which third-party library may be imported where.

Imports point downwards: a room may import those that its row names, and no others. A room may have
rooms inside, which have rows of their own. Imports inside functions and under `TYPE_CHECKING` count
too, and no modules may import each other in a circle.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final, NamedTuple

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
    "worker_contract": _room(),
    "quota_layout": _room(),
    "certificate_ids": _room(),
    "revocation_lists": _room("certificate_ids", "cryptography"),
    "held_signals": _room(),
    "descriptors": _room(),
    "lean_imports": _room(libraries="aiohttp structlog"),
    "compiled": _room("outcome"),
    "samples": _room(libraries="msgspec"),
    "channel": _room("model samples settings", "msgspec"),
    "protos": _room(libraries="google.protobuf google.rpc"),
    "repeats": _room(),
    "crowds": _room(),
    "log_repeats": _room("repeats", "structlog"),
    "log_writer": _room(),
    "log_console": _room("terminal", "structlog"),
    "log": _room("channel log_console log_repeats log_writer repeats terminal", "structlog"),
    # bytes and protocols, without I/O and policy
    "wire": _room("model outcome", "hpack httptools mypy_extensions"),
    "decoder": _room("model otlp samples", "google.protobuf msgspec"),
    "otlp": _room("model outcome", "cramjam google.protobuf google.rpc opentelemetry.proto"),
    # keys and configuration
    "keys.errors": _room(),
    "keys.audit": _room("keys.scope"),
    "keys.api_key": _room("model"),
    "keys.times": _room("keys.errors"),
    "keys.state_file": _room(libraries="structlog"),
    "keys.tenancy": _room("model"),
    "keys.scope": _room("keys.errors keys.tenancy model"),
    "keys.tenancy_rules": _room("keys.api_key keys.errors keys.tenancy"),
    "keys.record": _room("keys.api_key keys.tenancy model", "msgspec"),
    "keys.feed_messages": _room(
        "keys.errors keys.record keys.tenancy keys.tenancy_rules model protos", "google.protobuf"
    ),
    "keys.daily_usage": _room(),
    "keys.limit_board": _room(),
    "keys.quota_store": _room(),
    "keys.store": _room(
        "keys.audit keys.daily_usage keys.limit_board keys.quota_store keys.record keys.tenancy "
        "model"
    ),
    "keys.rules": _room("keys.api_key keys.errors keys.times model"),
    "keys.commands": _room(
        "keys.api_key keys.audit keys.errors keys.record keys.rules keys.store keys.tenancy_rules "
        "keys.times model",
    ),
    "keys.importing": _room("keys.commands keys.errors keys.record keys.store"),
    "keys.usage": _room("keys.daily_usage keys.errors keys.record keys.store"),
    "keys.confirmations": _room("keys.errors keys.state_file keys.store", "asyncpg"),
    "keys.authority": _room(
        "keys.state_file",
        "aiohttp cachetools msgspec tenacity",
    ),
    "keys.jwt.claim_paths": _room(),
    "keys.jwt": _room(
        "keys.errors keys.rules keys.state_file keys.tenancy keys.tenancy_rules model",
        "aiohttp cachetools jwt msgspec",
    ),
    "keys.stores": _room(
        "keys.api_key keys.audit keys.confirmations keys.daily_usage keys.errors "
        "keys.feed_messages keys.limit_board keys.quota_store keys.record keys.rules "
        "keys.state_file keys.store "
        "keys.tenancy keys.tenancy_rules keys.times model protos",
        "aiosqlite asyncpg google.protobuf grpc msgspec yaml",
    ),
    "keys.following": _room(
        "keys.errors keys.record keys.state_file keys.store keys.tenancy model", "msgspec"
    ),
    "keys.service_commands": _room(
        "keys.api_key keys.audit keys.commands keys.errors keys.following keys.importing "
        "keys.record keys.scope keys.store",
    ),
    "keys.service": _room(
        "keys.daily_usage keys.errors keys.following keys.limit_board keys.quota_store keys.record "
        "keys.service_commands "
        "keys.store keys.stores "
        "keys.tenancy keys.times keys.usage model",
    ),
    "config": _room(
        "intake keys.api_key keys.errors keys.jwt.claim_paths keys.tenancy_rules model "
        "revocation_lists settings",
        "pydantic pydantic_core yaml",
    ),
    # the two kinds of process, which never import each other; first the rooms of a worker
    "dataplane.core": _room(
        "channel metrics model outcome settings wire worker_contract", "mypy_extensions structlog"
    ),
    "dataplane.auth": _room(
        "channel dataplane.core keys.api_key metrics model outcome settings wire", "msgspec"
    ),
    "dataplane.upstream": _room("dataplane.core metrics outcome settings", "structlog"),
    "dataplane.exchange": _room(
        "channel dataplane.auth dataplane.core metrics model outcome quota_layout samples settings",
        "mypy_extensions structlog",
    ),
    "dataplane.dialects": _room(
        "dataplane.auth dataplane.core dataplane.exchange intake metrics model outcome settings "
        "wire"
    ),
    "dataplane.http1": _room(
        "dataplane.auth dataplane.core dataplane.exchange dataplane.upstream metrics outcome "
        "settings wire",
        "httptools",
    ),
    "dataplane.http2": _room(
        "dataplane.auth dataplane.core dataplane.exchange dataplane.upstream metrics outcome wire",
        "mypy_extensions structlog",
    ),
    "dataplane.accept": _room(
        "certificate_ids channel crowds dataplane.core metrics model outcome settings wire "
        "worker_contract",
        "structlog",
    ),
    "dataplane.assembly": _room(
        "channel dataplane.accept dataplane.auth dataplane.core dataplane.dialects "
        "dataplane.exchange dataplane.http1 dataplane.http2 dataplane.upstream model outcome "
        "settings"
    ),
    "dataplane.worker": _room(
        "channel dataplane.assembly dataplane.core dataplane.upstream metrics model settings "
        "worker_contract"
    ),
    "dataplane.held_lines": _room("channel"),
    "dataplane.worker_process": _room(
        "channel dataplane.held_lines dataplane.worker descriptors lean_imports log metrics "
        "settings worker_contract",
        "structlog uvloop",
    ),
    # beside both: verdicts for another proxy, by what workers decide with
    "ext_authz": _room(
        "dataplane.auth dataplane.core dataplane.dialects dataplane.exchange model outcome settings"
        " wire",
        "msgspec",
    ),
    "control.core": _room("config settings", "structlog"),
    "control.workers": _room(
        "channel control.core descriptors keys.record model quota_layout settings worker_contract",
        "msgspec structlog",
    ),
    "control.limits": _room(
        "channel config control.core control.workers keys.errors keys.limit_board "
        "keys.quota_store keys.state_file metrics quota_layout",
        "msgspec structlog",
    ),
    "control.metrics": _room(
        "channel compiled config control.core control.workers intake keys.errors keys.following "
        "keys.record keys.tenancy log metrics model outcome samples",
        "cryptography prometheus_client structlog",
    ),
    "control.sampling": _room(
        "channel control.core control.metrics control.workers keys.daily_usage keys.record metrics "
        "samples",
        "msgspec structlog",
    ),
    "control.authorities": _room(
        "channel config control.core control.metrics control.workers keys.authority "
        "keys.errors keys.following keys.jwt keys.state_file keys.tenancy metrics model",
        "cachetools structlog",
    ),
    "control.telemetry": _room(
        "channel config control.metrics control.workers log metrics settings",
        "grpc opentelemetry prometheus_client structlog",
    ),
    "control.admin": _room(
        "channel config control.core control.metrics control.workers crowds keys.api_key "
        "keys.audit keys.commands keys.daily_usage keys.errors keys.following keys.record "
        "keys.rules keys.scope keys.service "
        "keys.state_file keys.store keys.tenancy keys.tenancy_rules keys.times metrics model "
        "outcome",
        "aiohttp msgspec structlog",
    ),
    "control.grpc_api": _room(
        "config control.admin control.core control.metrics ext_authz keys.errors "
        "keys.feed_messages keys.limit_board keys.quota_store "
        "keys.record keys.service keys.tenancy metrics model protos",
        "google.protobuf google.rpc grpc grpc_health grpc_reflection structlog",
    ),
    "control.lifecycle": _room(
        "channel config control.admin control.authorities control.core control.grpc_api "
        "control.limits control.metrics control.sampling control.telemetry "
        "control.workers held_signals keys.authority keys.errors keys.following "
        "keys.limit_board keys.quota_store keys.record keys.service keys.state_file keys.store "
        "keys.stores keys.tenancy log metrics revocation_lists settings",
        "structlog uvloop",
    ),
    # tools to try the gateway with
    "http2_connection": _room("wire"),
    "receiver": _room("http2_connection intake model otlp outcome wire", "aiohttp google.protobuf"),
    "sender": _room(
        "http2_connection intake model otlp outcome wire",
        "aiohttp google.protobuf opentelemetry.proto",
    ),
    "demo": _room(
        "channel config control intake keys log model otlp outcome receiver terminal",
        "cryptography opentelemetry.proto rich uvloop yaml",
    ),
    # commands
    "__main__": _room("cli"),
    "cli": _room(
        "compiled config control demo held_signals keys lean_imports log model otlp outcome "
        "receiver sender settings terminal",
        "msgspec rich typer yaml",
    ),
}


class Import(NamedTuple):
    """One import statement's target."""

    importer: str
    target: str

    @property
    def room(self) -> str:
        """The room whose rules apply: the innermost one that has a row."""
        name = self.importer.removeprefix("gateway.")
        while name and name not in ROOMS:
            name = name.rpartition(".")[0]
        return name


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


def _rows_of(name: str) -> set[str]:
    """Return the rows that rule over a module, or over the rooms inside a room."""
    inside = {row for row in ROOMS if f"{row}.".startswith(f"{name}.")}
    around = {row for row in ROOMS if f"{name}.".startswith(f"{row}.")}
    return inside | around


def _module_of(target: str) -> str | None:
    """Return the module that an import statement loads, None if it is none of ours."""
    for name in (target, target.rpartition(".")[0]):
        path = PACKAGE.parent.joinpath(*name.split("."))
        if path.with_suffix(".py").exists():
            return name
        if (path / "__init__.py").exists():
            return f"{name}.__init__"
    return None


def _circles() -> list[list[str]]:
    """Return the groups of modules that import each other."""
    graph: dict[str, set[str]] = {}
    for each in ALL:
        target = _module_of(each.target)
        if target is not None and target != each.importer:
            graph.setdefault(each.importer, set()).add(target)
    return [sorted(group) for group in _components(graph) if len(group) > 1]


def _components(graph: dict[str, set[str]]) -> list[set[str]]:
    reach = {name: _reachable(graph, name) for name in graph}
    groups: list[set[str]] = []
    for name, seen in reach.items():
        group = {name} | {other for other in seen if name in reach.get(other, set())}
        if group not in groups:
            groups.append(group)
    return groups


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for target in graph.get(waiting.pop(), set()) - seen:
            seen.add(target)
            waiting.append(target)
    return seen


def test_no_modules_import_each_other() -> None:
    """Not under `TYPE_CHECKING` either: a circle of types is a circle of thought."""
    assert _circles() == []


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
            if name not in order
            and set().union(*(_rows_of(each) for each in room.rooms)) <= set(order)
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


def _installed_with_the_package() -> set[str]:
    """Return the modules that come with the package when no extra is asked for."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    waiting: list[str] = project["dependencies"]
    seen: set[str] = set()
    modules: set[str] = set()
    while waiting:
        name = re.split(r"[^A-Za-z0-9._-]", waiting.pop(), maxsplit=1)[0].lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # for another system, or another Python
        waiting += [line for line in found.requires or () if "extra ==" not in line]
        for file in found.files or ():
            *folders, last = file.parts
            modules.add(".".join((*folders, last.partition(".")[0])).removesuffix(".__init__"))
    return modules


def test_what_is_imported_is_installed_with_the_package() -> None:
    """Only `telemetry` is an extra: the demo, `send` and `receive` need nothing else either."""
    installed = frozenset(_installed_with_the_package())
    missing = {
        each.target
        for each in ALL
        if each.target.split(".")[0] not in sys.stdlib_module_names | {"gateway"}
        and each.room != "control.telemetry"
        and not _is_within(each.target, installed)
    }
    assert missing == set()
