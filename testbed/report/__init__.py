"""Draws what score found: plots, HTML, JUnit, terminal summary."""
