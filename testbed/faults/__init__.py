"""Faults: one module per kind, each with a begin and an end that heals it."""
