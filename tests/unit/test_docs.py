"""The reference pages say what the code does: nothing is missing, nothing is made up.

Each page is a set of tables; the first cell of a row names what the row is about.
"""

from __future__ import annotations

import re
import string
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.core import TyperCommand, TyperGroup

from gateway import metrics
from gateway.cli.main import COMMANDS, build, load_command
from gateway.config import ConfigError, load
from gateway.config.tree import ClaimMapConfig, Config, TlsClientConfig, TlsServerConfig
from gateway.config.units import parse_byte_rate, parse_duration, parse_size
from gateway.intake import IntakeRoute, Sender
from gateway.keys.api_key import ApiKey
from gateway.model import BackendName, Protocol, Signal
from gateway.outcome import OUTCOMES, REFUSALS, RETRY, AuthOutcome, Result

PROJECT: Final = Path(__file__).parents[2]
DOCS: Final = PROJECT / "docs"
NONE: Final = "–"

Row = dict[str, str]


def _tables(page: str) -> Iterator[tuple[str, list[Row]]]:
    """Read a page's tables, each with the heading that it stands under."""
    heading = ""
    header: list[str] = []
    rows: list[Row] = []
    for line in [*(DOCS / page).read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("#"):
            heading = line.lstrip("# ").replace("`", "")
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells and header:
            yield heading, rows
            header, rows = [], []
        elif cells and not header:
            header, rows = cells, []
        elif cells and not set("".join(cells)) <= set("-: "):
            rows.append(dict(zip(header, cells, strict=True)))


def _rows(page: str, first: str) -> dict[str, Row]:
    """Collect the rows of all tables whose first column is `first`, by that cell."""
    rows = [row for _, table in _tables(page) for row in table if next(iter(row)) == first]
    found = {_code(row[first]): row for row in rows}
    assert len(found) == len(rows), "something is documented twice"
    return found


def _code(cell: str) -> str:
    """Take the code out of a cell: `x` → x."""
    match = re.match(r"`([^`]*)`", cell)
    return match[1].replace(r"\|", "|") if match else cell


# Configuration


def _documented_keys(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    """Walk the tree: (path, default). What backends and TLS share is described once."""
    for name, field in model.model_fields.items():
        where = f"{path}{name}"
        inner = _model_in(field.annotation)
        if inner is None:
            yield where, _default(field)
            continue
        is_list = "list[" in str(field.annotation)
        if is_list or field.default is None:
            yield where, _default(field)
        if inner is TlsServerConfig and where != "listen[].tls":
            continue
        if inner is TlsClientConfig and not where.startswith("backends.otlp_grpc"):
            continue
        if inner is ClaimMapConfig and where != "keys.jwt.map":
            continue
        yield from _documented_keys(inner, f"{where}[]." if is_list else f"{where}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return NONE
    return _as_yaml(field.default)


def _as_yaml(value: object) -> str:
    """Write a default in one line."""
    if isinstance(value, list):
        value = [
            item.model_dump(exclude_unset=True) if isinstance(item, BaseModel) else item
            for item in value
        ]
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return text.removesuffix("\n...\n").strip().strip("'")


_SHARED: Final = re.compile(r"backends\.(?:routes\[\]\.)?(otlp_grpc|otlp_http|intake)\.(.+)")
_BACKEND_KEYS: Final = {
    key.removeprefix("backends.otlp_grpc.")
    for key, _ in _documented_keys(Config)
    if key.startswith("backends.otlp_grpc.")
}


def _shared_name(key: str) -> str:
    """Write what all kinds of backends have as `backends.*.KEY`."""
    match = _SHARED.fullmatch(key)
    if match and (match[2] in _BACKEND_KEYS):
        return f"backends.*.{match[2]}"
    return key


CONFIGURATION: Final = {_shared_name(key): text for key, text in _documented_keys(Config)}
IN_WORDS: Final = {"state_dir", "keys.stores", "auth.receiver_keys[].name", "admin.tokens[].name"}
"""Defaults that depend on the machine or on the place: documented in words."""


def test_every_configuration_key_is_documented_and_no_other() -> None:
    assert set(_rows("configuration.md", "Setting")) == set(CONFIGURATION)


SUPPORTED: Final[dict[str, dict[str, Any]]] = {
    "Listening": {"listen": [{"address": "127.0.0.1:0", "proxy_protocol": True}]},
    "Backends": {"backends": {"intake": {"urls": ["http://127.0.0.1:1"]}}},
    "What the backend sees": {"forward": {"key": "none", "identity_headers": True}},
    "Who may send": {"auth": {"receiver_keys": [{"name": "n", "key": "a-key"}]}},
    "Limits": {"limits": {"per_key": {"requests": "5/s"}}},
    "Browsers": {"cors": {"allowed_origins": ["https://a.example"], "max_age": "1h"}},
    "The gateway's own telemetry": {"telemetry": {"sample_ratio": "5%"}},
    "Processes, administration, logs": {"admin": {"hosts": ["a.example"]}},
}
"""One use of what each section of `configuration.md` describes."""
_DENIAL: Final = re.compile(r"(?:do|does|is|are) not support|not supported|any \w+ is an error")


def test_what_the_page_calls_unsupported_is_refused_and_the_rest_is_accepted(
    tmp_path: Path,
) -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    sections = dict(section.split("\n", 1) for section in text.split("\n## ")[1:])
    assert set(SUPPORTED) == {name for name, body in sections.items() if "| Setting |" in body}
    file = tmp_path / "gateway.yaml"
    for name, use in SUPPORTED.items():
        networks = {"trusted_networks": ["127.0.0.0/8"]}
        file.write_text(yaml.safe_dump(networks | use))
        if _DENIAL.search(sections[name]):
            with pytest.raises(ConfigError):
                load(file)
        else:
            load(file)


@pytest.mark.parametrize("key", sorted(set(CONFIGURATION) - IN_WORDS))
def test_the_documented_default_is_the_real_one(key: str) -> None:
    documented = _code(_rows("configuration.md", "Setting")[key]["Default"])
    assert _is_same(documented, CONFIGURATION[key])


def _is_same(documented: str, real: str) -> bool:
    """Whether both say the same value, though one may say 24h and the other 86400.0."""
    if documented == real:
        return True
    if re.fullmatch(r"\d+(\.\d+)?", real):
        readers = (parse_duration, parse_size, parse_byte_rate)
        return any(_read(reader, documented) == float(real) for reader in readers)
    return "{" in real and _normal(documented) == _normal(real)


def _read(reader: Any, text: str) -> float | None:
    try:
        return float(reader(text))
    except ValueError:
        return None


def _normal(text: str) -> object:
    value = yaml.safe_load(text)
    if isinstance(value, dict):
        return {name: _read(parse_size, str(size)) for name, size in value.items()}
    return value


def test_the_example_configuration_can_be_used(tmp_path: Path) -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for number, example in enumerate(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)):
        file = tmp_path / f"{number}.yaml"
        file.write_text(example)
        environ = {"HOME": "/h", "BACKEND_API_KEY": "abc", "RECEIVER_API_KEY": "def"}
        load(file, (), environ)


# Outcomes


def test_every_outcome_is_documented_and_no_other() -> None:
    assert set(_rows("outcomes.md", "Outcome")) == {outcome.name for outcome in OUTCOMES}


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.name)
def test_an_outcomes_codes_are_the_real_ones(outcome: Any) -> None:
    row = _rows("outcomes.md", "Outcome")[outcome.name]
    assert row["gRPC"] == f"{outcome.grpc.name} ({outcome.grpc.value})"
    assert row["OTLP/HTTP"] == str(outcome.http)
    agents = "*try again*" if outcome.intake == RETRY else str(outcome.intake)
    assert row["Agent intake"] == agents
    assert row["Result"] == f"`{outcome.result}`"
    assert row["Kept by the sender"] == (
        f"yes, after {outcome.retry_after_s} s" if outcome.is_retryable else "no"
    )


def test_every_refusal_is_documented_with_its_text_and_no_other() -> None:
    documented = _rows("outcomes.md", "Reason")
    assert {reason: (_code(row["Outcome"]), row["Text"]) for reason, row in documented.items()} == {
        reason: (refusal.outcome.name, refusal.text.replace("|", r"\|"))
        for reason, refusal in REFUSALS.items()
    }


# Metrics


def test_every_metric_is_documented_and_no_other() -> None:
    assert set(_rows("metrics.md", "Metric")) == set(metrics.BY_NAME)


@pytest.mark.parametrize("name", sorted(metrics.BY_NAME))
def test_a_metrics_type_and_labels_are_the_real_ones(name: str) -> None:
    metric = metrics.BY_NAME[name]
    row = _rows("metrics.md", "Metric")[name]
    assert row["Type"] == metric.kind
    assert row["Labels"] == (", ".join(f"`{label}`" for label in metric.labels) or NONE)
    assert row["Meaning"].endswith(".")


@pytest.mark.parametrize(
    "label, of, values",
    [
        ("protocol", "requests, keys", set(Protocol)),
        ("signal", "requests, keys", set(Signal)),
        ("result", "requests", set(Result)),
        ("outcome", "keys", set(AuthOutcome)),
        ("source", "keys", set(metrics.SOURCES)),
        ("kind", "cache of verdicts", set(metrics.CACHE_KINDS)),
        ("kind", "abuse", set(metrics.ABUSE_KINDS)),
        ("result", "authorities", set(metrics.AUTHORITY_RESULTS)),
        ("result", "tokens", set(metrics.JWT_RESULTS)),
        ("result", "issuers' keys", set(metrics.JWT_FETCH_RESULTS)),
        ("backend", "backends", set(BackendName)),
        ("reason", "connections refused", set(metrics.CONNECTION_REFUSAL_REASONS)),
        ("reason", "admin connections closed", set(metrics.ADMIN_CLOSE_REASONS)),
        ("reason", "worker restarts", set(metrics.RESTART_REASONS)),
        ("place", "internal errors", set(metrics.INTERNAL_PLACES)),
        ("route", "agents", set(IntakeRoute)),
        ("sender", "agents", set(Sender)),
        ("version", "agents", set(metrics.NO_VERSIONS)),
    ],
)
def test_the_values_of_a_label_are_the_real_ones(label: str, of: str, values: set[str]) -> None:
    (row,) = [
        row
        for heading, table in _tables("metrics.md")
        if heading == "Values of labels"
        for row in table
        if (_code(row["Label"]), row["Of"]) == (label, of)
    ]
    assert set(re.findall(r"`([^`]+)`", row["Values"])) == {str(value) for value in values}


# Commands


def _commands() -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    yield "gateway", build()
    for name in COMMANDS:
        command = load_command(name)
        if isinstance(command, TyperGroup):
            for inner_name, inner in command.commands.items():
                yield f"gateway {name} {inner_name}", inner  # type: ignore[misc] # typer's own type
        else:
            yield f"gateway {name}", command


def _options(command: TyperCommand | TyperGroup) -> dict[str, str]:
    """List a command's options as `--long, -s`, its arguments as `NAME`, with their defaults."""
    return {
        _option_names(option): _option_default(option)
        for option in command.params
        if option.param_type_name == "option" and not getattr(option, "hidden", False)
    }


def _option_names(option: Any) -> str:
    if option.param_type_name == "argument":
        return str(option.metavar)
    return ", ".join(sorted(option.opts, key=len, reverse=True))


def _option_default(option: Any) -> str:
    if option.required:
        return "required"
    if option.default in (None, False, [], ()):
        return NONE
    return str(getattr(option.default, "value", option.default))


REAL_COMMANDS: Final = {name: _options(command) for name, command in _commands()}


def test_every_command_is_documented_and_no_other() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^## `(gateway[a-z -]*)`$", text, re.MULTILINE))
    assert headings == set(REAL_COMMANDS)


@pytest.mark.parametrize("command", sorted(REAL_COMMANDS))
def test_a_commands_options_and_defaults_are_the_real_ones(command: str) -> None:
    tables = [table for heading, table in _tables("commands.md") if heading == command]
    documented = {
        ", ".join(re.findall(r"`(-[^` ]+|[A-Z]+(?=`))", row["Option"])): _code(row["Default"])
        for table in tables
        for row in table
    }
    assert documented == REAL_COMMANDS[command]


# Keys


def test_a_secret_scanner_that_does_what_the_page_says_finds_keys_and_nothing_else() -> None:
    text = (DOCS / "keys.md").read_text(encoding="utf-8")
    found = re.search(r"regular expression `(.*?)`", text)
    assert found is not None
    pattern = re.compile(found[1])
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase

    def is_real(hit: str) -> bool:
        rest, checksum = zlib.crc32(hit[:40].encode()), ""
        for _ in range(6):
            rest, digit = divmod(rest, 62)
            checksum = digits[digit] + checksum
        return hit[40:] == checksum

    keys = [ApiKey.generate().reveal() for _ in range(50)]
    hits = pattern.findall(f"key={'; token: '.join(keys)}, not {keys[0]}x or i{keys[0][1:20]}")
    assert hits == keys
    assert all(map(is_real, hits))
    assert not is_real(keys[0][:-1] + ("A" if keys[0][-1] != "A" else "B"))


# All pages


@pytest.mark.parametrize(
    "page", [PROJECT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
