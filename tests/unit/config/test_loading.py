from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError, ConfigProblem, load
from tests.unit.config.support import HOME, load_text, problems_of

MiB = 2**20


def test_without_a_file_the_defaults_of_the_interface_apply() -> None:
    config = load(None, (), HOME).config
    assert [listener.address for listener in config.listen] == ["127.0.0.1:4317", "127.0.0.1:4318"]
    assert config.backends.otlp_grpc is None
    assert config.forward.key == "client"
    assert config.auth.schemes == ["StackState", "SUSEObservability", "SUSE-Observability"]
    assert config.limits.max_body == 64 * MiB
    assert config.limits.buffer_memory == 256 * MiB
    assert config.limits.request_timeout == 60
    assert config.limits.drain_delay == 5
    assert config.keys.max_stale == 24 * 3600
    assert config.keys.tombstones == 30 * 24 * 3600
    assert config.admin.address == "127.0.0.1:8090"
    assert config.workers == "auto"
    assert config.worker_count >= 1


@pytest.mark.parametrize(
    "environ, folder",
    [
        ({"HOME": "/h"}, "/h/.local/state/otlp-gateway"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/x"}, "/x/otlp-gateway"),
        ({"HOME": "/h", "XDG_STATE_HOME": "not/absolute"}, "/h/.local/state/otlp-gateway"),
        ({}, "/var/lib/otlp-gateway"),
    ],
)
def test_keys_and_state_live_in_the_users_state_folder(
    environ: dict[str, str], folder: str
) -> None:
    config = load(None, (), environ).config
    assert config.state_dir == Path(folder)
    assert [str(store) for store in config.keys.stores] == [f"sqlite://{folder}/keys.db"]


def test_the_default_store_follows_the_state_folder(tmp_path: Path) -> None:
    config = load_text(tmp_path, "state_dir: state").config
    assert config.state_dir == tmp_path / "state"
    assert config.keys.stores[0].path == tmp_path / "state/keys.db"


def test_the_environment_names_the_file_where_no_argument_does(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("workers: 3")
    loaded = load(None, (), {**HOME, "GATEWAY_CONFIG": str(file)})
    assert loaded.config.workers == 3
    assert loaded.path == file


def test_an_argument_wins_over_the_environment(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "workers: 2", environ={**HOME, "GATEWAY_CONFIG": "/nowhere"})
    assert loaded.config.workers == 2


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:

    with pytest.raises(ConfigError, match=r"missing\.yaml cannot be read \(no such file"):
        load(tmp_path / "missing.yaml", (), HOME)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_text(tmp_path, "").config.workers == "auto"
    assert load_text(tmp_path, "limits:\n  # nothing\n").config.limits.max_body == 64 * MiB


def test_reading_again_takes_the_same_overrides_and_the_changed_file(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "workers: 2", ["log.level=debug"])
    loaded.path.write_text("workers: 5")  # type: ignore[union-attr] # a file was given
    again = loaded.reload()
    assert (again.config.workers, again.config.log.level) == (5, "debug")


def test_all_errors_are_reported_at_once_in_the_files_order(tmp_path: Path) -> None:
    text = """\
listen:
  - address: nowhere
  - {address: "127.0.0.1:4318", tls: {cert_file: missing.crt, key_file: missing.key}}
  - address: 127.0.0.1:4318
forward: {key: gateway}
limits:
  max_body: 64Mi
  header_timeout: 0
max_body: 1
"""
    found = problems_of(tmp_path, text, ["log.level=loud"], HOME)
    assert [(problem.path, problem.line) for problem in found] == [
        ("log.level", None),
        ("listen[0].address", 2),
        ("listen[1].tls.cert_file", 3),
        ("listen[1].tls.key_file", 3),
        ("listen[2].address", 4),
        ("forward.gateway_key", 5),
        ("limits.max_body", 7),
        ("limits.header_timeout", 8),
        ("max_body", 9),
    ]


def test_places_are_those_of_the_file_although_a_invalid_item_stands_before(tmp_path: Path) -> None:
    text = "listen: [{address: bad}, {address: 'a:1'}, {address: 'a:1'}]"
    by_path = {problem.path: problem.message for problem in problems_of(tmp_path, text)}
    assert "overlaps a:1 (listen[1].address)" in by_path["listen[2].address"]


def test_an_error_is_not_followed_by_what_follows_from_it(tmp_path: Path) -> None:
    text = "forward: {key: gateway, gateway_key: '${env:NOT_SET}'}\nkeys: {stores: [what]}"
    assert [problem.path for problem in problems_of(tmp_path, text)] == [
        "forward.gateway_key",
        "keys.stores[0]",
    ]


def test_an_error_reads_as_one_line() -> None:
    assert str(ConfigProblem("a.b", "is wrong", 3)) == "a.b (line 3): is wrong"
    assert str(ConfigProblem("a.b", "is wrong")) == "a.b: is wrong"
    assert str(ConfigProblem("", "is no YAML")) == "is no YAML"


@pytest.mark.parametrize(
    "text, path, message",
    [
        ("limits: {max_bdy: 1}", "limits.max_bdy", "unknown setting: did you mean max_body?"),
        ("drain_delay: 1s", "drain_delay", "did you mean limits.drain_delay?"),
        (
            "listen: [{address: 'a:1', colour: red}]",
            "listen[0].colour",
            "unknown setting: valid settings here are address, tls, proxy_protocol",
        ),
        ("limits: [1]", "limits", "must be a mapping"),
        ("listen: {address: 'a:1'}", "listen", "must be a list"),
        ("listen: []", "listen", "must have at least one item"),
        ("listen: [{proxy_protocol: false}]", "listen[0].address", "is required"),
        ("limits: {max_connections: 0}", "limits.max_connections", "at least 1 (not '0')"),
        ("limits: {max_connections: x}", "limits.max_connections", "whole number (not 'x')"),
        ("forward: {identity_headers: maybe}", "forward.identity_headers", "true or false"),
        ("log: {level: loud}", "log.level", "must be debug, info, warning or error (not 'loud')"),
        ("workers: 0", "workers", "write auto or a number from 1 to 1024"),
        ("workers: true", "workers", "write auto or a number"),
        ("forward: {drop_headers: [Content-Type]}", "forward.drop_headers[0]", "needs this header"),
        ("forward: {drop_headers: [grpc_encoding]}", "forward.drop_headers[0]", "needs this"),
        ("forward: {drop_headers: [Sts-Api-Key]}", "forward.drop_headers[0]", "set forward.key"),
        ("forward: {drop_headers: ['a b']}", "forward.drop_headers[0]", "must be one word"),
        ("auth: {schemes: []}", "auth.schemes", "at least one item"),
        ("auth: {schemes: ['a b']}", "auth.schemes[0]", "must be one word"),
        ("trusted_networks: [10.0.0.1/8]", "trusted_networks[0]", "without bits after"),
        ("cors: {allowed_origins: ['https://a/b']}", "cors.allowed_origins[0]", "write an origin"),
        ("limits: {quota_status: 500}", "limits.quota_status", "must be 429 or 503"),
        ("limits: {buffer_memory: 1kB}", "limits.buffer_memory", "at least 1048576"),
        ("admin: {tokens: ['']}", "admin.tokens[0]", "empty"),
        ("auth: {receiver_keys: [12345]}", "auth.receiver_keys[0]", "put it in quotes"),
        ("auth: {receiver_keys: ['']}", "auth.receiver_keys[0]", "the key is empty"),
        ("auth: {receiver_keys: [{name: a}]}", "auth.receiver_keys[0].key", "is required"),
        ("state_dir: ''", "state_dir", "the path is empty"),
        ("state_dir: ~nobody-of-this-name/x", "state_dir", "there is no home directory"),
        ("- a\n- b", "", "the file is not a mapping"),
    ],
)
def test_a_invalid_value_says_how_to_mend_it(
    tmp_path: Path, text: str, path: str, message: str
) -> None:
    found = problems_of(tmp_path, text)
    assert [problem.path for problem in found] == [path]
    assert message in found[0].message


@pytest.mark.parametrize(
    "name, zero",
    [
        ("header_timeout", "0"),
        ("idle_timeout", "0s"),
        ("linger_timeout", "0ms"),
        ("stall_timeout", "0s"),
        ("request_timeout", "0"),
        ("max_connection_age", "0s"),
    ],
)
def test_a_timeout_of_zero_is_ambiguous(tmp_path: Path, name: str, zero: str) -> None:
    found = problems_of(tmp_path, f"limits: {{{name}: {zero}}}")
    assert "0 could mean 'immediately' or 'never'" in found[0].message


@pytest.mark.parametrize("key", ["drain_delay", "drain_timeout"])
def test_not_waiting_at_all_is_a_plain_zero(tmp_path: Path, key: str) -> None:
    assert getattr(load_text(tmp_path, f"limits: {{{key}: 0s}}").config.limits, key) == 0


def test_numbers_that_yaml_reads_as_numbers_are_taken_as_text(tmp_path: Path) -> None:
    text = "backends: {intake: {urls: ['http://r:1'], no_answer: 503}}"
    intake = load_text(tmp_path, text).config.backends.intake
    assert intake is not None
    assert intake.no_answer == "503"


def test_nothing_is_held_for_longer_than_the_process_agent_waits(tmp_path: Path) -> None:
    text = "backends: {{intake: {{urls: ['http://r:1'], hold_timeout: {}}}}}"
    for seconds in (0, 30):
        intake = load_text(tmp_path, text.format(f"{seconds}s")).config.backends.intake
        assert intake is not None
        assert intake.hold_timeout == seconds
    found = problems_of(tmp_path, text.format("31s"))
    assert [problem.path for problem in found] == ["backends.intake.hold_timeout"]


@pytest.mark.parametrize("text", ["", "# to be written\n", "null\n", "{}\n", "---\n"])
def test_a_file_without_settings_is_an_error_when_it_is_read_again(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("workers: 1\n")
    loaded = load(file, (), HOME)
    file.write_text(text)
    with pytest.raises(ConfigError, match="has no settings"):
        loaded.reload()
    assert load(file, (), HOME).config.workers != 1  # at the start it stands for the defaults


def test_a_gateway_without_a_file_is_reloaded() -> None:
    assert load(None, ("workers=1",), HOME).reload().config.workers == 1
