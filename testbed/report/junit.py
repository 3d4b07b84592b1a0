"""A run as JUnit XML: one test case an expectation, its figures as properties. For CI systems that do not run pytest."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from testbed.report.finding import finding
from testbed.report.tables import expected

# Of XML 1.0 section 2.2: everything else below a space is not allowed in a document at all.
_ALLOWED_CONTROLS = "\t\n\r"


def junit(summary: dict[str, Any]) -> str:
    """failure: the expectation failed; skipped: it was inconclusive; error: the run itself broke."""
    rows = expected(summary)
    is_broken = summary["outcome"] in ("broken", "interrupted")
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(summary["scenario"]),
        tests=str(len(rows) + is_broken),
        failures=str(sum(row.verdict == "failed" for row in rows if not is_broken)),
        skipped=str(sum(row.verdict == "inconclusive" or is_broken for row in rows)),
        errors=str(int(is_broken)),
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in properties_of(summary):
        ElementTree.SubElement(properties, "property", name=name, value=_clean(value))
    if is_broken:
        case = ElementTree.SubElement(suite, "testcase", classname=_clean(summary["scenario"]), name="run")
        ElementTree.SubElement(case, "error", message=_clean(finding(summary)))
    for row in rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_clean(summary["scenario"]), name=_clean(row.name)
        )
        told = ElementTree.SubElement(case, "properties")
        for name, value in (
            ("asked", row.asked),
            ("seen", row.seen),
            ("interval", row.interval),
            ("n", row.n),
        ):
            ElementTree.SubElement(told, "property", name=name, value=_clean(value))
        text = f"{row.place}: asked: {row.asked} ({row.where}); seen: {row.seen} (95 % {row.interval}, n {row.n})"
        if is_broken:
            ElementTree.SubElement(case, "skipped", message="the run broke")
        elif row.verdict == "failed":
            ElementTree.SubElement(case, "failure", message=_clean(text), type="expectation").text = _clean(
                finding(summary)
            )
        elif row.verdict == "inconclusive":
            ElementTree.SubElement(case, "skipped", message=_clean(f"inconclusive: {row.reason}; {text}"))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def properties_of(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of the run's main figures and of each expectation's, as plain numbers with the unit in the name."""
    table, harm = summary["all"], summary["harm"]
    found = [
        ("outcome", summary["outcome"]),
        ("clock", summary["clock"]),
        ("attempts", str(table["attempts"])),
        ("false_block_ratio", str(table["false_block"]["ratio"])),
        ("false_block_k", str(table["false_block"]["k"])),
        ("false_block_n", str(table["false_block"]["n"])),
        ("false_pass_ratio", str(table["false_pass"]["ratio"])),
        ("delivered_ratio", str(table["delivered"]["ratio"])),
        ("person_ns_lost", str(harm["person_ns_lost"])),
        ("longest_restore_ns", str(harm["longest_restore_ns"])),
    ]
    for each in summary["expectations"]:
        found.append((f"{each['figure']} line {each['line']}", str(each["seen"])))
    return found


def _clean(text: str) -> str:
    return "".join(each for each in text if each >= " " or each in _ALLOWED_CONTROLS)
