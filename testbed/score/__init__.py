"""Joins records with ground truth: outcomes, causes, intervals, harm. Pure."""
