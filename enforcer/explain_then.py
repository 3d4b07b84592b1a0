"""What was in force at a time that is over: the serial, its list and the failures, as far as anything here still knows them.

The serial is the enforcer's audit's (`applied`), else that of the messages it keeps, else the registry's ledger's at that time. Its list is
one of those it keeps, or the ledger's. Where none is known, the newest list judges, and the answer says so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from enforcer.allowlist import Allowlist
from enforcer.audit import read
from enforcer.conditions import Conditions
from enforcer.known import Known
from enforcer.policy import load_policy
from enforcer.registry.ledger import BadLedger, Ledger, UnknownSerial
from enforcer.registry.reading import CannotRead
from enforcer.store import Kept


@dataclass(frozen=True, slots=True)
class Then:
    """What an audit says was so. serial: None when no line told one. policy: name and mode; None when the line of the start is gone."""

    serial: int | None = None
    lasting: dict[str, str] = field(default_factory=dict)
    policy: tuple[str, str] | None = None
    is_running: bool = True


def at_time(known: Known, at_ns: int, now_ns: int, audit: Path | None, ledger: Path | None) -> Known:
    """What decided at a time, with remarks about what is not known of it. ledger: the registry's, or a copy.

    Raises ValueError for a ledger that is none, or another registry's; OSError.
    """
    if at_ns > now_ns:
        return replace(known, remarks=("That time is still to come: the list may change until then.",))
    told = by_audit(read(audit), at_ns) if audit else None
    remarks = _about(known, told)
    lasting = told.lasting if told else {}
    found = replace(
        known,
        is_running=False,
        lasting=lasting,
        fallback=Conditions(known.policy.on_failure, dict(lasting)).fallback,
    )
    allowlist: Allowlist | None
    if told and told.policy and told.serial is None:
        allowlist, source, how = (
            Allowlist(0),
            "no list",
            "No list had come yet, as the enforcer's audit says.",
        )
    else:
        allowlist, source, how = _list(known, at_ns, told.serial if told else None, ledger)
    if allowlist is None:
        newest = f"The list of that time is not known here; judged by serial {known.allowlist.serial} of {known.source}."
        return replace(found, is_of_then=False, remarks=(f"{newest} {how}", *remarks))
    return replace(found, allowlist=allowlist, source=source, is_of_then=True, remarks=(how, *remarks))


def by_audit(lines: Iterable[dict[str, Any]], at_ns: int) -> Then | None:
    """What its lines say was in force at a time; None when they begin later."""
    now, then = Then(), None
    for line in lines:
        match line["kind"]:
            case "started":
                now = Then(now.serial, {}, (line["policy"], line["mode"]))  # the kernel kept what it had
            case "stopped":
                now = replace(now, is_running=False)
            case "applied":
                now = replace(now, serial=line["serial"])
            case "failure" if line["state"] == "begun":
                now = replace(now, lasting=now.lasting | {line["condition"]: line["behaviour"]})
                if line["condition"] == "no-allowlist-yet":  # at a start that found no list kept
                    now = replace(now, serial=None)
            case "failure":
                lasting = {name: do for name, do in now.lasting.items() if name != line["condition"]}
                now = replace(now, lasting=lasting)
        if line["realtime_ns"] <= at_ns:  # not the first later one ends it: a clock that was set goes back
            then = now
    return then


def from_ledger(policy_file: Path, ledger: Path) -> Known:
    """A policy and the newest list of a registry's ledger. Raises FileError, ValueError, OSError."""
    policy = load_policy(policy_file)
    with _opened(ledger) as file:
        return Known(policy, file.allowlist(), f"the list in {ledger}")


def _about(known: Known, told: Then | None) -> tuple[str, ...]:
    if told is None:
        return ("What was broken at that time is not known here: judged as if nothing was.",)
    remarks = []
    if told.policy is None:
        remarks.append("The audit's older lines are gone: a failure that began in them is not known here.")
    policy = (known.policy.name, known.policy.mode)
    if told.policy and told.policy != policy:
        then, now = (f"{name!r} ({mode})" for name, mode in (told.policy, policy))
        remarks.append(f"At that time the policy was {then}, as the audit says; judged by {now}.")
    if not told.is_running:
        do = known.policy.on_failure.agent_dead
        remarks.append(
            f"The enforcer had ended by then; what it left in the kernel did what the policy says for agent-dead: {do}."
        )
    return tuple(remarks)


def _list(
    known: Known, at_ns: int, serial: int | None, ledger: Path | None
) -> tuple[Allowlist | None, str, str]:
    """The list of that time, where it is from, and how that is known; or None, "" and why not. serial: by the audit."""
    is_by_audit = serial is not None
    by_audit = f"Serial {serial} was in force then, as the enforcer's audit says."
    kept = _kept(known, at_ns, serial)
    if kept is not None:
        how = (
            by_audit if is_by_audit else f"Serial {kept.serial} was then the newest that the enforcer keeps."
        )
        return kept, f"the list of that time, of {known.source}", how
    if ledger is not None:
        with _opened(ledger) as file:
            _check_history(file, known, ledger)
            try:
                found = (
                    file.allowlist_at(serial) if serial is not None else file.state_at_time(at_ns).allowlist()
                )
            except UnknownSerial:
                return None, "", f"{by_audit} {ledger} ends at serial {file.serial}: write a newer copy."
        how = by_audit if is_by_audit else (
            f"Serial {found.serial} was the registry's then, by {ledger}; an enforcer may have had it a little later."
        )  # fmt: skip
        return found, f"the list of that time, in {ledger}", how
    help_ = "With --ledger FILE, the registry's ledger or a copy, it is."
    return None, "", f"{by_audit} {help_}" if is_by_audit else help_


def _kept(known: Known, at_ns: int, serial: int | None) -> Allowlist | None:
    """Of the lists that are kept, that of a serial, or the newest of a time."""
    found: Allowlist | None = None
    if known.history is None:
        return known.allowlist if serial == known.allowlist.serial else None
    for each in known.history():
        if each.allowlist.serial == serial or (serial is None and each.issued_ns <= at_ns):
            found = each.allowlist
    return found


def _check_history(file: Ledger, known: Known, ledger: Path) -> None:
    """Whether the ledger is of the registry whose lists are kept. Raises ValueError."""
    newest: Kept | None = None
    for each in known.history() if known.history else ():
        if each.allowlist.serial <= file.serial:
            newest = each
    if newest and newest.mark and file.mark(newest.allowlist.serial) != newest.mark:
        raise ValueError(
            f"{ledger}: another history led to its serial {newest.allowlist.serial} than to the list that this enforcer keeps; "
            "write the ledger of the registry it follows"
        )


@contextmanager
def _opened(ledger: Path) -> Iterator[Ledger]:
    """Raises ValueError, OSError."""
    with ledger.open("rb"):  # what is not there is told as of any other file
        pass
    try:
        with closing(Ledger(str(ledger), is_read_only=True)) as file:
            yield file
    except (BadLedger, CannotRead) as error:
        raise ValueError(str(error)) from error
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"{ledger}: cannot be read as a ledger ({error}); write the ledger's file"
        ) from error
