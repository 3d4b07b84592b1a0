"""A picture of a topology: one self-contained SVG, the same bytes for the same plan. graph_mermaid.py has the Mermaid text.

Drawn in layers, from abroad down to the people: servers, places abroad, cables (each a pill with its rate and round-trip
time, so that no label lies on another), gateways, ISPs, and below each ISP its lines; the exchange is the bar at the foot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from testbed.lab.graph_words import leaf_words, link_words
from testbed.plan.plan import Link, Node, Plan

_MARGIN, _GAP = 28, 20
_CARD_W, _CARD_H, _CARD_GAP = 196, 51, 6
_BOX_W, _BOX_H = 196, 46
_PILL_H = 40
_LAYER_GAP = 46
_INK, _SOFT, _PAPER = "#1a1a1a", "#5c5c5c", "#ffffff"
_ENFORCER = "#0072B2"  # the meaning this blue has in every plot of the project
_FILLS = {"gateway": "#f3e3c3", "isp": "#e7ecef", "abroad": "#e3efe6", "exchange": "#ece4f1"}
_KINDS = {
    "company": "#8da0cb",
    "freelancer": "#a6d854",
    "call-centre": "#fc8d62",
    "bank": "#e5c494",
    "hospital": "#e78ac3",
    "ngo": "#66c2a5",
    "household": "#b3b3b3",
    "server": "#444444",
    "authority": "#0072B2",
}
_LEGEND = {"call-centre": "call centre", "authority": "registry"}


def to_svg(plan: Plan) -> str:
    """The plan's network as an SVG document."""
    drawing = _Drawing(_Layers(plan))
    return "\n".join(drawing.document()) + "\n"


class _Layers:
    """Who stands where: nodes by kind, leaves by the router they hang on, links by what they join."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.nodes = {node.name: node for node in plan.nodes}
        self.abroad = [node for node in plan.nodes if node.kind == "abroad"]
        self.gateways = [node for node in plan.nodes if node.kind == "gateway"]
        self.isps = [node for node in plan.nodes if node.kind == "isp"]
        self.exchanges = [node for node in plan.nodes if node.kind == "exchange"]
        self.leaves: dict[str, list[tuple[Node, Link]]] = {}
        self.pills: list[Link] = []
        self.lines: list[Link] = []
        self.peering: list[Link] = []
        for link in plan.links:
            a, b = self.nodes[link.a.node], self.nodes[link.b.node]
            if not a.forwards or not b.forwards:
                leaf, router = (a, b) if not a.forwards else (b, a)
                self.leaves.setdefault(router.name, []).append((leaf, link))
            elif "exchange" in (a.kind, b.kind):
                self.peering.append(link)
            elif link.kind == "cable" or "abroad" in (a.kind, b.kind):
                self.pills.append(link)
            else:
                self.lines.append(link)
        order = {node.name: place for place, node in enumerate((*self.gateways, *self.abroad, *self.isps))}
        self.pills.sort(key=lambda link: sorted(order.get(end.node, 0) for end in (link.a, link.b)))
        self.enforced = {placement.node for placement in plan.enforcers}
        self.backup = {each.link for each in plan.sessions if each.relation == "customer"} - _preferred(plan)


def _preferred(plan: Plan) -> set[str]:
    """The links of each customer's best session: the first of the highest preference, the shortest prepending."""
    best: dict[str, tuple[int, int, str]] = {}
    for session in plan.sessions:
        if session.relation == "customer":
            rank = (-session.preference, session.prepend, session.link)
            held = best.get(session.a)
            if held is None or rank[:2] < held[:2]:
                best[session.a] = rank
    return {link for _preference, _prepend, link in best.values()}


@dataclass(slots=True)
class _Drawing:
    layers: _Layers
    back: list[str] = field(default_factory=list)
    front: list[str] = field(default_factory=list)
    boxes: dict[str, tuple[float, float, float]] = field(default_factory=dict)  # middle x, top, width
    width: float = 0

    def document(self) -> Iterator[str]:
        layers, plan = self.layers, self.layers.plan
        pill_w = max([_width(link_words(link), 11.5) for link in layers.pills] + [110]) + 24
        columns = max(len(layers.isps), 1) * (_CARD_W + _GAP)
        abroad = max(len(layers.abroad), 1) * (_CARD_W + _GAP)
        self.width = max(columns, abroad, len(layers.pills) * (pill_w + _GAP), 640) + 2 * _MARGIN

        y = self._heading(plan)
        tallest = max([len(layers.leaves.get(node.name, [])) for node in layers.abroad] + [0])
        box_y = y + tallest * (_CARD_H + _CARD_GAP) + (_GAP if tallest else 0)
        self._row(layers.abroad, box_y, _CARD_W)
        for node in layers.abroad:
            leaves = layers.leaves.get(node.name, [])
            top = box_y - _GAP / 2 - len(leaves) * (_CARD_H + _CARD_GAP)
            self._column(node, leaves, top, is_above=True)
        y = box_y + (_BOX_H + _LAYER_GAP if layers.abroad else 0)
        gateway_y = y + (_PILL_H + _LAYER_GAP if layers.pills else 0)
        self._row(layers.gateways, gateway_y, _BOX_W)
        isp_y = gateway_y + (_BOX_H + 1.8 * _LAYER_GAP if layers.gateways else 0)
        self._row(layers.isps, isp_y, _CARD_W)
        self._pills(y, pill_w)
        self._lines()
        lowest = isp_y + _BOX_H
        for node in (*layers.isps, *layers.gateways):
            leaves = layers.leaves.get(node.name, [])
            top = self.boxes[node.name][1] + _BOX_H + _GAP / 2
            self._column(node, leaves, top, is_above=False)
            lowest = max(lowest, top + len(leaves) * (_CARD_H + _CARD_GAP))
        y = self._exchanges(lowest + _GAP)
        height = self._legend(y + _GAP) + _MARGIN

        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(self.width)} {_n(height)}" '
            f'width="{_n(self.width)}" height="{_n(height)}" role="img" '
            "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">"
        )
        yield f"<title>{escape(plan.title or plan.scenario)}</title>"
        yield f'<rect width="100%" height="100%" fill="{_PAPER}"/>'
        yield from self.back
        yield from self.front
        yield "</svg>"

    def _heading(self, plan: Plan) -> float:
        people = len(plan.subscribers)
        counts = [
            (len(self.layers.gateways), "gateway"),
            (len(self.layers.pills), "cable"),
            (len(self.layers.isps), "ISP"),
            (people, "subscriber"),
            (len(self.layers.abroad), "place abroad"),
        ]
        said = " · ".join(_count(number, word) for number, word in counts if number)
        self._text(_MARGIN, 38, plan.title or plan.scenario, 18, weight=600)
        self._text(_MARGIN, 58, said, 12.5, fill=_SOFT)
        return 80

    def _row(self, nodes: Sequence[Node], top: float, width: float) -> None:
        for place, node in enumerate(nodes):
            middle = _MARGIN + (self.width - 2 * _MARGIN) * (place + 0.5) / len(nodes)
            self.boxes[node.name] = (middle, top, width)
            is_enforced = node.name in self.layers.enforced
            stroke, thickness = (_ENFORCER, 2.5) if is_enforced else (_INK, 1.2)
            self.front.append(
                f'<g><title>{escape(_tooltip(node))}</title><rect x="{_n(middle - width / 2)}" y="{_n(top)}" width="{_n(width)}" '
                f'height="{_BOX_H}" rx="6" fill="{_FILLS[node.kind]}" stroke="{stroke}" stroke-width="{thickness}"/></g>'
            )
            self._text(middle, top + 20, node.name, 14, weight=600, anchor="middle")
            role = {"abroad": "abroad", "gateway": "gateway", "isp": "ISP"}[node.kind]
            role += " · enforcer" if is_enforced else ""
            self._text(middle, top + 36, f"{role} · AS{node.asn}", 11, fill=_SOFT, anchor="middle")

    def _column(
        self, router: Node, leaves: Sequence[tuple[Node, Link]], top: float, *, is_above: bool
    ) -> None:
        if not leaves:
            return
        middle, box_top, _box_width = self.boxes[router.name]
        left, spine = middle - _CARD_W / 2 + 14, middle - _CARD_W / 2 + 5
        last = top + (len(leaves) - 1) * (_CARD_H + _CARD_GAP) + _CARD_H / 2
        ends = (box_top, top + _CARD_H / 2) if is_above else (box_top + _BOX_H, last)
        self.back.append(_line(spine, ends[0], spine, ends[1], _SOFT, 1.2))
        for place, (node, link) in enumerate(leaves):
            y = top + place * (_CARD_H + _CARD_GAP)
            kind, said = leaf_words(self.layers.plan, node)
            self.back.append(_line(spine, y + _CARD_H / 2, left, y + _CARD_H / 2, _SOFT, 1.2))
            width = _CARD_W - 14
            self.front.append(
                f'<g><title>{escape(_ends(link))}</title><rect x="{_n(left)}" y="{_n(y)}" width="{_n(width)}" height="{_CARD_H}" rx="4" '
                f'fill="{_PAPER}" stroke="#9a9a9a"/><rect x="{_n(left)}" y="{_n(y)}" width="6" height="{_CARD_H}" rx="2" '
                f'fill="{_KINDS[kind]}"/></g>'
            )
            self._text(left + 13, y + 16, _fit(node.name, width - 20, 12.5), 12.5, weight=600)
            access = link_words(link)
            lines = [said, access] if access else _wrapped(said, width - 18, 10.5)
            for row, words in enumerate(lines[:2]):
                self._text(left + 13, y + 30 + row * 14, _fit(words, width - 18, 10.5), 10.5, fill=_SOFT)

    def _pills(self, top: float, width: float) -> None:
        pills = self.layers.pills
        at = {"a": self._anchors(pills, "a"), "b": self._anchors(pills, "b")}
        for place, link in enumerate(pills):
            middle = _MARGIN + (self.width - 2 * _MARGIN) * (place + 0.5) / len(pills)
            for side in ("a", "b"):
                x, y, is_above = at[side][link.name]
                self.back.append(_curve(x, y, middle, top if is_above else top + _PILL_H, _INK, 1.8))
            self.front.append(
                f'<g><title>{escape(_ends(link))}</title><rect x="{_n(middle - width / 2)}" y="{_n(top)}" width="{_n(width)}" '
                f'height="{_PILL_H}" rx="{_PILL_H / 2}" fill="{_PAPER}" stroke="{_INK}" stroke-width="1.2"/></g>'
            )
            words = link_words(link)
            self._text(middle, top + (17 if words else 24), link.name, 12.5, weight=600, anchor="middle")
            self._text(middle, top + 31, words, 11, fill=_SOFT, anchor="middle")

    def _anchors(self, links: Sequence[Link], side: str) -> dict[str, tuple[float, float, bool]]:
        """Where each link leaves its node on one side, spread over the edge: x, y, and whether the node is above."""
        by_node: dict[str, list[Link]] = {}
        for link in links:
            by_node.setdefault(getattr(link, side).node, []).append(link)
        found: dict[str, tuple[float, float, bool]] = {}
        for name, held in by_node.items():
            middle, top, width = self.boxes[name]
            is_above = self.layers.nodes[name].kind == "abroad"
            for place, link in enumerate(held):
                x = middle + (place + 0.5 - len(held) / 2) * min(34, (width - 20) / len(held))
                found[link.name] = (x, top + _BOX_H if is_above else top, is_above)
        return found

    def _lines(self) -> None:
        for link in self.layers.lines:
            (ax, ay, _aw), (bx, by, _bw) = self.boxes[link.a.node], self.boxes[link.b.node]
            dash = ' stroke-dasharray="5 4"' if link.name in self.layers.backup else ""
            if ay == by:
                bend = ay + _BOX_H + 26
                path = (
                    f"M{_n(ax)} {_n(ay + _BOX_H)} Q{_n((ax + bx) / 2)} {_n(bend)} {_n(bx)} {_n(by + _BOX_H)}"
                )
            else:
                upper, lower = ((ax, ay), (bx, by)) if ay < by else ((bx, by), (ax, ay))
                path = f"M{_n(upper[0])} {_n(upper[1] + _BOX_H)} L{_n(lower[0])} {_n(lower[1])}"
            title = f"<title>{escape(_ends(link))}</title>"
            self.back.append(
                f'<path d="{path}" fill="none" stroke="{_INK}" stroke-width="1.3"{dash}>{title}</path>'
            )
            words = link_words(link)
            if words:
                self._text(
                    (ax + bx) / 2, (ay + by + _BOX_H) / 2, words, 10.5, fill=_SOFT, anchor="middle", halo=True
                )

    def _exchanges(self, top: float) -> float:
        for exchange in self.layers.exchanges:
            members = [
                (end.node, link)
                for link in self.layers.peering
                for end in (link.a, link.b)
                if exchange.name in (link.a.node, link.b.node)
                and end.node != exchange.name
                and end.node in self.boxes
            ]
            for name, link in members:
                middle, box_top, width = self.boxes[name]
                x = self._lane(name, middle + width / 2)
                path = f"M{_n(middle + width / 2)} {_n(box_top + _BOX_H / 2)} H{_n(x)} V{_n(top)}"
                title = f"<title>{escape(_ends(link))}</title>"
                self.back.append(
                    f'<path d="{path}" fill="none" stroke="#7b5c99" stroke-width="1.8">{title}</path>'
                )
            width = self.width - 2 * _MARGIN + _GAP
            self.front.append(
                f'<rect x="{_MARGIN}" y="{_n(top)}" width="{_n(width)}" height="32" rx="6" fill="{_FILLS["exchange"]}" stroke="#7b5c99"/>'
            )
            said = f"{exchange.name} · Internet exchange · AS{exchange.asn} · domestic traffic stays here"
            self._text(self.width / 2, top + 21, said, 12.5, weight=600, anchor="middle")
            top += 32 + _GAP
        return top

    def _lane(self, name: str, right: float) -> float:
        """Where a member's line goes down: beside its own column; a gateway's beside one further right, never behind people."""
        if self.layers.nodes[name].kind == "isp" or not self.layers.isps:
            return right + _GAP / 2
        edges = [self.boxes[isp.name][0] + _CARD_W / 2 for isp in self.layers.isps]
        return min((edge for edge in edges if edge > right), default=right) + _GAP * 0.8

    def _legend(self, top: float) -> float:
        x = float(_MARGIN)
        used = dict.fromkeys(
            leaf_words(self.layers.plan, leaf)[0]
            for held in self.layers.leaves.values()
            for leaf, _link in held
        )
        entries = [(f'fill="{_KINDS[kind]}"', _LEGEND.get(kind, kind)) for kind in _KINDS if kind in used]
        if self.layers.enforced:
            entries.append((f'fill="{_PAPER}" stroke="{_ENFORCER}" stroke-width="2.5"', "enforcer"))
        for style, words in entries:
            if x + _width(words, 11.5) + 40 > self.width - _MARGIN:
                x, top = float(_MARGIN), top + 20
            self.front.append(f'<rect x="{_n(x)}" y="{_n(top)}" width="12" height="12" rx="2" {style}/>')
            self._text(x + 17, top + 10, words, 11.5)
            x += _width(words, 11.5) + 36
        x, top = float(_MARGIN), top + 22
        for dash, words in (("", "first choice of transit"), ("5 4", "backup")):
            self.front.append(_line(x, top + 6, x + 28, top + 6, _INK, 1.3, dash))
            self._text(x + 34, top + 10, words, 11.5)
            x += _width(words, 11.5) + 56
        return top + 14

    def _text(
        self, x: float, y: float, text: str, size: float, *, weight: int = 400, fill: str = _INK, anchor: str = "start", halo: bool = False
    ) -> None:  # fmt: skip
        if not text:
            return
        outline = f' paint-order="stroke" stroke="{_PAPER}" stroke-width="3"' if halo else ""
        self.front.append(
            f'<text x="{_n(x)}" y="{_n(y)}" font-size="{size}" font-weight="{weight}" fill="{fill}" '
            f'text-anchor="{anchor}"{outline}>{escape(text)}</text>'
        )


def _line(x1: float, y1: float, x2: float, y2: float, ink: str, width: float, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    ends = f'x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"'
    return f'<line {ends} stroke="{ink}" stroke-width="{width}"{dashes}/>'


def _curve(x1: float, y1: float, x2: float, y2: float, ink: str, width: float) -> str:
    half = (y1 + y2) / 2
    path = f"M{_n(x1)} {_n(y1)} C{_n(x1)} {_n(half)} {_n(x2)} {_n(half)} {_n(x2)} {_n(y2)}"
    return f'<path d="{path}" fill="none" stroke="{ink}" stroke-width="{width}"/>'


def _tooltip(node: Node) -> str:
    return ", ".join(filter(None, [node.name, node.loopback4, node.loopback6]))


def _ends(link: Link) -> str:
    ends = [" ".join([f"{end.node}/{end.name}", *end.ipv4, *end.ipv6]) for end in (link.a, link.b)]
    return f"{link.name}: {ends[0]} to {ends[1]}" + (f" ({link_words(link)})" if link_words(link) else "")


def _count(number: int, word: str) -> str:
    if number == 1:
        return f"1 {word}"
    return f"{number} places abroad" if word == "place abroad" else f"{number} {word}s"


def _width(text: str, size: float) -> float:
    """About how wide a text is: 0.56 em a character, the mean of common sans-serif faces."""
    return len(text) * size * 0.56


def _wrapped(text: str, width: float, size: float) -> list[str]:
    """The text in as many lines as it needs, broken at spaces."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _width(longer, size) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _fit(text: str, width: float, size: float) -> str:
    room = int(width / (size * 0.56))
    return text if len(text) <= room else text[: max(room - 1, 1)] + "…"


def _n(value: float) -> str:
    """A coordinate, always written the same way."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
