"""The documents name every word the files can use."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.faults.kinds import KINDS
from testbed.plan.figures import FIGURES
from testbed.plan.load import Kind, json_schema
from testbed.plan.script import ACTIONS

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("kind", ["scenario", "topology", "policy"])
def test_every_key_of_a_file_is_in_its_document(kind: Kind) -> None:
    text = (DOCS / f"{kind}-files.md").read_text()
    schema = json_schema(kind)
    keys = {key for shape in [schema, *schema["$defs"].values()] for key in shape.get("properties", {})}
    assert sorted(key for key in keys if key not in text) == []


@pytest.mark.parametrize("word", [*FIGURES, *KINDS, *ACTIONS])
def test_every_figure_fault_and_action_is_in_the_scenario_document(word: str) -> None:
    assert f"`{word}`" in (DOCS / "scenario-files.md").read_text()
