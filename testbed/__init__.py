"""allowlab's test-bed: plans, builds, plays, scores and reports a scenario (see docs/architecture.md)."""

VERSION = "0.1.0"  # pyproject.toml reads it from here
