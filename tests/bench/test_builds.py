"""Which programs the bench measures: the build of nginx, other gateways."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import cpu, haproxy, nginx
from bench.backend import Backend, Loader
from bench.process import ProgramError
from bench.proxies import Gateway, Proxy, command_path
from bench.rounds import Bench
from bench.rows import Row
from bench.running import Running
from tests.bench.conftest import need_nginx

PACKAGED = """nginx version: nginx/1.22.1
built with OpenSSL 3.0.15 3 Sep 2024
TLS SNI support enabled
configure arguments: --with-cc-opt='-g -O2 -ffile-prefix-map=/build/nginx=. -Wformat -fPIC' \
--with-ld-opt='-Wl,-z,relro' --prefix=/usr/share/nginx --with-debug --with-http_v2_module
"""
FOR_SIZE = """nginx version: nginx/1.31.3
built by gcc 14.2.0 (Alpine 14.2.0)
configure arguments: --prefix=. --with-cc-opt='-Os -fomit-frame-pointer -pipe'
"""
BY_HAND = "nginx version: freenginx/1.27.1 (mine)\nconfigure arguments:\n"


@pytest.mark.parametrize(
    "text, origin, title, details",
    [
        (
            PACKAGED,
            "Debian's package nginx 1.22.1-9+deb12u11",
            "nginx 1.22.1, Debian's package",
            "nginx 1.22.1-9+deb12u11, compiled with -O2 -fPIC --with-debug",
        ),
        (
            FOR_SIZE,
            "/opt/nginx",
            "nginx 1.31.3, /opt/nginx",
            "/opt/nginx, compiled with -Os -fomit-frame-pointer",
        ),
        (BY_HAND, "/opt/nginx", "nginx 1.27.1, /opt/nginx", "/opt/nginx, compiled with -O"),
    ],
)
def test_a_build_of_nginx_is_named_with_what_decides_its_speed(
    text: str, origin: str, title: str, details: str
) -> None:
    build = nginx.parse_build(text, origin)

    assert (build.title, build.details) == (title, details)


HAPROXY = """HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/
Build options :
  CFLAGS  = -O2 -g -O2 -fstack-protector-strong -Wformat -D_FORTIFY_SOURCE=2 -Wall -fwrapv
"""


def test_a_build_of_haproxy_is_named_with_what_decides_its_speed() -> None:
    build = haproxy.parse_build(HAPROXY, "Debian's package haproxy 2.6.12-1+deb12u4")

    assert build.title == "HAProxy 2.6.12, Debian's package"
    flags = "-O2 -fstack-protector-strong -D_FORTIFY_SOURCE=2 -fwrapv"
    assert build.details == f"haproxy 2.6.12-1+deb12u4, compiled with {flags}"
    with pytest.raises(ProgramError, match="/bin/true is no HAProxy"):
        haproxy.parse_build("hello", "/bin/true")


def test_what_is_no_nginx_is_refused() -> None:
    with pytest.raises(ProgramError, match=r"/bin/true is no nginx: `-V` prints 'hello'"):
        nginx.parse_build("hello\n", "/bin/true")


def program(folder: Path, lines: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return str(path)


def test_an_nginx_that_lacks_a_library_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = program(tmp_path, "echo 'libpcre2-8.so.0: cannot open shared object' >&2; exit 127")
    monkeypatch.setenv("NGINX", broken)

    with pytest.raises(ProgramError, match=r"(?s)libpcre2-8\.so\.0.*apt-get install nginx"):
        nginx.build_of(nginx.program())


def test_a_bench_without_its_nginx_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NGINX", raising=False)
    monkeypatch.setattr("tools.debian.CACHE", tmp_path)
    with pytest.raises(ProgramError, match=r"python3 tools/debian\.py nginx.*set NGINX"):
        nginx.program()

    monkeypatch.setenv("NGINX", "/not/there")
    with pytest.raises(ProgramError, match="NGINX=/not/there"):
        nginx.program()


def test_the_nginx_that_is_fetched_names_its_package_and_flags() -> None:
    need_nginx()
    build = nginx.build_of(nginx.program())

    assert build.title.startswith("nginx 1.")
    assert "compiled with -O" in build.details


def test_another_gateway_is_measured_by_its_command(
    tmp_path: Path, start: Callable[[Proxy], Running], backend: Backend
) -> None:
    other = program(tmp_path, f'exec {command_path("gateway")} "$@"')

    running = start(Gateway(key_count=20, name="before", command=other))

    assert running.build is not None
    assert str(running.build).endswith(f": {other}")
    row = Row("a row", "grpc", "small", connections=1, streams=1, requests=20)
    loader = Loader(None)
    try:
        assert Bench(backend, loader).measure(running, row, 20).cpu_us > 0
    finally:
        loader.stop()


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["--beside=/not/there"], "cannot run /not/there"),
        (["--beside=before=/not/there"], "cannot run /not/there"),
        ([f"--beside={sys.executable}", "--beside=/b"], "more than one proxy is called other"),
        (["--beside=gateway=/b", "--proxy=gateway"], "more than one proxy is called gateway"),
        (["--beside=/bin/false"], "`/bin/false --version` fails"),
    ],
)
def test_another_gateway_that_cannot_be_measured_is_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    only = ["--proxy=grpc-aio", "--row=grpc-small", "--requests=64", "--rounds=1", "--no-memory"]
    assert cpu.main([*only, *arguments]) == 2
    assert reason in capsys.readouterr().err
