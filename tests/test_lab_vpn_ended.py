"""In virtual time the supervisor of VPN clients sleeps until a program ends, and looks at none that has ended."""

from __future__ import annotations

import subprocess
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from testbed.lab.vpn.ended import Ended
from testbed.lab.vpn.servers import VpnServers
from tests.small_plan import small_plan

_DEADLINE_S = 5.0


@pytest.fixture
def ended():
    found = Ended()
    yield found
    found.close()


def program(command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE)


def test_the_wait_ends_with_a_program_a_call_or_its_time(ended):
    lasting, short = program("read line"), program("read line")
    try:
        ended.wait([lasting], 0.05)  # its time: both live on
        assert lasting.poll() is None
        short.communicate(b"\n")
        ended.wait([lasting, short], None)  # reaped already: at once
        other = program("exit 3")
        ended.wait([lasting, other], None)  # ended, not reaped
        assert other.wait(_DEADLINE_S) == 3
        threading.Timer(0.05, ended.wake).start()
        ended.wait([lasting], None)
        began_s = time.monotonic()
        ended.wait([lasting], 0.1)  # a call ends one wait
        assert time.monotonic() - began_s >= 0.09
    finally:
        lasting.kill()
        lasting.wait()


class Client:
    """One that counts how often it is looked at."""

    def __init__(self, process: subprocess.Popen[bytes] | None) -> None:
        self.process, self.looks, self.state = process, 0, "up"

    @property
    def running(self) -> subprocess.Popen[bytes] | None:
        return self.process if self.state == "up" else None

    def supervise(self) -> None:
        self.looks += 1
        if self.process is not None and self.process.poll() is not None:
            self.state = "down"

    def stop(self) -> None:
        self.state = "down"


def supervised(clock: str, *clients: Client) -> VpnServers:
    lab: Any = SimpleNamespace(plan=small_plan(clock=clock))
    servers = VpnServers(lab)
    servers._clients = {str(number): each for number, each in enumerate(clients)}  # type: ignore[assignment]
    servers._supervisor = threading.Thread(target=servers._supervise, daemon=True)
    servers._supervisor.start()
    return servers


def until(claim) -> None:
    end_s = time.monotonic() + _DEADLINE_S
    while not claim() and time.monotonic() < end_s:
        time.sleep(0.01)
    assert claim()


def test_programs_are_looked_at_when_one_ends_and_not_again():
    process = program("read line")
    client, kernels_own = Client(process), Client(None)
    servers = supervised("virtual", client, kernels_own)
    until(lambda: client.looks == 1)
    time.sleep(0.5)  # what must not happen has this long to happen
    assert (client.looks, kernels_own.looks) == (1, 1)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.close()
    until(lambda: client.state == "down")
    looks = client.looks
    time.sleep(0.5)
    assert client.looks == looks == 2
    servers.close()
    assert servers._supervisor is None


def test_in_real_time_they_are_looked_at_ten_times_a_second():
    """Control: the outer flow is looked for at the same time."""
    client = Client(None)
    servers = supervised("real", client)
    until(lambda: client.looks >= 4)
    servers.close()
