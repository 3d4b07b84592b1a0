"""Bulk upload: a file or pasted rows, all of them or none, and a report with a line for each row."""

from __future__ import annotations

import re
from itertools import islice

from starlette.responses import Response
from starlette.routing import Route

from enforcer.protocols import VPN_PROTOCOLS
from enforcer.registry.exchange import COLUMNS, BadFile, forms_csv
from enforcer.registry.form import CATEGORIES, DOCUMENTS, Application, Document
from enforcer.registry.web.frame import Page, page
from enforcer.registry.web.office import Office

ROLES = ("registrant", "officer")
MOST_SHOWN = 500  # lines of a report; the rest are counted
_PLACE = re.compile(r"rows\.csv:(\d+):(\d+): (.*)", re.DOTALL)

_EXAMPLE = Application(
    "Indus Software (Pvt) Ltd", ("203.0.113.16/28",), ("198.51.100.4/32", "2001:db8:4::/48"), (51820,), ("wireguard",),
    "company", "work for clients abroad", (Document("identity"), Document("incorporation", "0012345")), "Northern Fibre", "NF-2210", "noc@indus.example",
)  # fmt: skip


def routes(office: Office) -> list[Route]:
    return [page(office, "/bulk", _bulk, "GET POST", ROLES)]


async def _bulk(here: Page) -> Response:
    report, text, wrong = None, "", []
    if here.request.method == "POST":
        text = _text(here)
        if not here.form.errors:
            try:
                is_trial = "trial" in here.form.fields
                report = here.desk.apply_all("rows.csv", text, here.desk.of_account(here.account), is_trial)
            except BadFile as error:
                here.form.fail("rows" if here.form.get("rows") else "file", "bulk-file")
                wrong = [_placed(each)[2] for each in error.problems[:20]]
    # Wrong rows first: they are what has to be looked at.
    rows = sorted(report.rows, key=lambda row: not row.problems) if report else []
    names = _names(text) if report else []
    return here.html(
        "bulk.html",
        422 if report and report.wrong else 200,
        report=report,
        wrong=wrong,
        rows=[
            (
                row,
                [_placed(each) for each in row.problems],
                names[row.row - 1] if row.row <= len(names) else "",
            )
            for row in islice(rows, MOST_SHOWN)
        ],
        left_out=max(0, len(rows) - MOST_SHOWN),
        columns=COLUMNS,
        choices={"category": CATEGORIES, "protocols": VPN_PROTOCOLS, "documents": tuple(DOCUMENTS)},
        example="\n".join(line.rstrip("\n") for line in forms_csv([_EXAMPLE])),
    )


def _text(here: Page) -> str:
    pasted, sent = here.form.get("rows"), here.files.get("file", b"")
    if bool(pasted) and bool(sent):
        here.form.fail("file", "both-rows")
    elif not pasted and not sent:
        here.form.fail("file", "no-rows")
    try:
        return pasted or sent.decode("utf-8")
    except UnicodeDecodeError as error:
        here.form.fail("file", "utf8", at=error.start)
        return ""


def _placed(problem: str) -> tuple[str, str, str]:
    """Line, column and words of a problem, whose file is what was sent."""
    found = _PLACE.fullmatch(problem)
    return (found[1], found[2], found[3]) if found else ("", "", problem)


def _names(text: str) -> list[str]:
    """The registrants, for the report: read leniently, for the rows may be wrong."""
    from enforcer.registry.exchange import read_forms

    return [str(row.form.get("registrant", "")) for row in read_forms("rows.csv", text)]
