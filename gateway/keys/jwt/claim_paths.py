"""Where in a token's claims a value stands: `$.team`, `$.realm.roles[0]`, `$['https://a.b/team']`.

A small part of JSONPath (RFC 9535): a root, names and positions, so that a path has one value at
most. Standard library only, because the configuration reads paths without the rest of this room.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_STEP: Final = re.compile(
    r"""\.(?P<name>[A-Za-z_][A-Za-z0-9_-]*)
      | \[(?P<position>0|[1-9][0-9]{0,3})\]
      | \['(?P<quoted>[^'\\\x00-\x1f\x7f]+)'\]""",
    re.VERBOSE,
)
MAX_LENGTH: Final = 500
HELP: Final = (
    "write the path of a claim, such as $.team, $.realm.roles[0] or $['https://a.example/x']"
)


@dataclass(frozen=True, slots=True)
class ClaimPath:
    """A path, parsed. It prints as it was written."""

    text: str
    steps: tuple[str | int, ...]

    @classmethod
    def parse(cls, text: str) -> ClaimPath:
        """Read a path. Raises `ValueError` that says how to write it."""
        if not text.startswith("$") or len(text) > MAX_LENGTH:
            raise ValueError(HELP)
        steps: list[str | int] = []
        place = 1
        while place < len(text):
            step = _STEP.match(text, place)
            if step is None:
                raise ValueError(HELP)
            position = step["position"]
            steps.append(int(position) if position else step["name"] or step["quoted"])
            place = step.end()
        if not steps:
            raise ValueError(HELP)
        return cls(text, tuple(steps))

    def find(self, claims: object) -> object:
        """Return what stands there; None for nothing and for null."""
        value = claims
        for step in self.steps:
            if isinstance(step, str):
                value = value.get(step) if isinstance(value, Mapping) else None
            elif isinstance(value, Sequence) and not isinstance(value, str):
                value = value[step] if step < len(value) else None
            else:
                return None
        return value

    def __str__(self) -> str:
        return self.text
