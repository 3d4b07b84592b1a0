"""Many applications at once: all of them or none, with a line for each. What a members' association hands in on paper today."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enforcer.registry.exchange import FormRow
from enforcer.registry.form import Application, BadApplication, application
from enforcer.registry.ledger import Ledger
from enforcer.registry.standing import form_key


@dataclass(frozen=True, slots=True)
class BulkRow:
    """What became of one row (numbered from 1): the number it was given, or what is wrong with it."""

    row: int
    line: int
    registration: int | None
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BulkReport:
    """is_applied: every row was taken; otherwise none was, and the rows with problems say why."""

    is_applied: bool
    rows: tuple[BulkRow, ...]

    @property
    def wrong(self) -> tuple[BulkRow, ...]:
        return tuple(row for row in self.rows if row.problems)


def apply_all(
    ledger: Ledger,
    rows: Sequence[FormRow],
    file: str = "file",
    actor: str = "applicant",
    token_sha256: str = "",
    by: str = "",
    is_trial: bool = False,
) -> BulkReport:
    """Apply for every row in one transaction, or for none. is_trial: only say what is wrong.

    A row is a duplicate when an earlier row, or a registration that is not over, asks for the same thing for the same registrant.
    token_sha256: who may act as the applicant of all of them.
    """
    forms: list[Application | None] = []
    problems: list[list[str]] = []
    seen: dict[bytes, int] = {}
    with ledger.batch():
        for position, row in enumerate(rows, start=1):
            found = [row.told(file, each) for each in row.problems]
            form = None
            if not row.problems:
                try:
                    form = application(
                        row.form, ledger.rules.requires_documents, ledger.rules.accepts_private_addresses
                    )
                except BadApplication as error:
                    found += [row.told(file, each) for each in error.problems]
            if form is not None:
                first = seen.setdefault(form_key(form), position)
                if first != position:
                    found.append(
                        row.told(
                            file,
                            f"the same application as row {first} (line {rows[first - 1].line}); remove one",
                        )
                    )
                found += [
                    row.told(file, f"registration {number} asks for this already; remove the row")
                    for number in ledger.similar(form)
                ]
            forms.append(form)
            problems.append(found)
        is_applied = not is_trial and not any(problems)
        numbers = [
            ledger.apply(form, actor, token_sha256, by=by).number if is_applied and form is not None else None
            for form in forms
        ]
    return BulkReport(
        is_applied,
        tuple(
            BulkRow(position, row.line, number, tuple(found))
            for position, (row, number, found) in enumerate(
                zip(rows, numbers, problems, strict=True), start=1
            )
        ),
    )
