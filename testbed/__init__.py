"""allowlab's test-bed: plans, builds, plays, scores and reports a scenario (see docs/architecture.md)."""
