"""`gateway keys import | export | show | find | revoke`, in this process."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.cells import cell_len

from gateway.cli.keys import stored_keys
from gateway.cli.keys.listing import fitted
from gateway.keys.stores.sql_repository import SqlRepository
from gateway.model import digest_of
from tests.unit.test_cli_keys import Keys, _gateway, keys  # noqa: F401 - fixtures

PLAIN = "an-old-key-canary"
DIGEST = digest_of(b"another-key").hex()
ENTRIES: list[dict[str, Any]] = [
    {
        "id": 7,
        "digest": f"sha256:{DIGEST}",
        "name": "agent-eu",
        "description": "EU, agents",
        "expiration": "2099-12-31",
        "enabled": False,
        "signals": ["logs", "traces"],
        "limits": {"requests": 100, "bytes": 0},
        "owner": "Team A",
        "labels": {"env": "prod", "team": "a"},
        "headers": {"X-Scope-OrgID": "team-a"},
    },
    {"key": PLAIN, "name": "agent-us"},
]
CSV = (
    "key,digest,id,name,description,expiration,enabled,signals,limit_requests,limit_bytes,owner,"
    "labels,headers\n"
    f',sha256:{DIGEST},7,agent-eu,"EU, agents",2099-12-31,false,logs traces,100,0,Team A,'
    "env=prod; team=a,X-Scope-OrgID=team-a\n"
    f"{PLAIN},,,agent-us,,,,,,,,,\n"
)
FORMS = {
    "keys.csv": CSV,
    "keys.yaml": yaml.safe_dump(ENTRIES),
    "keys.jsonl": "".join(f"{json.dumps(entry)}\n" for entry in ENTRIES),
}


@pytest.fixture(name="at")
def _at(keys: Keys) -> Keys:  # noqa: F811 - the fixture
    return keys


def write(folder: Path, name: str, text: str) -> str:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return str(file)


def listed(at: Keys) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = at.json("list")["ingestion-api-keys"]
    return found


@pytest.mark.parametrize("name", FORMS)
def test_each_format_says_the_same_and_again_changes_nothing(
    at: Keys, tmp_path: Path, name: str
) -> None:
    file = write(tmp_path, name, FORMS[name])

    dry = at.run("import", file, "--dry-run")
    assert dry.returncode == 3, "there is no store yet, and a dry run makes none"
    at.create("there")
    dry = at.run("import", file, "--dry-run")
    assert dry.stdout == "[SUCCESS] 2 keys would be imported, 0 are there already\n"
    assert at.names() == ["there"]
    done = at.run("import", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[SUCCESS] 2 keys imported, 0 are there already\n"
    again = at.json("import", file)
    assert again == {"import": {"imported": 0, "existing": 2, "deleted": 0, "dryRun": False}}

    eu, us, _ = listed(at)
    assert eu.pop("lastUpdateTimestamp")
    assert eu == {
        "id": 7,
        "name": "agent-eu",
        "description": "EU, agents",
        "expiration": 4102358400000,
        "enabled": False,
        "signals": ["logs", "traces"],
        "limits": {"requests": 100, "bytes": 0},
        "owner": "Team A",
        "labels": {"env": "prod", "team": "a"},
        "headers": {"X-Scope-OrgID": "team-a"},
    }
    assert us["name"] == "agent-us"
    assert at.json("find", "--key-file", "-", text=PLAIN)["ingestion-api-key"] == us
    log = at.json("audit")["ingestion-api-key-changes"]
    assert [entry["action"] for entry in log] == ["adopt", "adopt", "create"]
    assert len({entry["id"] for entry in log}) == 3
    assert PLAIN.encode() not in at.store.read_bytes()


@pytest.mark.parametrize("form", ["yaml", "csv", "jsonl"])
def test_what_is_exported_can_be_imported_and_is_no_key(
    at: Keys, tmp_path: Path, form: str
) -> None:
    at.run("import", write(tmp_path, "keys.yaml", FORMS["keys.yaml"]))
    created = at.create("issued")
    at.run("rotate", "--id", str(created["id"]), "--overlap", "90m")
    at.run("delete", "--id", str(at.create("deleted")["id"]))
    file = tmp_path / f"out.{form}"
    assert at.run("export", "--file", str(file)).returncode == 0
    text = file.read_text()
    assert at.run("export", "--format", form).stdout == text

    assert "iapikey-" not in text
    assert PLAIN not in text
    other = Keys(tmp_path / "other", at.gateway)
    assert other.run("import", str(file)).returncode == 0

    def told(keys_of: Keys) -> list[dict[str, Any]]:
        found = [{**key, "lastUpdateTimestamp": 0} for key in listed(keys_of)]
        return sorted(found, key=lambda key: str(key["id"]))

    assert told(other) == told(at)
    assert len(told(other)) == 4


def test_all_errors_are_told_with_their_lines_and_nothing_is_stored(
    at: Keys, tmp_path: Path
) -> None:
    at.create("there")
    text = (
        f"key,name,expiration,labels,headers,enabled\n{PLAIN},good,,,,\n"
        "b,,2001-01-01,,,\n"
        "c,,,team,,\n"
        "d,,,,te=x,\n"
        "e,,,,,perhaps\n"
        "f,too,many,columns,are,here,now\n"
        f"{PLAIN},twin,,,,\n"
        '"x y",,,,,\n'
    )
    done = at.run("import", write(tmp_path, "keys.csv", text))

    assert (done.returncode, done.stdout) == (1, "")
    told = done.stderr.removeprefix("[ERROR] ").splitlines()
    expected = {
        3: "the expiration 2001-01-01 is not in the future",
        4: "labels and headers are written name=value",
        5: "the header te cannot be set by a key",
        6: "enabled is neither true nor false",
        7: "it has 7 columns, the first line has 6",
        8: "it is the same key as in line 2",
        9: "a space",
    }
    assert [line.partition(": ")[0] for line in told] == [f"line {line}" for line in expected]
    for line, message in zip(told, expected.values(), strict=True):
        assert message in line
    assert PLAIN not in done.stderr
    assert at.names() == ["there"]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("keys.csv", "key,nmae\nb,c\n", "line 1: unknown column 'nmae'"),
        ("keys.csv", 'key,name\n"b,c\n', "it is no CSV"),
        ("keys.yaml", "- {key: a}\n- [\n", "it is no YAML in line"),
        ("keys.yaml", "key: a\n", "it is no list"),
        ("keys.yaml", "- {key: a}\n\n- {key: b, nme: x}\n", "line 3: unknown member 'nme'"),
        ("keys.yaml", "- {key: a, id: !!int x}\n", "line 1: a value in it is none of its type"),
        ("keys.jsonl", '{"key": "a"}\n\n{"key": \n', "line 3: it is no JSON"),
        ("keys.jsonl", '["a"]\n', "line 1: it is no mapping"),
        ("keys.txt", "", "give --format yaml, csv or jsonl"),
        ("keys.yaml", "- {key: 'a\x1b[2J'}\n", "it is no YAML"),
    ],
)
def test_each_file_that_cannot_be_is_told(
    at: Keys, tmp_path: Path, name: str, text: str, message: str
) -> None:
    done = at.run("import", write(tmp_path, name, text))
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "\x1b" not in done.stderr


def test_an_id_of_another_key_and_a_missing_file_are_told(at: Keys, tmp_path: Path) -> None:
    other = at.create("there")
    text = f"- {{key: a}}\n- {{key: b, id: {other['id']}}}\n"
    done = at.run("import", write(tmp_path, "keys.yaml", text))
    assert "line 2: the id" in done.stderr
    assert at.names() == ["there"]
    assert "the file cannot be read" in at.run("import", str(tmp_path / "no.yaml")).stderr


def test_an_import_that_was_interrupted_goes_on_where_it_was(
    at: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is whole or not there at all."""
    monkeypatch.setattr(stored_keys, "BATCH", 10)
    text = "".join(f"- {{key: key-{number}, name: n{number}}}\n" for number in range(35))
    file = write(tmp_path, "keys.yaml", text)
    whole = SqlRepository.add_all
    calls = 0

    async def break_off(repository: SqlRepository, *given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return await whole(repository, *given)

    monkeypatch.setattr(SqlRepository, "add_all", break_off)
    assert at.run("import", file).returncode != 0
    assert len(at.names()) == 20
    again = at.json("import", file)["import"]
    assert (again["imported"], again["existing"]) == (15, 20)
    assert len(at.names()) == 35


def test_a_deleted_key_is_not_brought_back(at: Keys, tmp_path: Path) -> None:
    file = write(tmp_path, "keys.yaml", f"- {{key: {PLAIN}, id: 9}}\n- {{key: b}}\n")
    at.run("import", file)
    revoked = at.run("revoke", "--key-file", "-", text=f"{PLAIN}\n")
    assert revoked.stdout == "[SUCCESS] Ingestion Api Key deleted: 9 (key-1)\n"
    done = at.run("import", file)

    assert done.returncode == 0
    assert "1 of the keys were deleted here before" in done.stderr
    assert len(at.names()) == 1
    again = at.run("revoke", "--key-file", "-", text=PLAIN)
    assert (again.returncode, again.stdout) == (2, "")
    assert "already deleted" in again.stderr


def test_a_key_that_is_nobody_s_is_told_and_not_shown(at: Keys) -> None:
    at.create("there")
    for command in ("find", "revoke"):
        done = at.run(command, "--key-file", "-", text=PLAIN)
        assert (done.returncode, done.stdout) == (2, "")
        assert "no key of this store is this one" in done.stderr
        assert PLAIN not in done.stderr


def test_a_key_is_shown_with_all_that_is_known(at: Keys, tmp_path: Path) -> None:
    at.run("import", write(tmp_path, "keys.yaml", FORMS["keys.yaml"]))
    lines = at.run("show", "--id", "7").stdout.splitlines()
    shown = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    assert shown["Name"] == "agent-eu"
    assert shown["Enabled"] == "no"
    assert shown["Signals"] == "logs,traces"
    assert shown["Limits"] == "requests 100/s, bytes 0/s"
    assert shown["Labels"] == "env=prod, team=a"
    assert shown["Headers"] == "X-Scope-OrgID=team-a"
    assert shown["Expiration"] == "2099-12-31 UTC"
    assert at.json("show", "--id", "7")["ingestion-api-key"]["owner"] == "Team A"
    missing = at.run("show", "--id", "8")
    assert (missing.returncode, missing.stdout) == (2, "")


def test_ten_thousand_keys_make_ten_thousand_revisions(at: Keys, tmp_path: Path) -> None:
    lines = [f"sha256:{digest_of(b'%d' % n).hex()},n{n}" for n in range(10_000)]
    file = write(tmp_path, "keys.csv", "digest,name\n" + "\n".join(lines))
    assert at.json("import", file)["import"]["imported"] == 10_000
    with closing(sqlite3.connect(at.store)) as connection:
        (revision,) = connection.execute("SELECT revision FROM gateway_key_store").fetchone()
        distinct = connection.execute("SELECT count(DISTINCT revision) FROM gateway_keys")
        assert (revision, distinct.fetchone()[0]) == (10_000, 10_000)


def test_the_list_is_chosen_and_sorted(at: Keys, tmp_path: Path) -> None:
    text = (
        "key,name,description,expiration,enabled,owner\n"
        "a,Alpha,first,2099-12-31,,zoe\nb,beta,,2098-12-31,,adam\nc,gamma,ALPHA,,false,\n"
    )
    at.run("import", write(tmp_path, "keys.csv", text))
    at.run("rotate", "--id", str(listed(at)[1]["id"]), "--overlap", "0s")

    def names(*options: str) -> list[str]:
        return [key["name"] for key in at.json("list", *options)["ingestion-api-keys"]]

    assert names() == ["Alpha", "beta", "beta", "gamma"]
    assert names("--status", "disabled") == ["gamma"]
    assert names("--status", "expired") == ["beta"]
    assert names("--status", "active", "--sort", "owner") == ["beta", "Alpha"]
    assert names("--search", "alpha") == ["Alpha", "gamma"]
    assert names("--sort", "expiration")[:2] == ["beta", "beta"]
    assert names("--sort", "owner")[-1] == "gamma"
    wrong = at.run("list", "--sort", "size")
    assert wrong.returncode == 1
    assert "--sort" in wrong.stderr


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_on_a_terminal_fits_it_and_controls_nothing(width: int) -> None:
    rows = [
        ("ID", "NAME", "OWNER", "LABELS"),
        ("250558013078953", "agent \x1b[2J" + "x" * 60, "-", "team=a, env=[bold]prod"),
        ("350558013078953", "名前" * 20, "-", "-"),
    ]
    lines = fitted(rows, width)
    text = "".join(lines)

    assert max(map(cell_len, lines)) <= width
    assert "OWNER" not in lines[0]
    assert "\x1b" not in text
    assert "250558013078953" in text
    assert width < 80 or "env=[bold]prod" in text
