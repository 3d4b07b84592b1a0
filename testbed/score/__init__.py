"""Joins records with ground truth: what became of each attempt, whose fault it was, who was hurt. Pure; no lab needed."""

from testbed.score.summary import score, score_run

__all__ = ["score", "score_run"]
