"""Fetching programs from Debian's packages, with a scripted apt-get and dpkg-deb."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools import debian

APT_GET = 'test "$1 $2" = "download nginx" && touch nginx_1%3a1.22.1-9_amd64.deb'
DPKG_DEB = """
case $1 in
--field) echo 1:1.22.1-9;;
--extract) mkdir -p "$3/usr/sbin" && cp "$0" "$3/usr/sbin/nginx";;
esac
"""


@dataclass(frozen=True)
class Checkout:
    """A checkout where nothing is fetched yet, and the folder of the only commands on PATH."""

    script: Path
    commands: Path

    @property
    def cache(self) -> Path:
        return self.script.parents[1] / ".cache" / "debian"

    @property
    def nginx(self) -> Path:
        return self.cache / "nginx" / "usr" / "sbin" / "nginx"

    def put(self, name: str, lines: str) -> Path:
        command = self.commands / name
        command.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{lines}\n")
        command.chmod(0o755)
        return command

    def fetch(self, *programs: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, self.script, *programs],
            env={"PATH": str(self.commands), **environment},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(name="checkout")
def a_checkout(tmp_path: Path) -> Checkout:
    (tmp_path / "tools").mkdir()
    (tmp_path / "commands").mkdir()
    script = shutil.copy(debian.__file__, tmp_path / "tools" / "debian.py")
    return Checkout(Path(script), tmp_path / "commands")


def test_a_package_is_downloaded_and_unpacked_once(checkout: Checkout) -> None:
    apt_get = checkout.put("apt-get", APT_GET)
    checkout.put("dpkg-deb", DPKG_DEB)

    assert checkout.fetch("nginx").stdout == "nginx: fetching the package\n"
    assert os.access(checkout.nginx, os.X_OK)
    assert [each.name for each in checkout.cache.iterdir()] == ["nginx"]

    apt_get.unlink()
    again = checkout.fetch("nginx")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_libraries_that_are_missing_here_come_with_it(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.put("apt-get", 'echo "$2" >> "$0.log" && touch "$2_1_amd64.deb"')
    checkout.put(
        "dpkg-deb",
        """
case $1:$3 in
--field:Version) echo 1.22;;
--field:Depends) echo 'libhere (>= 1), libfar (>= 1) | libother, adduser';;
--extract:*) mkdir -p "$3/usr/sbin" "$3/usr/lib/s390x-linux-gnu" && cp "$0" "$3/usr/sbin/nginx" &&
    touch "$3/usr/lib/s390x-linux-gnu/libfar.so.1";;
esac
""",
    )
    checkout.put("dpkg-query", 'test "$3" = libhere && printf installed')

    done = checkout.fetch("nginx")
    monkeypatch.setattr(debian, "CACHE", checkout.cache)

    assert (done.returncode, done.stderr) == (0, "")
    assert (checkout.commands / "apt-get.log").read_text().split() == ["nginx", "libfar"]
    libraries = checkout.cache / "nginx" / "usr" / "lib" / "s390x-linux-gnu"
    assert debian.environment(checkout.nginx) == {"LD_LIBRARY_PATH": str(libraries)}
    assert debian.environment(Path("/opt/nginx")) == {}


def test_where_a_program_comes_from_is_known(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.put("apt-get", APT_GET)
    checkout.put("dpkg-deb", DPKG_DEB)
    checkout.fetch("nginx")
    monkeypatch.setattr(debian, "CACHE", checkout.cache)

    assert debian.origin(checkout.nginx).endswith("'s package nginx 1:1.22.1-9")
    assert debian.origin(Path("/opt/nginx")) == "/opt/nginx"


@pytest.mark.parametrize(
    "apt_get, dpkg_deb, reason",
    [
        (None, None, "apt-get is missing"),
        ("echo 'E: Permission denied' >&2; exit 100", None, "E: Permission denied\nRun `apt-get "),
        (APT_GET, None, "dpkg-deb is missing"),
        (APT_GET, DPKG_DEB.replace("cp", "false"), "The download is damaged"),
        (APT_GET, DPKG_DEB.replace("sbin", "bin"), "nginx 1:1.22.1-9 has no usr/sbin/nginx"),
    ],
)
def test_what_cannot_be_fetched_is_explained_and_leaves_nothing(
    checkout: Checkout, apt_get: str | None, dpkg_deb: str | None, reason: str
) -> None:
    for name, lines in (("apt-get", apt_get), ("dpkg-deb", dpkg_deb)):
        if lines is not None:
            checkout.put(name, lines)

    done = checkout.fetch("nginx")

    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.endswith("\nOr install nginx yourself and set NGINX to its path\n")
    assert list(checkout.cache.iterdir()) == []


def test_a_failed_fetch_keeps_what_was_there(checkout: Checkout) -> None:
    checkout.put("apt-get", APT_GET)
    checkout.put("dpkg-deb", DPKG_DEB)
    checkout.fetch("nginx")
    checkout.nginx.chmod(0o644)  # fetched again
    checkout.put("dpkg-deb", "exit 1")

    assert checkout.fetch("nginx").returncode == 1
    assert checkout.nginx.exists()


def test_a_program_of_ones_own_is_used_instead(checkout: Checkout) -> None:
    own = checkout.put("my-nginx", "")

    done = checkout.fetch("nginx", NGINX=str(own))

    assert (done.returncode, done.stdout) == (0, "")
    assert not checkout.cache.exists()


@pytest.mark.parametrize("given", ["/not/there", "my-nginx", "/"])
def test_what_cannot_be_run_is_not_used(checkout: Checkout, given: str) -> None:
    checkout.put("my-nginx", "")

    done = checkout.fetch("nginx", NGINX=given)

    assert done.returncode == 1
    assert f"NGINX={given}: this is not the absolute path of a program" in done.stderr


def test_a_program_on_path_will_do_unless_it_is_measured(checkout: Checkout) -> None:
    checkout.put("prometheus", "")
    checkout.put("nginx", "")

    assert checkout.fetch("prometheus").returncode == 0
    assert "apt-get is missing" in checkout.fetch("nginx").stderr


def test_an_unknown_program_is_named(checkout: Checkout) -> None:
    assert "caddy: not one of nginx, prometheus" in checkout.fetch("caddy").stderr
