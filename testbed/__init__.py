"""allowlab's test-bed: plans, builds, plays, scores and reports a scenario (see docs/architecture.md)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VERSION = "0.1.0"  # pyproject.toml reads it from here


def command() -> str:
    """How the user called this program, for hints that can be typed as they are: ./allowlab, or a name on PATH."""
    return os.environ.get("ALLOWLAB_COMMAND") or (
        "allowlab" if Path(sys.argv[0]).name == "allowlab" else "./allowlab"
    )
