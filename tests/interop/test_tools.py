"""The build of the programs: what it says when it cannot build, and that it builds once."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.interop.tools import build
from tests.support.process import running

FOLDER = Path(build.__file__).parent


@pytest.fixture(name="script")
def _script(tmp_path: Path) -> Path:
    """Return the script in a checkout of its own, where nothing is built yet."""
    folder = tmp_path / "tests" / "interop" / "tools"
    shutil.copytree(FOLDER, folder)
    return folder / "build.py"


async def run_script(script: Path, **environment: str) -> tuple[int, list[str], str]:
    env = {**os.environ, **environment}
    async with running([sys.executable, script], env=env) as program:
        code = await program.wait()
        return code, program.stdout, "\n".join(program.stderr)


def pretend_built(script: Path) -> Path:
    """Put programs where the script would build them."""
    folder = script.parents[3] / ".cache" / "tools" / build.version_hash() / "bin"
    folder.mkdir(parents=True)
    for tool in build.TOOLS:
        (folder / tool.name).write_text("#!/bin/sh\n")
        (folder / tool.name).chmod(0o755)
    return folder


async def test_nothing_is_built_again_while_the_pins_are_unchanged(script: Path) -> None:
    folder = pretend_built(script)
    code, stdout, _ = await run_script(script, GOPROXY="off")
    assert (code, stdout) == (0, [str(folder)])


async def test_programs_of_old_pins_are_removed(script: Path) -> None:
    folder = pretend_built(script)
    old = folder.parents[1] / "0123456789abcdef" / "bin"
    old.mkdir(parents=True)
    code, stdout, _ = await run_script(script, GOPROXY="off")
    assert (code, stdout) == (0, [str(folder)])
    assert [path for path in folder.parents[1].iterdir() if path.is_dir()] == [folder.parent]


@pytest.mark.usefixtures("go")
@pytest.mark.parametrize("pin", ["go.mod", "go.sum", "main.go"])
async def test_a_changed_pin_is_another_folder(script: Path, tmp_path: Path, pin: str) -> None:
    folder = pretend_built(script)
    with (script.parent / "otelcol" / pin).open("a") as file:
        file.write("// changed\n")
    code, _, _ = await run_script(script, GOPROXY="off", GOMODCACHE=str(tmp_path / "modules"))
    assert code == 1
    assert len(list(folder.parents[1].glob("*/bin"))) == 2


@pytest.mark.parametrize(
    "required, outcome", [("0", "1 skipped"), ("1", "1 error"), ("", "1 skipped")]
)
async def test_a_missing_program_skips_a_test_or_fails_it_where_it_is_required(
    tmp_path: Path, required: str, outcome: str
) -> None:
    one_test = Path(__file__).with_name("test_metrics.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no"]
    command += [str(one_test), "-k", "does_complain"]
    env = {**os.environ, "REQUIRE_TOOLS": required, "OTLP_GATEWAY_TOOLS": str(tmp_path)}
    async with running(command, env=env) as program:
        await program.wait()
    assert outcome in program.stdout[-1].replace("1 failed", "1 error")
    assert "promtool is not here: run `make interop`" in program.output


@pytest.mark.parametrize("required, code", [("0", 0), ("1", 1)])
async def test_a_missing_language_leaves_its_program_out_or_is_an_error_where_it_is_required(
    script: Path, tmp_path: Path, required: str, code: int
) -> None:
    folder = pretend_built(script)
    (folder / "exporter-node").unlink()
    ended, stdout, stderr = await run_script(script, PATH=str(tmp_path), REQUIRE_TOOLS=required)
    assert ended == code
    assert "install Node 20 or newer" in "\n".join([*stdout, stderr])


async def test_a_program_that_nobody_knows_is_an_error(script: Path) -> None:
    pretend_built(script)
    async with running([sys.executable, script, "otelcool"]) as program:
        assert await program.wait() == 1
        assert "there is no otelcool here" in program.output


def test_what_maven_fetches_must_be_what_is_pinned(tmp_path: Path) -> None:
    (java,) = (tool for tool in build.TOOLS if tool.language == "java")
    (tmp_path / "okhttp.jar").write_bytes(b"something else")
    with pytest.raises(build.BuildError, match=r"is not what jars\.sha256 names"):
        build._check_jars(java, tmp_path)


@pytest.mark.usefixtures("go")
async def test_switched_off_downloads_are_explained(script: Path, tmp_path: Path) -> None:
    modules = str(tmp_path / "modules")
    code, _, stderr = await run_script(script, GOPROXY="off", GOMODCACHE=modules)
    assert code == 1
    assert "otelcol could not be built" in stderr
    assert "unset GOPROXY" in stderr


def test_a_missing_go_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "GO_HOME", str(tmp_path))
    with pytest.raises(build.BuildError, match=r"Install Go 1\.26 or newer"):
        build.find_go(str(tmp_path))


@pytest.mark.parametrize(
    "stderr, advice",
    [
        ("dial tcp 192.0.2.1:443: i/o timeout", "could not be reached"),
        ("go: go.mod requires go >= 1.26.0 (running go 1.20)", "too old"),
        ("verifying module: checksum mismatch", "go mod tidy"),
        ("main.go:8:2: module lookup disabled by GOPROXY=off", "unset GOPROXY"),
        ("main.go:9: undefined: x", "Run `go build`"),
    ],
)
def test_go_faults_come_with_what_to_do(stderr: str, advice: str) -> None:
    text = build.explain(build.TOOLS[0], stderr)
    assert stderr in text
    assert advice in text
