"""What all mappings of the configuration have in common: unknown settings are errors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Node(BaseModel):
    """A mapping of the tree."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
