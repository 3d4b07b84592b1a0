"""The documents name every word the files can use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from testbed.faults.kinds import KINDS
from testbed.plan.figures import FIGURES
from testbed.plan.load import Kind, check_paths, json_schema, load_topology_plan
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


EXAMPLES = {
    "the rarer actions": ("scenario-files.md", "suspend: household", "timeline"),
    "expectations": ("scenario-files.md", "outcome: false_block, where", "expect"),
    "faults": ("faults.md", "fault: {kind: allowlist-ignored", "timeline"),
}
_WHOLE = """
title: For the examples of the documents
description: Each is a part of this scenario.
topology: {root}/topologies/minimal.topology.yaml
policy: {root}/enforcer/policies/registered-pairs.policy.yaml
duration: 20s
registrations: [{{who: household, server: fra-wireguard, state: active}}]
tunnels: [{{who: household, server: fra-wireguard}}]
traffic: [{{group: web, probe: https, whoever: {{}}, to: fra-https, every: 1s}}]
"""


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_can_be_used_as_they_are(name: str, tmp_path: Path) -> None:
    document, words, section = EXAMPLES[name]
    blocks = re.findall(r"```yaml\n(.*?)```", (DOCS / document).read_text(), re.DOTALL)
    [example] = [block for block in blocks if words in block]
    text = _WHOLE.format(root=DOCS.parent) + f"{section}:\n{example}"
    if section != "timeline":
        text += "timeline: [{at: 9s, change-address: household}, {at: 10s, change-address-form: household/fra-wireguard}]\n"
    if section != "expect":
        text += "expect: [{figure: delivered_ratio, where: {group: web}, at-least: 90%}]\n"
    path = tmp_path / "x.scenario.yaml"

    path.write_text(text)
    assert [str(problem) for problem in check_paths([path])] == []
    path.write_text(text.replace("household", "houshold", 1))  # control
    assert check_paths([path]) != []


@pytest.mark.parametrize("name", ["interactive.md", "mininet.md"])
def test_nodes_in_the_documents_are_those_of_the_topology_they_use(name: str) -> None:
    text = (DOCS / name).read_text()
    nodes = {node.name for node in load_topology_plan(DOCS.parent / "topologies/minimal.topology.yaml").nodes}
    named = re.findall(r"allowlab exec (?:--name \w+ )?([a-z][a-z-]*)", text)
    named += re.findall(r'net\["([a-z-]+)"\]', text)

    assert "company" in named and set(named) <= nodes
