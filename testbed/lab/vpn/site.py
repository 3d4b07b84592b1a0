"""Where one end of a VPN runs: its namespace, its private folder, its process, its log; and waiting for it with a deadline."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.lab.build import Lab

# An idle machine needs 0.05 to 0.4 s for any of the five (measured); a loaded one may need many times that.
START_DEADLINE_S = 15.0
_POLL_S = 0.004
_RESERVED_PORTS = "/proc/sys/net/ipv4/ip_local_reserved_ports"  # of the thread's network namespace


class VpnFailed(RuntimeError):
    """A VPN server or client did not come up or died. The message names it and quotes the end of its log."""


class VpnUnavailable(RuntimeError):
    """This machine cannot run a VPN the plan asks for. The message says what to install or change."""


@dataclass(frozen=True, slots=True)
class Site:
    """One end of a VPN. name is the server's or the tunnel's; interface a kernel name no other end in the world has.

    dir is this end's own folder (0700) in the world's private /tmp: keys and configuration, gone with the world.
    """

    lab: Lab
    node: str
    name: str
    interface: str
    dir: Path

    @property
    def log(self) -> str:
        return "vpn-" + self.name.replace("/", "-")

    def spawn(
        self, argv: list[str], *, private_run: bool = False, env: dict[str, str] | None = None
    ) -> subprocess.Popen[Any]:
        return self.lab.spawn(self.node, argv, log=self.log, private_run=private_run, env=env)

    def write(self, name: str, text: str, mode: int = 0o600) -> Path:
        """Write a file of this end that nobody else may read, and return its path."""
        path = self.dir / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def ip(self, *lines: str) -> None:
        """Run `ip` commands in the node, as one batch. Raises VpnFailed with ip's own words."""
        batch = self.write("ip.batch", "".join(line + "\n" for line in lines))
        done = self.lab.cmd(self.node, ["ip", "-batch", str(batch)])
        if done.returncode:
            raise VpnFailed(
                f"{self.name} on {self.node}: ip: {_text(done.stderr).strip()} ({'; '.join(lines)})"
            )

    def has_address(self, address: str) -> bool:
        """Whether a socket in the node can be bound to the address now."""
        with self.lab.inside(self.node), socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                return False
        return True

    def log_end(self, lines: int = 4) -> str:
        """The last lines of this end's log, on one line; "no log" when it wrote nothing."""
        return " | ".join(self.log_text().strip().splitlines()[-lines:]) or "no log"

    def log_text(self) -> str:
        """This end's log so far; "" when there is none."""
        try:
            return (self.lab.log_dir / f"{self.log}.log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def await_state(
        self, is_so: Callable[[], bool], what: str, process: subprocess.Popen[Any] | None, deadline_s: float
    ) -> None:
        """Poll until is_so(); raises VpnFailed when the process ends first or after deadline_s."""
        end = time.monotonic() + deadline_s
        while not is_so():
            if process is not None and process.poll() is not None:
                raise VpnFailed(
                    f"{self.name} on {self.node}: ended with code {process.returncode} before it {what}: {self.log_end()}"
                )
            if time.monotonic() > end:
                raise VpnFailed(
                    f"{self.name} on {self.node}: had not {what} after {deadline_s:g} s: {self.log_end()}"
                )
            time.sleep(_POLL_S)


def free_udp_port(site: Site, first: int | None, last: int | None, taken: set[int]) -> int:
    """A UDP port free in the node: from the top of first..last, or an ephemeral one. It joins `taken`.

    The kernel gives a port of `taken` to nobody who does not ask for it, so it is still free when the client starts.
    Raises VpnFailed when the block is used up.
    """
    candidates = [0] * 50 if first is None or last is None else [*range(last, first - 1, -1)]
    with site.lab.inside(site.node):
        for port in candidates:
            if port in taken:
                continue
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind(("0.0.0.0", port))
                except OSError:
                    continue
                found = probe.getsockname()[1]
                if found not in taken:
                    taken.add(found)
                    Path(_RESERVED_PORTS).write_text(",".join(map(str, sorted(taken))), "ascii")
                    return found
    raise VpnFailed(f"{site.name} on {site.node}: no free UDP port in its block {first}-{last}")


def missing_programs(programs: dict[str, str]) -> str | None:
    """A sentence naming what to install for programs (name or path -> Debian package) that are not there; None if all are."""
    absent = {package for program, package in programs.items() if not shutil.which(program)}
    if absent:
        return f"not installed: sudo apt-get install {' '.join(sorted(absent))}"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun cannot be opened ({error.strerror}); as root: chmod 666 /dev/net/tun, or run as root"
    return None


def end_process(process: subprocess.Popen[Any] | None, patience_s: float = 1.0) -> None:
    """SIGTERM, and after patience_s SIGKILL for its whole session. Nothing when it never ran or has ended."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def in_url(address: str, port: int) -> str:
    """address:port, with the brackets IPv6 needs (RFC 3986 §3.2.2)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def netmask(network: str) -> str:
    return str(ipaddress.IPv4Network(network).netmask)


def prefix_length(network: str) -> int:
    return ipaddress.IPv4Network(network).prefixlen


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _text(output: bytes | str) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output
