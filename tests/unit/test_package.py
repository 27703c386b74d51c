"""What makes the project a package that can be published: licence, metadata, scripts, image."""

from __future__ import annotations

import hashlib
import re
import runpy
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tools.release_notes import ReleaseError, notes

PROJECT: Final = Path(__file__).parents[2]
DECLARED: Final = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
SETUP: Final = runpy.run_path(str(PROJECT / "setup.py"), run_name="setup")
ADDRESS: Final = "https://git.example.com/telemetry/otlp-gateway"
APACHE_2: Final = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the licence's standard text."""


def test_the_licence_is_the_standard_text() -> None:
    assert hashlib.sha256((PROJECT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
    assert DECLARED["license"] == "Apache-2.0"
    assert DECLARED["license-files"] == ["LICENSE", "NOTICE"]
    assert (PROJECT / "NOTICE").read_text().startswith("otlp-gateway\nCopyright ")


def test_the_package_says_who_and_what_it_is() -> None:
    assert DECLARED["authors"] == [{"name": "The otlp-gateway authors"}]
    assert {"opentelemetry", "otlp", "stackstate"} <= set(DECLARED["keywords"])
    assert "Typing :: Typed" in DECLARED["classifiers"]
    assert not [each for each in DECLARED["classifiers"] if each.startswith("License ::")]


def test_both_scripts_and_the_module_are_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(DECLARED["scripts"]) == {"gateway", "otlp-gateway"}
    assert len(set(DECLARED["scripts"].values())) == 1
    monkeypatch.setattr(sys, "argv", ["gateway", "version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("gateway", run_name="__main__", alter_sys=True)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"gateway {DECLARED['version']} ")


def _links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]*)\)", text)


def test_a_package_without_an_address_has_no_link_that_leads_nowhere() -> None:
    original = (PROJECT / "README.md").read_text(encoding="utf-8")
    shown = SETUP["readme"](None)
    assert [link for link in _links(shown) if not link.startswith("https://")] == []
    assert "[keys]" in original
    assert "[keys]" not in shown
    assert "![" in original
    assert not re.search(r"!\[|^!", shown, re.MULTILINE)
    assert SETUP["urls"](None) == {}


def test_links_of_a_package_lead_to_the_version_in_its_repository() -> None:
    base = f"{ADDRESS}/blob/v{DECLARED['version']}/"
    for link in _links(SETUP["readme"](ADDRESS)):
        if link.startswith(base):
            assert (PROJECT / link.removeprefix(base).partition("#")[0]).exists(), link
        else:
            assert link.startswith(("https://", "#")), link
    found = SETUP["urls"](ADDRESS)
    assert set(found) == {"Source", "Documentation", "Changelog", "Issues", "Security"}
    assert all(url.startswith(ADDRESS) for url in found.values())


def test_pictures_of_a_package_are_the_files_themselves() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", SETUP["readme"](ADDRESS))
    assert pictures
    for link in pictures:
        path = link.removeprefix(f"{ADDRESS}/raw/v{DECLARED['version']}/")
        assert (PROJECT / path).is_file(), link


def test_what_is_shipped_exists() -> None:
    assert [name for name in SETUP["SHIPPED"] if not (PROJECT / name).is_file()] == []


# The image


def _stages() -> list[str]:
    text = (PROJECT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]


def _copied() -> list[str]:
    """List the files of the checkout that the image is made from."""
    found: list[str] = []
    for line in re.findall(r"^COPY (?!--from)(.*)$", "\n".join(_stages()), re.MULTILINE):
        found += line.split()[:-1]
    return found


def test_docker_sees_every_file_that_the_image_is_made_from() -> None:
    rules = (PROJECT / ".dockerignore").read_text(encoding="utf-8").split()
    let_through = [rule[1:] for rule in rules if rule.startswith("!")]
    assert rules[0] == "*"
    for name in _copied():
        assert (PROJECT / name).exists(), name
        assert any(fnmatch(name, rule) for rule in let_through), f".dockerignore hides {name}"


def test_the_image_is_made_from_all_that_the_package_needs() -> None:
    needed = {"pyproject.toml", "setup.py", "README.md", "gateway", *DECLARED["license-files"]}
    assert needed | set(SETUP["SHIPPED"]) <= set(_copied())


def test_the_image_says_what_it_is_and_has_nothing_to_build_with() -> None:
    build, last = _stages()
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", last))
    assert labels >= {
        "title",
        "description",
        "licenses",
        "version",
        "revision",
        "source",
        "created",
    }
    assert f"ARG VERSION={DECLARED['version']}" in last
    assert "gcc" in build
    assert not re.search(r"gcc|apt-get|pip install", last)
    assert "pip uninstall --yes --root-user-action=ignore setuptools wheel pip" in last


# Releases


def _steps() -> list[dict[str, Any]]:
    read = yaml.safe_load((PROJECT / ".github" / "workflows" / "release.yml").read_text())
    steps: list[dict[str, Any]] = read["jobs"]["build"]["steps"]
    return steps


def test_a_release_runs_what_exists() -> None:
    made = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    commands = "\n".join(step.get("run", "") for step in _steps())
    assert set(re.findall(r"\bmake ([a-z]+)", commands)) <= made
    for script in re.findall(r"tools/\w+\.py|\.ci/run", commands):
        assert (PROJECT / script).exists()


def test_a_release_is_checked_and_attested_before_it_is_published() -> None:
    names = [step["name"] for step in _steps()]
    assert names.index("Check") < names.index("Provenance") < names.index("Release")
    assert {step["uses"].partition("/")[0] for step in _steps() if "uses" in step} == {"actions"}


ENTRY: Final = """# Changelog

## [1.2.0] - 2027-01-31

### Added
- A thing.

## [1.1.0] - 2026-01-01
- Old.
"""


def test_the_notes_of_a_release_are_its_entry_of_the_changelog() -> None:
    assert notes("v1.2.0", "1.2.0", ENTRY) == "### Added\n- A thing.\n"
    assert notes("v1.1.0", "1.1.0", ENTRY) == "- Old.\n"


@pytest.mark.parametrize(
    "tag, version, expected",
    [
        ("v1.3.0", "1.2.0", "the tag must be v1.2.0"),
        ("1.2.0", "1.2.0", "the tag must be v1.2.0"),
        ("v1.3.0", "1.3.0", r"write '## \[1.3.0\] - YYYY-MM-DD'"),
        ("v1x2.0", "1x2.0", "CHANGELOG.md has no entry"),
    ],
)
def test_a_release_that_does_not_agree_with_itself_is_refused(
    tag: str, version: str, expected: str
) -> None:
    with pytest.raises(ReleaseError, match=expected):
        notes(tag, version, ENTRY)
