"""Pages under docs/ as a site needs them: with the files of the repository that they link to.

A file that stands elsewhere becomes part of the site, below `project/`, and so do those that it
links to in turn. A link to a folder becomes plain text. So the pages read the same in a repository
and on the site, and the site needs no address of a repository.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[1]
ALWAYS: Final = (".github/CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
"""Pages from outside docs/ that the navigation names."""
_OUTSIDE: Final = "project/"
_LINK: Final = re.compile(r"\[([^\]]*)\]\((?!https?://|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
_CODE: Final = re.compile(r"(^```.*?^```|`[^`\n]*`(?!\]))", re.MULTILINE | re.DOTALL)


def write(folder: Path) -> None:
    """Write what the site is built from into `folder`, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    inside = [str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*") if file.is_file()]
    for name in [*inside, *outside([name for name in inside if name.endswith(".md")])]:
        target = folder / on_site(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".md"):
            text = (ROOT / name).read_text(encoding="utf-8")
            target.write_text(rewrite(text, name), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / name, target)


def outside(pages: list[str]) -> list[str]:
    """Return the files outside of docs/ that `pages` link to, and those that these link to."""
    found = dict.fromkeys(ALWAYS)
    todo = [*pages, *ALWAYS]
    while todo:
        page = todo.pop()
        for name in _targets((ROOT / page).read_text(encoding="utf-8"), page):
            if name not in found and not name.startswith("docs/") and (ROOT / name).is_file():
                found[name] = None
                if name.endswith(".md"):
                    todo.append(name)
    return sorted(found)


def _targets(text: str, page: str) -> Iterator[str]:
    """Yield where the links of a page lead, as paths in the repository."""
    for part in _CODE.split(text)[::2]:
        for link in _LINK.finditer(part):
            yield posixpath.normpath(posixpath.join(posixpath.dirname(page), link[2]))


def rewrite(text: str, name: str) -> str:
    """Return the text of the page `name`, a path in the repository, with links for the site."""
    here = posixpath.dirname(on_site(name)) or "."

    def link(found: re.Match[str]) -> str:
        aim = posixpath.normpath(posixpath.join(posixpath.dirname(name), found[2]))
        if (ROOT / aim).is_dir():
            return found[1]
        if not (ROOT / aim).exists():
            return found[0]  # the build says that it leads nowhere
        return f"[{found[1]}]({posixpath.relpath(on_site(aim), here)}{found[3] or ''})"

    parts = _CODE.split(text)
    parts[::2] = [_LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def on_site(name: str) -> str:
    """Return the place on the site of a file of the repository; a leading dot would hide it."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return _OUTSIDE + name.removeprefix(".")
