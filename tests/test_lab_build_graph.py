"""A topology as a picture: well-formed, the same each time, with everything of the plan in it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from testbed.lab.graph import to_svg
from testbed.lab.graph_mermaid import to_mermaid
from testbed.plan.load import load_topology_plan
from tests.small_plan import small_plan

TOPOLOGIES = Path(__file__).resolve().parents[1] / "topologies"
_SVG = "{http://www.w3.org/2000/svg}"
_TEXT = _SVG + "text"


def plan_named(name: str):
    return small_plan() if name == "small" else load_topology_plan(TOPOLOGIES / f"{name}.topology.yaml")


@pytest.mark.parametrize("name", ["small", "minimal", "national-small"])
def test_the_picture_names_every_node_and_cable(name):
    plan = plan_named(name)
    words = " ".join(text.text or "" for text in ElementTree.fromstring(to_svg(plan)).iter(_TEXT))

    assert [node.name for node in plan.nodes if node.name not in words] == []
    assert [link.name for link in plan.links if link.kind == "cable" and link.name not in words] == []


def test_the_same_plan_gives_the_same_bytes():
    assert to_svg(plan_named("national-small")) == to_svg(plan_named("national-small"))


def test_a_cable_shows_its_rate_and_round_trip_time():
    svg = to_svg(small_plan())
    assert "100 Mbit/s, RTT 40 ms" in svg


def test_names_cannot_break_the_picture():
    svg = to_svg(small_plan(title='a <b> & "c"'))
    assert ElementTree.fromstring(svg).findtext("{http://www.w3.org/2000/svg}title") == 'a <b> & "c"'


def test_no_box_of_a_row_or_column_covers_another():
    root = ElementTree.fromstring(to_svg(plan_named("national-small")))
    boxes = []
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        box = group.find("{http://www.w3.org/2000/svg}rect")
        assert box is not None
        x, y, width, height = (float(box.get(key, 0)) for key in ("x", "y", "width", "height"))
        boxes.append((x, y, x + width, y + height))
    assert len(boxes) > 30
    for at, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[at + 1 :]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_a_line_to_the_exchange_goes_behind_nobody():
    root = ElementTree.fromstring(to_svg(plan_named("national-small")))
    boxes = [box for group in root.iter(_SVG + "g") for box in group.iter(_SVG + "rect")]
    lines = [
        path.get("d", "")
        for path in root.iter(_SVG + "path")
        if "exchange" in (path.findtext(_SVG + "title") or "")
    ]
    assert len(lines) == 7
    lanes = [
        [float(word.strip("MHV")) for word in line.split()] for line in lines
    ]  # from x and y, to x, to y
    assert len({lane[2] for lane in lanes}) == 7, "each has a lane of its own"
    for box in boxes:
        left, top, width = (float(box.get(key, 0)) for key in ("x", "y", "width"))
        behind = [lane for lane in lanes if left <= lane[2] <= left + width and lane[1] <= top < lane[3]]
        assert behind == [], box.attrib


def test_mermaid_has_a_line_for_each_link_and_a_node_for_each_node():
    plan = small_plan()
    text = to_mermaid(plan)

    assert text.startswith("flowchart TB\n")
    assert text.count("---") == len(plan.links)
    assert all(f'"{node.name}<br/>' in text for node in plan.nodes)
    assert '-- "cable: 100 Mbit/s, RTT 40 ms" ---' in text and "class n2 enforcer" in text
