"""What `enforcer run` says on stderr: that it waits and for what, that it enforces; a line each, and no flood."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enforcer import starting
from enforcer.config import missing_interfaces
from enforcer.follow import Feed, Unreachable
from enforcer.status import render, status
from tests.agent_bench import Bench, S, entry

REFUSED = "http://192.0.2.1/feed/snapshot: connection refused"


def said(bench, capsys, *steps):
    """The lines after each step."""

    async def play():
        telling, lines = asyncio.create_task(starting.tell(bench.agent)), []
        for step in steps:
            step()
            await asyncio.sleep(3 * starting._LOOK_S)
            lines.append(capsys.readouterr().err.splitlines())
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
        return lines

    return asyncio.run(play())


def test_it_waits_and_then_enforces_with_a_line_each(tmp_path, capsys):
    bench = Bench(tmp_path)

    def refuse(text=REFUSED, after=0):
        bench.now_ns += after * S
        bench.agent.unreachable = text

    def take():
        bench.agent.note_answer()
        bench.snapshot(1, entry(7))

    enforcing = f"enforcing serial 1, 1 entry, {bench.agent.dataplane.name}, policy {bench.agent.policy.name}"
    assert said(
        bench,
        capsys,
        refuse,
        lambda: refuse(after=100),  # the same again
        lambda: refuse("something else"),
        take,
        lambda: refuse(after=100),
        take,
        refuse,  # it comes and goes
    ) == [
        [f"waiting for {REFUSED}"],
        [],
        ["waiting for something else"],
        [enforcing],
        [f"waiting for {REFUSED}"],
        [],
        [],
    ]


def test_a_list_that_is_refused_is_told(tmp_path, capsys):
    bench = Bench(tmp_path)
    [lines] = said(bench, capsys, lambda: bench.snapshot(1, entry(7), key=Ed25519PrivateKey.generate()))
    assert len(lines) == 1 and "waiting for a good list" in lines[0] and "http://192.0.2.1/feed" in lines[0]


def test_the_system_says_why_the_registry_is_not_reached():
    with socket.socket() as bound:  # bound, and nobody listens
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/feed"

        async def ask():
            try:
                await Feed(url).snapshot()
            except Unreachable as error:
                return str(error)

        assert asyncio.run(ask()) == f"{url}/snapshot: connection refused"


def test_interfaces_that_are_not_there_are_told(tmp_path):
    assert missing_interfaces(["lo", "lan77"]) == ["lan77"]
    bench = Bench(tmp_path)
    found = status(bench.agent)
    assert "interfaces" not in render(found)  # control
    found["missing_interfaces"] = ["lan77"]
    assert "interfaces of the configuration that are not here: lan77" in render(found)
