"""A report of a block as the ledger keeps it: one text that people read, whose first line programs read too."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from enforcer.registry.web.listcheck import Report

_LINE = re.compile(
    r"at (?P<at>\S+Z) from (?P<line>[0-9a-f.:]+) to (?P<destination>[0-9a-f.:]+) (?P<protocol>[a-z0-9-]+)(?: port (?P<port>\d+))?"
)


def written(report: Report, text: str) -> str:
    moment = datetime.fromtimestamp(report.at_ns // 10**9, UTC)
    port = "" if report.port is None else f" port {report.port}"
    head = (
        f"at {moment:%Y-%m-%dT%H:%M:%S}Z from {report.line} to {report.destination} {report.protocol}{port}"
    )
    return f"{head}\n{text}".strip()


def read(text: str) -> Report | None:
    """None when the first line is none of `written` (a report that came over the API as free text)."""
    found = _LINE.fullmatch(text.split("\n", 1)[0])
    if found is None:
        return None
    at_ns = int(datetime.fromisoformat(found["at"]).timestamp()) * 10**9
    port = int(found["port"]) if found["port"] else None
    return Report(at_ns, found["line"], found["destination"], found["protocol"], port)
