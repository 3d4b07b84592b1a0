"""Draws a scored run: plots, one self-contained page, JUnit, Markdown, a summary for the terminal."""

from __future__ import annotations

from pathlib import Path

from testbed.report.terminal import terminal_summary

__all__ = ["terminal_summary", "write_report"]


def write_report(run_dir: Path) -> Path:
    """Scores and draws a run folder; returns the path of report.html (see testbed.report.page)."""
    from testbed.report.page import write_report as write  # matplotlib takes a second to import

    return write(run_dir)
