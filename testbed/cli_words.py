"""Words of the command line that are more than one value."""

from __future__ import annotations

import os
import re
from typing import Any

import click

_MOST_SEEDS = 1000


class Seeds(click.ParamType):
    """1-5, or 1,4,7-9."""

    name = "seeds"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        found: list[int] = []
        for part in str(value).split(","):
            match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if not match or first > last or last - first >= _MOST_SEEDS:
                self.fail(
                    f"{part.strip()!r} is no seed and no range of them: write 1-5, or 1,4,7-9", param, ctx
                )
            found += range(first, last + 1)
        return tuple(dict.fromkeys(found))


class Jobs(click.ParamType):
    """A whole number from 1, or auto."""

    name = "jobs"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if value == "auto":
            return len(os.sched_getaffinity(0))
        if not re.fullmatch(r"[1-9]\d{0,3}", str(value)):
            self.fail(f"{value!r} is no number of runs: write 2, or auto for one a processor", param, ctx)
        return int(value)
