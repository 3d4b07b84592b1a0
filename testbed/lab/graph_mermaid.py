"""A topology as Mermaid text, for Markdown pages that draw it."""

from __future__ import annotations

from testbed.lab.graph_words import leaf_words, link_words
from testbed.plan.plan import Node, Plan

_SHAPES = {"gateway": "{{{{{}}}}}", "exchange": "[({})]", "isp": "[{}]", "abroad": "([{}])"}


def to_mermaid(plan: Plan) -> str:
    """The plan's network as a Mermaid flowchart."""
    ids = {node.name: f"n{number}" for number, node in enumerate(plan.nodes)}
    lines = ["flowchart TB"]
    for node in plan.nodes:
        shape = _SHAPES.get(node.kind, "[{}]")
        lines.append(f"  {ids[node.name]}{shape.format(_quoted(_label(plan, node)))}")
    for link in plan.links:
        words = link_words(link)
        label = f"{link.name}: {words}" if words and link.kind == "cable" else words
        middle = f"-- {_quoted(label)} ---" if label else "---"
        # Mermaid ranks the left end above the right one: abroad over gateways, routers over the hosts on them.
        upper, lower = (link.b.node, link.a.node) if _rank(plan, link.b.node) < _rank(plan, link.a.node) else (
            link.a.node, link.b.node,
        )  # fmt: skip
        lines.append(f"  {ids[upper]} {middle} {ids[lower]}")
    enforced = [ids[placement.node] for placement in plan.enforcers]
    if enforced:
        lines.append("  classDef enforcer stroke:#0072B2,stroke-width:3px")
        lines.append(f"  class {','.join(enforced)} enforcer")
    return "\n".join(lines) + "\n"


def _rank(plan: Plan, name: str) -> int:
    kind = next(node.kind for node in plan.nodes if node.name == name)
    order = ("abroad", "gateway", "isp", "exchange")
    return order.index(kind) if kind in order else len(order)


def _label(plan: Plan, node: Node) -> str:
    if node.forwards:
        return f"{node.name}<br/>AS{node.asn}"
    return f"{node.name}<br/>{leaf_words(plan, node)[1]}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "#quot;") + '"'
