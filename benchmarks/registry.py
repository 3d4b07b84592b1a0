"""How fast a large ledger is: opening it, its state at any serial, the next delta, bulk applications, and verifying it.

    nice python benchmarks/registry.py [--registrations 1000000] [--ledger FILE] [--repeats 5]

The ledger has three events a registration (apply, verify, approve), and a revocation of every twentieth; --ledger keeps it for the
next time. Prints a Markdown table of medians.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from enforcer.registry import standing
from enforcer.registry.bulk import apply_all
from enforcer.registry.chain import GENESIS, canonical, link
from enforcer.registry.exchange import forms_csv, read_forms
from enforcer.registry.journal import change
from enforcer.registry.ledger import Ledger
from enforcer.registry.past import write_checkpoints
from enforcer.registry.reading import open_to_read
from enforcer.registry.states import Application, Registration
from enforcer.registry.tables import open_tables, transaction
from enforcer.registry.verification import verify_chain, verify_derived

_BATCH = 50_000
_BULK = 10_000
_YES = canonical({"verified": True})
_TERMS = canonical({"requires_verification": True, "validity_ns": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--registrations", type=int, default=1_000_000)
    parser.add_argument("--ledger", type=Path, help="made when absent, kept afterwards")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-verify", action="store_true", help="verifying takes minutes at a million")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.ledger or Path(folder) / "ledger.sqlite"
        if not path.exists():
            _build(path, options.registrations)
        _measure(path, options.repeats, not options.skip_verify)


def form(number: int) -> Application:
    """A different form for each number, as long as real ones."""
    line = f"{10 + (number >> 24)}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/32"
    endpoint = f"198.51.{number >> 8 & 255}.{number & 255}/32"
    return Application(
        f"registrant {number}", (line,), (endpoint,), (51820,), ("wireguard",), "freelancer",
        "work for clients abroad", (), f"isp {number % 10}", f"S-{number}",
    )  # fmt: skip


def _build(path: Path, count: int) -> None:
    """Rows as the acts would write them, straight into the file: a fifth of the time. `verify` afterwards holds them to it."""
    started = time.process_time()
    database = open_tables(str(path))
    database.execute("PRAGMA synchronous = OFF")
    sequence, serial, previous = 0, 0, GENESIS
    for first in range(1, count + 1, _BATCH):
        events, changes, standings = [], [], []
        for number in range(first, min(first + _BATCH, count + 1)):
            now = Registration(number, form(number), "active", True, 5, None, was_active=True, asked_ns=5)
            data = canonical({"form": now.application.to_json(), "token_sha256": ""})
            acts = [("apply", "applicant", data), ("verify", "isp", _YES), ("approve", "officer", _TERMS)]
            for action, actor, text in [*acts, ("revoke", "officer", "{}")] if number % 20 == 0 else acts:
                sequence += 1
                previous = link(previous, sequence, 5, number, action, actor, "", text)
                events.append((sequence, 5, number, action, actor, "", text, previous))
                if action in ("approve", "revoke"):
                    serial += 1
                    now = now if action == "approve" else replace(now, state="revoked")
                    changes.append((serial, sequence, number, *change(now, now.entry())))
            standings.append(standing.row(now, sequence))
        with transaction(database):
            database.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", events)
            database.executemany("INSERT INTO changes VALUES (?, ?, ?, ?, ?)", changes)
            database.executemany("INSERT INTO standing VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", standings)
        print(f"\r{min(first + _BATCH - 1, count)} registrations", end="", file=sys.stderr, flush=True)
    write_checkpoints(database, sequence)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    print(f"\rbuilt {sequence} events in {time.process_time() - started:.0f} s of CPU", file=sys.stderr)


def _measure(path: Path, repeats: int, verifies: bool) -> None:
    ledger = Ledger(str(path))
    head = ledger.head()
    total = len(ledger.state_at(head.serial))
    print(
        f"{total:,} registrations, {head.events:,} events, serial {head.serial:,}, {path.stat().st_size / 1e6:,.0f} MB"
    )
    print(
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n\n| what | by the clock | of it CPU |\n|---|---:|---:|"
    )

    def row(name: str, act: Callable[[int], object], times: int = repeats) -> None:
        taken, busy = [], []
        for turn in range(times):
            started, began = time.perf_counter(), time.process_time()
            act(turn)
            taken.append(time.perf_counter() - started)
            busy.append(time.process_time() - began)
        print(
            f"| {name} | {_time(statistics.median(taken))} | {_time(statistics.median(busy))} |", flush=True
        )

    def serial(turn: int) -> int:
        return head.serial * (2 * turn + 1) // (2 * repeats)

    row("open", lambda _: Ledger(str(path)).serial)
    row("state at a serial: every registration's state", lambda turn: ledger.state_at(serial(turn)).counts())
    row(
        "one registration as it was at a serial",
        lambda turn: ledger.state_at(serial(turn)).registration(turn + 1),
    )
    then = ledger.state_at(serial(0))
    row(
        "the same, of a state at hand",
        lambda turn: then.registration(7 * turn + 1),
        100,
    )
    row(
        "allowlist at a serial, every entry as an object",
        lambda turn: ledger.allowlist_at(serial(turn)),
        min(3, repeats),
    )
    active = iter(ledger.state_at(head.serial).numbers("active"))

    def revoke_and_ask(_: int) -> None:
        ledger.decide(next(active), "revoke")

    row("one act (a revocation), in the file", revoke_and_ask, 100)
    row("next delta", lambda _: ledger.delta(ledger.serial - 1), 100)
    row(
        "next delta with its marks",
        lambda _: (ledger.delta(ledger.serial - 1), ledger.mark(ledger.serial)),
        100,
    )
    row("counts by state, now", lambda _: ledger.counts())
    row("what is due by the clock", lambda _: ledger.pass_time())
    text = "".join(forms_csv(form(total + number) for number in range(1, _BULK + 1)))
    row(f"{_BULK:,} rows of CSV read", lambda _: read_forms("bulk.csv", text))
    rows = read_forms("bulk.csv", text)
    row(f"{_BULK:,} rows checked, nothing taken", lambda _: apply_all(ledger, rows, is_trial=True))
    row(f"{_BULK:,} rows taken, all in one", lambda _: apply_all(ledger, rows), 1)
    ledger.close()
    if verifies:
        with closing(open_to_read(path)) as database:
            now = verify_chain(database).head
            row("verify: every hash", lambda _: _whole(verify_chain(database)), 1)
            row("verify: everything derived", lambda _: _whole(verify_derived(database, now)), 1)
    print(f"\nmost memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


def _whole(found) -> None:
    if not found.is_whole:
        raise SystemExit(f"event {found.sequence}: {found.differs}")


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


if __name__ == "__main__":
    main()
