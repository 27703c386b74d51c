"""What `gateway keys` says, in all cases; in this process, because a new one for each takes long.

Real processes, terminals, concurrency and crashes: tests/integration/test_keys_cli.py.
"""

from __future__ import annotations

import io
import json
import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.main import run
from gateway.keys.api_key import has_valid_checksum
from gateway.keys.confirmations.lock_files import LockFile
from gateway.model import digest_of

CANARY = "canary-91f2-never-shown"


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Gateway = Callable[..., Done]


@pytest.fixture(name="gateway")
def _gateway(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Gateway:
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)

    def gateway(*arguments: str, text: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode("latin-1"))))
        code = run(list(arguments))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return gateway


@dataclass(frozen=True, slots=True)
class Keys:
    """`gateway keys` on one store."""

    data: Path
    gateway: Gateway

    @property
    def store(self) -> Path:
        return self.data / "keys.db"

    def run(self, *arguments: str, text: str = "") -> Done:
        return self.gateway("keys", *arguments, "--data", str(self.data), text=text)

    def json(self, *arguments: str, text: str = "") -> Any:
        done = self.run(*arguments, "--output", "json", text=text)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def create(self, name: str, *more: str, text: str = "") -> dict[str, Any]:
        created = self.json("create", "--name", name, *more, text=text)["ingestion-api-key"]
        assert isinstance(created, dict)
        return created

    def names(self) -> list[str]:
        return [key["name"] for key in self.json("list")["ingestion-api-keys"]]


@pytest.fixture
def keys(tmp_path: Path, gateway: Gateway) -> Keys:
    return Keys(tmp_path / "state", gateway)


# Words and shapes: those of the `sts` CLI (wire contract §4.2)


def test_a_created_key_is_shown_once_and_then_a_blank_line(keys: Keys) -> None:
    done = keys.run("create", "-n", "agent-eu", "--expiration", "2099-12-31")

    match = re.fullmatch(r"\[SUCCESS\] Ingestion API Key generated: (\S+)\n\n", done.stdout)
    assert match is not None
    assert has_valid_checksum(match[1].encode())
    assert (done.returncode, done.stderr) == (0, "")
    assert match[1] not in keys.run("list").stdout


def test_created_keys_have_the_api_s_json(keys: Keys) -> None:
    done = keys.run(
        *("create", "-n", "agent-eu", "--description", "EU agents"),
        *("--expiration", "2099-12-31", "-o", "json"),
    )

    key = json.loads(done.stdout)["ingestion-api-key"]
    assert done.stdout == json.dumps({"ingestion-api-key": key}, indent=2, sort_keys=True) + "\n"
    assert key.pop("apiKey").startswith("iapikey-")
    assert isinstance(key.pop("id"), int)
    assert isinstance(key.pop("lastUpdateTimestamp"), int)
    assert key == {
        "name": "agent-eu",
        "enabled": True,
        "description": "EU agents",
        "expiration": 4102358400000,
    }


def test_absent_members_are_left_out_of_the_json(keys: Keys) -> None:
    created = keys.create("n")

    assert set(created) == {"apiKey", "enabled", "id", "lastUpdateTimestamp", "name"}
    (listed,) = keys.json("list")["ingestion-api-keys"]
    assert set(listed) == {"enabled", "id", "lastUpdateTimestamp", "name"}


def test_quotas_are_set_like_limits_and_written_for_people(keys: Keys) -> None:
    created = keys.create(
        "n",
        *("--limit-requests-per-day", "1000", "--limit-bytes-per-day", "1GiB"),
        *("--limit-requests-per-month", "20000", "--limit-bytes-per-month", "0"),
    )
    one = ("--id", str(created["id"]))
    assert created["limits"] == {
        "requestsPerDay": 1_000,
        "bytesPerDay": 2**30,
        "requestsPerMonth": 20_000,
        "bytesPerMonth": 0,
    }
    less = keys.json("update", *one, "--limit-bytes-per-day", "default")["ingestion-api-key"]
    assert "bytesPerDay" not in less["limits"]
    (line, *_) = [each for each in keys.run("audit").stdout.splitlines() if "limits" in each]
    assert "requests 1000/day, requests 20000/month, bytes 0/month" in line
    wrong = keys.run("update", *one, "--limit-bytes-per-day", "lots")
    assert wrong.returncode != 0
    assert "--limit-bytes-per-day: write a whole number or a size such as 5MiB" in wrong.stderr


def test_limits_are_set_and_changed_and_the_audit_log_says_so(keys: Keys) -> None:
    created = keys.create("n", "--limit-requests", "100", "--limit-bytes", "1MiB")
    one = ("--id", str(created["id"]))
    more = keys.json("update", *one, "--limit-concurrent", "0")["ingestion-api-key"]
    none = keys.json(
        "update",
        *one,
        *("--limit-requests", "default"),
        *("--limit-bytes", "default"),
        *("--limit-concurrent", "DEFAULT"),
    )["ingestion-api-key"]
    changes = [line.rpartition(" | ")[2].strip() for line in keys.run("audit").stdout.splitlines()]

    assert created["limits"] == {"requests": 100, "bytes": 2**20}
    assert more["limits"] == {"requests": 100, "bytes": 2**20, "concurrent": 0}
    assert "limits" not in none
    assert changes[1:] == [
        "limits: default",
        "limits: requests 100/s, bytes 1048576/s, concurrent 0",
        "limits: requests 100/s, bytes 1048576/s",
    ]


def test_tenancy_is_set_changed_listed_and_logged(keys: Keys) -> None:
    created = keys.create(
        "agent-a",
        *("--owner", "Team A <a@example.com>", "--label", "team=a", "--label", "env=prod"),
        *("--header", "X-Scope-OrgID=team-a"),
    )
    keys.create("agent-b", "--label", "team=b")
    keys.create("plain")
    one = ("--id", str(created["id"]))

    assert (created["owner"], created["labels"]) == (
        "Team A <a@example.com>",
        {"team": "a", "env": "prod"},
    )
    assert created["headers"] == {"X-Scope-OrgID": "team-a"}
    table = keys.run("list").stdout.splitlines()
    assert re.split(r" +\| +", table[0].strip())[-3:] == ["OWNER", "LABELS", "HEADERS"]
    assert "env=prod, team=a" in table[1]
    assert "X-Scope-OrgID=team-a" in table[1]

    def listed(*options: str) -> list[str]:
        return [key["name"] for key in keys.json("list", *options)["ingestion-api-keys"]]

    assert listed("--label", "team=a") == ["agent-a"]
    assert listed("--label", "team=a", "--label", "env=dev") == []
    assert listed("--owner", "Team A <a@example.com>") == ["agent-a"]
    assert listed("--owner", "nobody") == []

    rotated = keys.json("rotate", *one, "--overlap", "1h")["ingestion-api-key"]
    assert (rotated["labels"], rotated["headers"]) == (created["labels"], created["headers"])
    changed = keys.json(
        "update",
        *one,
        *("--owner", "", "--label", "env=", "--label", "team=c", "--header", "x-scope-orgid="),
    )["ingestion-api-key"]
    assert {"owner", "headers"}.isdisjoint(changed)
    assert changed["labels"] == {"team": "c"}
    lines = keys.run("audit", *one).stdout.splitlines()
    log = [line.rpartition(" | ")[2].strip() for line in lines]
    assert log[1] == "owner: -; labels: team=c; headers: -"
    assert log[3] == (
        "owner: Team A <a@example.com>; labels: env=prod, team=a; headers: X-Scope-OrgID=team-a"
    )


def test_the_table_of_keys_without_tenancy_is_the_sts_cli_s(keys: Keys) -> None:
    keys.create("plain")
    assert keys.run("list").stdout.splitlines()[0].rstrip().endswith("LAST USED")


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("create", "-n", "n", "--label", "team"), "--label: write NAME=VALUE, as in team=a"),
        (("create", "-n", "n", "--label", "team="), "the value of the label team is empty"),
        (("create", "-n", "n", "--label", "=a"), "the name of a label cannot be empty"),
        (("create", "-n", "n", "--label", "a=1", "--label", "a=2"), "one name is given twice"),
        (("create", "-n", "n", "--header", "X-Tenant"), "--header: write NAME=VALUE"),
        (("create", "-n", "n", "--header", "X-Tenant="), "the header X-Tenant has no value"),
        (
            ("create", "-n", "n", "--header", "X-T=1", "--header", "x_t=2"),
            "one name is given twice",
        ),
        (("create", "-n", "n", "--header", "Host=x"), "the header Host cannot be set by a key"),
        (("create", "-n", "n", "--owner", "a\x1b[2J"), "the owner contains line breaks or control"),
        (("update", "--id", "5", "--header", "te=x"), "the header te cannot be set by a key"),
        (("update", "--id", "5", "--label", "team"), "--label: write NAME=VALUE"),
        (("list", "--label", "team"), "a label to list by is written NAME=VALUE"),
        (("list", "--owner", ""), "the owner is empty"),
    ],
)
def test_each_tenancy_that_cannot_be_has_a_text_of_its_own(
    keys: Keys, arguments: tuple[str, ...], text: str
) -> None:
    keys.create("there")
    done = keys.run(*arguments)

    assert (done.returncode, done.stdout) == (1, "")
    assert text in done.stderr
    assert "\x1b" not in done.stderr
    assert keys.names() == ["there"]


def test_the_list_is_a_table_by_name(keys: Keys) -> None:
    plain = keys.create("my-ingestion-api-key")
    full = keys.create("agent-eu", "--description", "EU agents", "--expiration", "2099-12-31")

    assert keys.run("list").stdout.splitlines() == [
        "ID              | NAME                 | EXPIRATION | DESCRIPTION | LAST USED",
        f"{full['id']} | agent-eu             | 2099-12-31 | EU agents   | -        ",
        f"{plain['id']} | my-ingestion-api-key | -          | -           | -        ",
    ]


def test_wide_characters_keep_the_table_in_line(keys: Keys) -> None:
    keys.create("監視")

    head, row = keys.run("list").stdout.splitlines()
    assert head.split("|")[1] == " NAME "
    assert row.split("|")[1] == " 監視 "


def test_an_empty_store_says_so(keys: Keys) -> None:
    created = keys.create("n")
    keys.run("delete", "--id", str(created["id"]))

    done = keys.run("list")

    assert (done.returncode, done.stdout) == (0, "No ingestion api keys found.\n")
    assert keys.json("list") == {"ingestion-api-keys": []}


def test_a_deletion_is_confirmed_with_the_id(keys: Keys) -> None:
    first, second = keys.create("a"), keys.create("b")

    done = keys.run("delete", "-i", str(first["id"]))

    assert done.stdout == f"[SUCCESS] Ingestion Api Key deleted: {first['id']}\n"
    assert keys.json("delete", "--id", str(second["id"])) == {
        "deleted-ingestion-api-key": second["id"]
    }


def test_a_rotation_shows_the_new_key_and_the_end_of_the_old_one(keys: Keys) -> None:
    old = keys.create("agent-eu")

    done = keys.run("rotate", "--id", str(old["id"]), "--overlap", "24h")

    head, blank, end = done.stdout.splitlines()
    assert head.startswith("[SUCCESS] Ingestion API Key generated: iapikey-")
    assert blank == ""
    assert re.fullmatch(
        rf"Its id is \d{{15}}\. The old key {old['id']} works until [-\d]+ [:\d]+ UTC\.", end
    )
    assert keys.names() == ["agent-eu", "agent-eu"]


def test_a_rotation_says_when_the_new_key_expires(keys: Keys) -> None:
    old = keys.create("agent-eu")

    done = keys.run(
        "rotate", "--id", str(old["id"]), "--overlap", "24h", "--expiration", "2999-12-31"
    )

    assert done.stdout.endswith(" UTC. The new key expires on 2999-12-31.\n")


def test_the_rotation_of_an_expired_key_says_that_it_does_not_work(keys: Keys) -> None:
    old = keys.create("agent-eu")
    keys.json("rotate", "--id", str(old["id"]), "--overlap", "0s")

    done = keys.run("rotate", "--id", str(old["id"]), "--overlap", "24h")

    assert f"The old key {old['id']} has not worked since " in done.stdout


def test_the_list_tells_the_time_at_which_an_overlap_ends(keys: Keys) -> None:
    old = keys.create("agent-eu")
    rotated = keys.json("rotate", "--id", str(old["id"]), "--overlap", "1500ms")
    ends_ms = rotated["rotated-ingestion-api-key"]["expiration"]
    midnight = ends_ms % 86_400_000 == 0

    table = keys.run("list").stdout

    form = "%Y-%m-%d" if midnight else "%Y-%m-%d %H:%M:%S"
    assert f"| {datetime.fromtimestamp(ends_ms / 1000, UTC):{form}} |" in table


@pytest.mark.parametrize(
    "text", ["abc", "0", "-1", "9007199254740992", "1" * 5000, "\N{FULLWIDTH DIGIT ONE}"]
)
def test_what_is_no_id_is_told(keys: Keys, text: str) -> None:
    done = keys.run("delete", f"--id={text}")

    assert done.returncode == 1
    assert "an id is a number of up to 16 digits" in done.stderr


def test_a_rotation_has_json_of_both_keys(keys: Keys) -> None:
    old = keys.create("agent-eu")

    rotated = keys.json("rotate", "--id", str(old["id"]), "--overlap", "1h30m")

    ending = rotated["rotated-ingestion-api-key"]
    assert ending["id"] == old["id"]
    assert ending["expiration"] == ending["lastUpdateTimestamp"] + 5_400_000
    assert rotated["ingestion-api-key"]["apiKey"].startswith("iapikey-")


# What is refused, and how


@pytest.mark.parametrize(
    "arguments, code, text",
    [
        (("create",), 1, "--name"),
        (("create", "-n", ""), 1, "the name is empty"),
        (("create", "-n", "n", "--expiration", "tomorrow"), 1, "yyyy-MM-dd"),
        (("create", "-n", "n", "--expiration", "2020-05-22"), 2, "not in the future"),
        (("create", "-n", "n", "--key-file", "/nowhere"), 1, "cannot be read: No such file"),
        (("create", "-n", "n", "--no-such-option"), 1, "--no-such-option"),
        (("delete",), 1, "--id"),
        (("delete", "--id", "zero"), 1, "an id is a number"),
        (("delete", "--id", "0"), 1, "--id"),
        (("delete", "--id", "9007199254740992"), 1, "--id"),
        (("delete", "--id", "5"), 2, "no key with id 5"),
        (("rotate", "--id", "5"), 1, "--overlap"),
        (("rotate", "--id", "5", "--overlap", "24"), 1, "such as 250ms, 5s"),
        (("rotate", "--id", "5", "--overlap", "24h"), 2, "no key with id 5"),
        (("list", "--config", "gateway.yaml"), 1, "give only one of them"),
        (("frobnicate",), 1, "frobnicate"),
    ],
)
def test_each_mistake_has_its_exit_code_and_a_text_on_stderr(
    keys: Keys, arguments: tuple[str, ...], code: int, text: str
) -> None:
    keys.create("n")

    done = keys.run(*arguments)

    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("[ERROR] ")
    assert text in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("list",), ("delete", "--id", "5"), ("rotate", "--id", "5", "--overlap", "1h")],
)
def test_a_missing_store_is_unreachable_and_made_by_creating_only(
    keys: Keys, arguments: tuple[str, ...]
) -> None:
    done = keys.run(*arguments)

    assert done.returncode == 3
    assert f"{keys.store}: there is no key store" in done.stderr
    assert not keys.data.exists()


def test_a_file_that_is_no_store_is_bad_configuration_and_stays(keys: Keys) -> None:
    keys.data.mkdir()
    keys.store.write_text("precious")

    done = keys.run("create", "-n", "n")

    assert done.returncode == 1
    assert "this is no SQLite file" in done.stderr
    assert keys.store.read_text() == "precious"


def test_errors_are_json_where_json_was_asked_for(keys: Keys) -> None:
    keys.create("n")
    done = keys.run("delete", "--id", "5", "-o", "json")

    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr) == {
        "error": True,
        "error-message": "there is no key with id 5: `gateway keys list` shows all",
    }


# Adopting existing keys


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_key_from_standard_input_is_adopted_without_its_line_break(
    keys: Keys, ending: str
) -> None:
    done = keys.run("create", "-n", "old", "--key-file", "-", text=CANARY + ending)

    match = re.fullmatch(r"\[SUCCESS\] Ingestion API Key adopted: (\d+)\n", done.stdout)
    assert match is not None
    assert _digests(keys.store) == {digest_of(CANARY.encode()): int(match[1])}


def test_a_key_from_a_file_is_adopted(keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "receiver-key"
    file.write_text(CANARY + "\n")

    adopted = keys.create("old", "--key-file", str(file))

    assert "apiKey" not in adopted
    assert _digests(keys.store) == {digest_of(CANARY.encode()): adopted["id"]}


def _digests(store: Path) -> dict[bytes, int]:
    with closing(sqlite3.connect(store)) as connection:
        return dict(connection.execute("SELECT digest, id FROM gateway_keys"))


def test_an_adopted_key_cannot_be_adopted_again_even_when_deleted(keys: Keys) -> None:
    adopted = keys.create("old", "--key-file", "-", text=CANARY)
    key_id = str(adopted["id"])

    twice = keys.run("create", "-n", "again", "--key-file", "-", text=CANARY)
    keys.run("delete", "--id", key_id)
    revived = keys.run("create", "-n", "again", "--key-file", "-", text=CANARY)

    assert (twice.returncode, revived.returncode) == (2, 2)
    assert f"exists already with id {key_id}" in twice.stderr
    assert re.search(rf"id {key_id} and was deleted on \d{{4}}-\d\d-\d\d", revived.stderr)


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("create", "-n", "n", "--key-file", "-"), CANARY),
        (("create", "-n", "n", "--key-file", "-"), f"{CANARY} {CANARY}"),
        (("create", "-n", "n", "--key-file", "-"), f"{CANARY}\n{CANARY}\n"),
        (("create", "-n", "n", "--key-file", "-"), CANARY * 30),
        (("create", "-n", "n", "--key-file", CANARY), ""),
        (("create", "-n", CANARY, "--key-file", "-"), CANARY),
        (("create", "-n", "n", "--expiration", "2020-01-01", "--key-file", "-"), CANARY),
        (("hash",), CANARY),
        (("hash",), f"{CANARY} {CANARY}"),
    ],
)
@pytest.mark.parametrize("output", ["text", "json"])
def test_an_adopted_key_is_never_shown(
    keys: Keys, arguments: tuple[str, ...], text: str, output: str
) -> None:
    if arguments[0] == "hash":
        done = keys.gateway("keys", *arguments, "-o", output, text=text)
    else:
        keys.run("create", "-n", "first", "--key-file", "-", text=CANARY)
        done = keys.run(*arguments, "-o", output, text=text)

    assert done.stdout + done.stderr != ""
    assert CANARY not in done.stdout + done.stderr


def test_the_entry_of_a_file_store_holds_the_digest(gateway: Gateway) -> None:
    done = gateway(
        *("keys", "hash", "--name", "a: b", "--expiration", "2099-12-31"), text=CANARY + "\n"
    )

    assert done.returncode == 0
    assert re.fullmatch(
        r"- id: \d{15}\n"
        rf"  digest: sha256:{digest_of(CANARY.encode()).hex()}\n"
        r"  name: 'a: b'\n"
        r"  expiration: '2099-12-31'\n",
        done.stdout,
    )


# Which store


def test_the_store_is_the_configuration_s_first(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(f"keys:\n  stores: ['sqlite://{keys.store}']\n")
    created = keys.gateway("keys", "create", "-n", "by option", "--config", str(config))
    monkeypatch.setenv("GATEWAY_CONFIG", str(config))
    again = keys.gateway("keys", "create", "-n", "by variable")

    assert (created.returncode, again.returncode) == (0, 0)
    assert keys.names() == ["by option", "by variable"]


def test_without_a_configuration_the_store_is_in_the_state_folder(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    done = gateway("keys", "create", "-n", "n")

    assert done.returncode == 0
    assert (tmp_path / "otlp-gateway" / "keys.db").exists()


def test_a_faulty_configuration_is_reported_with_its_paths(
    gateway: Gateway, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("limits: {max_body: lots}\n")

    done = gateway("keys", "list", "--config", str(config))

    assert done.returncode == 1
    assert "limits.max_body" in done.stderr


# Beside a running gateway


def test_a_gateway_that_is_stuck_does_not_keep_json_from_being_json(keys: Keys) -> None:
    keys.create("m")
    with closing(LockFile(keys.store)):
        done = keys.run("create", "-n", "n", "-o", "json")

    assert json.loads(done.stdout)["ingestion-api-key"]["name"] == "n"
    assert "has not confirmed the change within 1 s" in done.stderr


def test_usage_that_cannot_be_read_costs_a_warning_not_the_list(keys: Keys) -> None:
    keys.create("n")
    (keys.data / "keys.db.usage").write_text("not a database")

    done = keys.run("list")

    assert done.returncode == 0
    assert "n " in done.stdout
    assert "[WARNING] when keys were last used cannot be read" in done.stderr


def test_two_stores_never_share_what_they_hold(keys: Keys, tmp_path: Path) -> None:
    other = Keys(tmp_path / "other", keys.gateway)
    keys.create("here")
    other.create("there")

    assert (keys.names(), other.names()) == (["here"], ["there"])
