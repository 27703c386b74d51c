"""Compiles the data path with mypyc, and adds to the package what depends on where it is built.

Everything else about the package is in pyproject.toml. The variable GATEWAY_REPOSITORY names the
repository's address, for the package's links; without it the README's links become plain text,
because they would lead nowhere where packages are shown.

Without a C compiler and Python's headers, or with GATEWAY_PURE_PYTHON=1, the package is built from
the same sources as plain Python, and one line says so.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import sys
import sysconfig
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT: Final = Path(__file__).parent
PACKAGE: Final = ROOT / "gateway"
PURE_PYTHON: Final = "GATEWAY_PURE_PYTHON"
REPOSITORY: Final = "GATEWAY_REPOSITORY"
SHIPPED: Final = ("deploy/alerts.yaml", "deploy/dashboard.json", "deploy/gateway.schema.json")
"""Files that an installed gateway has in `gateway/shipped`; a checkout has them in `deploy`."""

SHARE: Final = "deploy/share"
"""Files for other programs (man, shells), which an installation has in its own `share`."""

COMPILED: Final = (
    "gateway/outcome.py",
    "gateway/wire",
    "gateway/dataplane/accept/tls_records.py",
    "gateway/dataplane/accept/tls_session.py",
    "gateway/dataplane/accept/tls_shared.py",
    "gateway/dataplane/accept/tls_transport.py",
    "gateway/dataplane/accept/upper_transport.py",
    "gateway/dataplane/auth",
    "gateway/dataplane/core",
    "gateway/dataplane/dialects",
    "gateway/dataplane/exchange",
    "gateway/dataplane/http1",
    "gateway/dataplane/http2",
    "gateway/dataplane/upstream",
)
"""Modules and rooms that a request passes through once its connection is open."""

NOT_COMPILED: Final = (
    "gateway/wire/health.py",  # coroutines and protobuf messages of the health service
    "gateway/dataplane/core/throttled_log.py",  # keyword arguments of structlog's loggers
    "gateway/dataplane/core/tls.py",  # reads certificate files
    "gateway/dataplane/dialects/health.py",
    "gateway/dataplane/upstream/connector.py",  # coroutines
)
"""Parts of those rooms that no request of a sender passes through."""


class BuildWithFiles(build_py):
    """Put the files that users need besides the program into the package."""

    def run(self) -> None:
        """Build; a checkout that is installed as it stands needs no copies."""
        super().run()
        if not self.editable_mode:
            for target, source in self._copies().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:  # noqa: FBT001, FBT002 - setuptools' signature
        """Return everything that is built."""
        copies = [] if self.editable_mode else list(self._copies())
        return [*super().get_outputs(include_bytecode), *copies]

    def _copies(self) -> dict[str, str]:
        folder = Path(self.build_lib) / "gateway" / "shipped"
        return {str(folder / Path(name).name): name for name in SHIPPED}


class BuildCompiled(build_ext):
    """Have mypyc write C, only when there is something to build, and compile it on all CPUs."""

    def finalize_options(self) -> None:
        """Replace the placeholder by what mypyc makes of the sources."""
        from mypyc.build import mypycify  # noqa: PLC0415 - takes a second; most runs build nothing

        extensions = mypycify(
            ["--config-file=", "--ignore-missing-imports", *sources()],
            group_name="gateway.data_path",
            opt_level=os.environ.get("GATEWAY_OPT_LEVEL", "3"),
            debug_level="0",
            multi_file=True,
        )
        for extension in extensions:
            extension.include_dirs.append("build/gateway")  # the library's header, by its folder
        self.distribution.ext_modules = extensions
        super().finalize_options()

    def run(self) -> None:
        """Build; in a checkout, replace what was compiled before, and note what is compiled now."""
        # Importing the package would decide which code runs, by what a former build has left.
        stamp = runpy.run_path(str(PACKAGE / "compiled.py"))
        in_checkout = self.inplace
        if in_checkout:
            for left in (stamp["STAMP"], *PACKAGE.rglob("*.so")):
                left.unlink(missing_ok=True)
        super().run()
        if in_checkout:
            stamp["write_stamp"](sources())

    def build_extensions(self) -> None:
        """Compile the files of an extension side by side."""
        compile_in_turn = self.compiler.compile
        with ThreadPoolExecutor(os.cpu_count()) as pool:

            def compile_side_by_side(files: list[str], **options: object) -> list[str]:
                parts = pool.map(lambda file: compile_in_turn([file], **options), files)
                return [name for part in parts for name in part]

            self.compiler.compile = compile_side_by_side
            super().build_extensions()


def sources() -> list[str]:
    """Return the modules to compile, as paths from the root."""
    found = [
        str(file.relative_to(ROOT))
        for name in COMPILED
        for file in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
        if file.name != "__init__.py"
    ]
    return sorted(set(found) - set(NOT_COMPILED))


def readme(repository: str | None) -> str:
    """Return the README with links and pictures that lead somewhere from anywhere, or none."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    relative = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://)([^)]*)\)")
    if repository is None:
        return relative.sub(lambda link: "" if link[1] else link[2], text)
    tag = f"v{_version()}"

    def absolute(link: re.Match[str]) -> str:
        picture, words, path = link.groups()
        if path.startswith("#"):
            return link[0]
        return f"{picture}[{words}]({repository}/{'raw' if picture else 'blob'}/{tag}/{path})"

    return relative.sub(absolute, text)


def data_files() -> list[tuple[str, list[str]]]:
    """Return the files for `share`, each folder with its files."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / SHARE).rglob("*")):
        if file.is_file():
            folder = str(Path("share") / file.parent.relative_to(ROOT / SHARE))
            found.setdefault(folder, []).append(str(file.relative_to(ROOT)))
    return list(found.items())


def urls(repository: str | None) -> dict[str, str]:
    """Return the package's links."""
    if repository is None:
        return {}
    base = f"{repository}/blob/v{_version()}"
    return {
        "Source": repository,
        "Documentation": f"{base}/docs/README.md",
        "Changelog": f"{base}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
        "Security": f"{base}/SECURITY.md",
    }


def _version() -> str:
    read = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(read["project"]["version"])


def why_not() -> str | None:
    """Return why nothing is to be compiled here, or None."""
    if os.environ.get(PURE_PYTHON) == "1":
        return f"{PURE_PYTHON}=1 is set"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler})"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Python's headers are missing (Debian: python3-dev)"
    return None


def main() -> None:
    """Build the package."""
    reason = why_not()
    repository = os.environ.get(REPOSITORY, "").rstrip("/") or None
    if reason and {"build_ext", "bdist_wheel", "editable_wheel"} & set(sys.argv):
        sys.stderr.write(
            f"The data path stays plain Python, which takes two to three times the CPU: {reason}.\n"
        )
    setup(
        # One extension has to be named for setuptools to run the command; it is replaced there.
        ext_modules=[] if reason else [Extension("gateway.placeholder", [])],
        cmdclass={"build_py": BuildWithFiles} | ({} if reason else {"build_ext": BuildCompiled}),
        data_files=data_files(),
        long_description=readme(repository),
        long_description_content_type="text/markdown",
        project_urls=urls(repository),
    )


if __name__ == "__main__":
    main()
