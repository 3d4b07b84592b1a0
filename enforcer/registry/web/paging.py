"""Which part of a long list a page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

PER_PAGE = 25
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Pages:
    """here and last count from 1."""

    here: int
    last: int
    total: int

    @classmethod
    def of(cls, query: Mapping[str, str], total: int) -> Pages:
        """`page` of the query; whatever is no page of this list is its first or last one."""
        asked = query.get("page", "1")
        last = max(1, -(-total // PER_PAGE))
        number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 1
        return cls(min(max(1, number), last), last, total)

    def slice(self, items: Sequence[_Item]) -> Sequence[_Item]:
        return items[(self.here - 1) * PER_PAGE : self.here * PER_PAGE]
