"""Texts of `--help` that are more than a sentence: examples, exit codes, and what `allowlab test` takes."""

from __future__ import annotations

# "\b": click leaves the lines of the paragraph as they are.
AFTER_RUN = """\
\b
Examples:
  allowlab run scenarios/registration.scenario.yaml
  allowlab run scenarios/revocation.scenario.yaml --seeds 1-5 --clock virtual -j auto

\b
Exit codes: 0 passed, 1 failed (an expectation did not hold), 2 a mistake in a file or
on the command line, 3 broken or inconclusive, 130 interrupted.
"""


def test_help(command: str) -> str:
    """What `test --help` prints; command: how this was called."""
    return f"""\
Usage: {command} test [OPTIONS] [PATH]...

  Run pytest from the project's folder: without PATH the tool's own tests;
  with `scenarios`, or a *.scenario.yaml file, each scenario as a test.

Examples:
  {command} test tests/test_world_private.py -k kill   those with a word in their name
  {command} test -m "not world"                        without those that need a private network
  {command} test scenarios -m smoke                    scenarios with a tag

Options:
  --allowlab-enforcer COMMAND  The enforcer under test (scenarios).
  --allowlab-results DIR       Where run folders go (scenarios); default: results/.
  --pytest-help                All of pytest's options, which can be given too.
  -h, --help                   Show this message and exit."""
