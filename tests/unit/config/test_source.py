from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError, load
from tests.unit.config.support import HOME, load_text, problems_of

BACKEND = "backends: {{otlp_grpc: {{urls: ['{}']}}}}"


def _urls(folder: Path, url: str, environ: dict[str, str]) -> list[str]:
    backend = load_text(folder, BACKEND.format(url), environ=HOME | environ).config.backends
    assert backend.otlp_grpc is not None
    return backend.otlp_grpc.urls


def test_a_variable_is_replaced_anywhere_in_a_value(tmp_path: Path) -> None:
    environ = {"HOST": "collector", "PORT": "4317"}
    assert _urls(tmp_path, "http://${env:HOST}:${env:PORT}", environ) == ["http://collector:4317"]


@pytest.mark.parametrize("environ", [{}, {"HOST": ""}])
def test_a_default_stands_for_a_variable_that_is_unset_or_empty(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    assert _urls(tmp_path, "http://${env:HOST:-spare}:1", environ) == ["http://spare:1"]


def test_a_variable_wins_over_its_default(tmp_path: Path) -> None:
    assert _urls(tmp_path, "http://${env:HOST:-spare}:1", {"HOST": "real"}) == ["http://real:1"]


def test_an_empty_default_is_a_default(tmp_path: Path) -> None:
    assert _urls(tmp_path, "http://h:1${env:PREFIX:-}", {}) == ["http://h:1"]


def test_a_variable_that_is_not_set_is_an_error(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, "state_dir: ${env:NOT_SET}")
    assert problem.path == "state_dir"
    assert "the environment variable NOT_SET is not set" in problem.message
    assert "${env:NOT_SET:-default}" in problem.message


def test_a_number_may_come_from_a_variable(tmp_path: Path) -> None:
    text = "workers: ${env:N}\nlimits: {quota_status: '${env:Q}', max_connections: '${env:C}'}"
    config = load_text(tmp_path, text, environ={**HOME, "N": "3", "Q": "503", "C": "9"}).config
    assert (config.workers, config.limits.quota_status) == (3, 503)
    assert config.limits.max_connections == 9


def test_a_files_content_is_taken_without_its_last_newline(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the-key\n")
    config = load_text(tmp_path, "auth: {receiver_keys: ['${file:secret}']}").config
    assert config.auth.receiver_keys[0].key.get_secret_value() == "the-key"


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, "admin: {tokens: ['${file:/not/there}']}")
    assert problem.path == "admin.tokens[0]"
    assert "/not/there cannot be read (no such file or directory)" in problem.message


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (problem,) = problems_of(tmp_path, "admin: {tokens: ['${file:binary}']}")
    assert "is not UTF-8 text" in problem.message


def test_a_doubled_dollar_is_a_plain_one(tmp_path: Path) -> None:
    config = load_text(tmp_path, "auth: {receiver_keys: ['a$${b}c', 'd$e']}").config
    keys = [key.key.get_secret_value() for key in config.auth.receiver_keys]
    assert keys == ["a${b}c", "d$e"]


def test_what_a_variable_holds_is_not_replaced_again(tmp_path: Path) -> None:
    environ = {**HOME, "A": "${env:B}", "B": "b"}
    config = load_text(tmp_path, "auth: {receiver_keys: ['${env:A}']}", environ=environ).config
    assert config.auth.receiver_keys[0].key.get_secret_value() == "${env:B}"


@pytest.mark.parametrize("value", ["${NAME}", "${vault:x}", "${env:}", "${env:1X}", "${}"])
def test_an_unknown_expression_is_an_error(tmp_path: Path, value: str) -> None:
    (problem,) = problems_of(tmp_path, f"state_dir: '{value}'")
    assert "accepts env:NAME, env:NAME:-default or file:PATH" in problem.message


@pytest.mark.parametrize("value", ["${env:A", "${env:A:-${env:HOME}}"])
def test_an_expression_without_its_end_is_an_error(tmp_path: Path, value: str) -> None:
    (problem,) = problems_of(tmp_path, f"state_dir: '{value}'")
    assert "a '${' has no '}', or is inside another one" in problem.message


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("a: [1\nb: 2\n", 2, "not valid YAML"),
        ("workers: 1\n\tlog: x\n", 2, "not valid YAML"),
        ("workers: 1\nworkers: 2\n", 2, "is set twice, first on line 1"),
        ("workers: 1\nlog: \x0e\n", 2, "the character U+000E is not allowed"),
        ("workers: !!int ''", 1, "no value of its type"),
        ("workers: !!bool x", 1, "no value of its type"),
        ("workers: !!timestamp x", 1, "no value of its type"),
        ("limits:\n  max_body: 2026-02-30\n", 2, "no value of its type"),
        ("limits:\n  max_connections: 010000\n", 2, "begins with 0 as octal"),
        ("workers: -01\n", 1, "begins with 0 as octal"),
        ("limits:\n  stall_timeout: 1:30\n", 2, "put them in quotes"),
        ("limits:\n  max_body: 1B\n  max_body: 2B\n", 3, "is set twice, first on line 2"),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    (problem,) = problems_of(tmp_path, text)
    assert problem.line == line
    assert message in problem.message


def test_a_file_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_bytes(b"workers: \xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(file, (), HOME)


def test_yaml_anchors_and_merges_work(tmp_path: Path) -> None:
    text = """\
backends:
  otlp_grpc: &shared {urls: ["http://a:1"], max_waiting: 7}
  otlp_http: {<<: *shared, urls: ["http://b:2"]}
"""
    backend = load_text(tmp_path, text).config.backends.otlp_http
    assert backend is not None
    assert (backend.urls, backend.max_waiting) == (["http://b:2"], 7)


@pytest.mark.parametrize(
    "override, path, expected",
    [
        ("limits.max_body=8MiB", "limits.max_body", 8 * 2**20),
        ("log.level=debug", "log.level", "debug"),
        ("workers=4", "workers", 4),
        ("listen[0].address=127.0.0.1:1", "listen.0.address", "127.0.0.1:1"),
        ("listen.1.address=127.0.0.1:2", "listen.1.address", "127.0.0.1:2"),
        ("listen[2].address=127.0.0.1:3", "listen.2.address", "127.0.0.1:3"),
        ("forward.identity_headers=true", "forward.identity_headers", True),
        ("auth.schemes=[A, B]", "auth.schemes", ["A", "B"]),
        ("backends={otlp_http: {urls: ['http://x:1']}}", "backends.otlp_http.host", None),
        ("state_dir=${env:HOME}/s", "state_dir", Path("/home/someone/s")),
        ("workers=", "workers", "auto"),
    ],
)
def test_an_override_sets_one_value(
    tmp_path: Path, override: str, path: str, expected: object
) -> None:
    text = "workers: 2\nlisten: [{address: 'a:1'}, {address: 'b:1'}]"
    value: object = load_text(tmp_path, text, [override]).config
    for step in path.split("."):
        value = value[int(step)] if isinstance(value, list) else getattr(value, step)
    assert value == expected


def test_overrides_apply_in_their_order_and_without_a_file() -> None:
    loaded = load(None, ["workers=2", "workers=3"], HOME)
    assert loaded.config.workers == 3


@pytest.mark.parametrize(
    "override, path, message",
    [
        ("workers", "--set", "write --set PATH=VALUE"),
        ("=3", "--set ", "write --set PATH=VALUE"),
        ("[0]=3", "--set [0]", "write --set PATH=VALUE"),
        ("log level=3", "--set log level", "write --set PATH=VALUE"),
        ("listen[5].address=x:1", "listen[5].address", "listen is a list of 1"),
        ("workers.x=1", "workers.x", "workers is not a mapping"),
        ("workers[0]=1", "workers[0]", "workers is not a list"),
        ("log={", "log", "the value is not valid YAML"),
        ("log.level=loud", "log.level", "must be debug"),
        ("nonsense=1", "nonsense", "unknown setting"),
    ],
)
def test_a_invalid_override_is_an_error_without_a_line(
    tmp_path: Path, override: str, path: str, message: str
) -> None:
    text = "workers: 2\nlog: {level: info}\nlisten: [{address: 'a:1'}]"
    (problem,) = problems_of(tmp_path, text, [override])
    assert (problem.path, problem.line) == (path, None)
    assert message in problem.message


def test_an_alias_that_contains_itself_is_an_error(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, "listen: &a [*a]")
    assert "an alias contains itself" in problem.message
