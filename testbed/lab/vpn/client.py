"""One VPN client of a subscriber: its life, its outer flow, and the proof that it is up."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Literal, Protocol

from testbed.lab.vpn.echo import ECHO_PORT
from testbed.lab.vpn.site import Site, VpnFailed
from testbed.plan.plan import Tunnel, VpnServer

State = Literal["down", "starting", "up", "restarting"]
OuterFlow = tuple[str, str, int, str, int]

_ECHO_EVERY_S = 0.05
RESTART_PAUSE_S = 1.0
_FRESH_S = 0.5  # how old an outer flow may be that is looked for when it is asked for
# Above every metric a tunnel's own route has, so that it counts only while there is none.
BLACKHOLE_METRIC = 9999


class Program(Protocol):
    """The client of one protocol (WireGuardClient, OpenVpnClient, IpsecClient, OpenConnectClient, L2tpClient, PptpClient).

    start() begins and returns without waiting for a session (raises VpnFailed); stop() ends it; outer() is its transport,
    local port (0: none now) and remote port; process is None where the kernel does the work. exits_on_failure: leaving is
    how it says that a connection failed.
    """

    site: Site
    tunnel: Tunnel
    server: VpnServer
    exits_on_failure: bool
    process: subprocess.Popen | None

    @property
    def inner_interface(self) -> str: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def outer(self) -> tuple[str, int, int]: ...


class VpnClient:
    """A tunnel of the plan. All methods may be called from any thread.

    state: "down", "starting" (running, no byte came back yet), "up" (one did), "restarting" (its program left and is about
    to be started again). A tunnel that is blocked stays "up" here: only traffic can tell.
    """

    def __init__(self, program: Program, started: Callable[[], None] = lambda: None) -> None:
        """started: called when its program was started."""
        self.tunnel = program.tunnel
        self.server = program.server
        self.state: State = "down"
        self.restarts = 0
        self._program = program
        self._started = started
        self._lock = threading.RLock()
        self._started_s = 0.0
        self._retry_at_s = 0.0
        self._problem: str | None = None
        self._outer: OuterFlow | None = None
        self._looked_s = 0.0
        # The supervisor looks often in real time only.
        self._looks_when_asked = program.site.lab.plan.clock == "virtual"
        self._route_probe: socket.socket | None = None

    @property
    def inner_interface(self) -> str:
        """The kernel interface the inner traffic leaves by ("lo" when the kernel does IPsec without one)."""
        return self._program.inner_interface

    @property
    def inner4(self) -> str:
        return self.tunnel.inner4.partition("/")[0]

    @property
    def echo_endpoint(self) -> tuple[str, int]:
        """Where the server's echo answers, inside the tunnel."""
        return self.server.inner_server4, ECHO_PORT

    def start(self) -> None:
        """Begin to connect. A second call while it runs does nothing. Raises VpnFailed when the program cannot be run."""
        with self._lock:
            if self.state != "down":
                return
            site = self._program.site
            # Without it, inner packets would leave in clear by the default route until the tunnel has a route of its own.
            site.ip(f"route replace blackhole {self.server.inner4} metric {BLACKHOLE_METRIC}")
            self._started_s = time.monotonic()
            self._problem = None
            self._program.start()
            self.state = "starting"
        self._started()

    async def up(self, timeout_s: float) -> float:
        """Wait until an echo comes back through the tunnel; the seconds since start() it took.

        Raises TimeoutError naming the tunnel, with the end of its log; VpnFailed when it was not started or is stopped.
        """
        if self.state == "down":
            raise VpnFailed(f"{self.tunnel.name}: not started")
        site = self._program.site
        with site.lab.inside(site.node):
            probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        loop = asyncio.get_running_loop()
        end_s = time.monotonic() + timeout_s
        with probe:
            while time.monotonic() < end_s:
                if self.state == "down":
                    raise VpnFailed(f"{self.tunnel.name}: stopped before it was up")
                if await _echo(loop, probe, self.echo_endpoint):
                    took_s = time.monotonic() - self._started_s
                    await asyncio.to_thread(self._came_up)
                    return took_s
        raise TimeoutError(
            f"{self.tunnel.name} ({self.tunnel.subscriber} to {self.server.name}): no echo within {timeout_s:g} s: {site.log_end()}"
        )

    def stop(self) -> None:
        """End the client. The blackhole route stays: inner traffic never leaves in clear."""
        with self._lock:
            if self.state == "down":
                return
            self.state = "down"
            self._program.stop()
            if self._route_probe is not None:
                self._route_probe.close()
                self._route_probe = None
            self._outer = None

    def outer_flow(self) -> OuterFlow | None:
        """(transport, src, src_port, dst, dst_port) as it leaves the subscriber's host; None while there is no socket.

        The supervisor looks every 0.1 s, so that asking costs nothing (in virtual time, asking looks); transport is "udp", "tcp",
        or "esp" or "gre" with ports 0.
        """
        if self._looks_when_asked and (now_s := time.monotonic()) - self._looked_s > _FRESH_S:
            self._looked_s = now_s
            if self._lock.acquire(blocking=False):
                try:
                    self._outer = self._find_outer() if self.state != "down" else None
                finally:
                    self._lock.release()
        return self._outer

    @property
    def running(self) -> subprocess.Popen | None:
        """The program that could end; None where there is none, or where its end is known."""
        return self._program.process if self.state in ("starting", "up") else None

    def health(self) -> str | None:
        """What is wrong with the client's program, with its log's last lines; None when nothing is."""
        return self._problem

    def supervise(self) -> None:
        """Look for the outer flow; notice that the program has left, and start it again after a second.

        Called by VpnServers from its own thread: every 0.1 s, in virtual time when a program has ended.
        """
        with self._lock:
            if self.state == "down":
                return
            if not self._looks_when_asked:
                self._outer = self._find_outer()
            process = self._program.process
            if process is None or process.poll() is None:
                return
            now_s = time.monotonic()
            if self.state != "restarting":
                self.state = "restarting"
                self._retry_at_s = now_s + RESTART_PAUSE_S
                if not self._program.exits_on_failure:
                    self._problem = (
                        f"{self.tunnel.name} on {self._program.site.node}: client ended with code {process.returncode}: "
                        f"{self._program.site.log_end()}"
                    )
            elif now_s >= self._retry_at_s:
                self.restarts += 1
                try:
                    self._program.start()
                except VpnFailed as error:
                    self._problem = str(error)
                    self._retry_at_s = now_s + RESTART_PAUSE_S
                else:
                    self.state = "starting"

    def _came_up(self) -> None:
        with self._lock:
            if self.state != "down":
                self.state = "up"
                self._outer = self._find_outer()

    def _find_outer(self) -> OuterFlow | None:
        transport, port, remote_port = self._program.outer()
        remote = self.server.address4 if self.tunnel.family == 4 else self.server.address6
        source = self._source(remote or "")
        if source is None or (port == 0 and transport not in ("esp", "gre")):
            return None
        return transport, source, port, remote or "", remote_port

    def _source(self, remote: str) -> str | None:
        """The address the host sends from: what the kernel's routing gives a UDP socket connected there."""
        site = self._program.site
        if self._route_probe is None:
            family = socket.AF_INET if self.tunnel.family == 4 else socket.AF_INET6
            with site.lab.inside(site.node):
                self._route_probe = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._route_probe.connect((remote, 9))
        except OSError:
            return None
        return self._route_probe.getsockname()[0]


async def _echo(loop: asyncio.AbstractEventLoop, probe: socket.socket, endpoint: tuple[str, int]) -> bool:
    """One echo: whether any came back within _ECHO_EVERY_S."""
    try:
        probe.sendto(b"allowlab up?", endpoint)
    except OSError:  # the blackhole: no tunnel route yet
        await asyncio.sleep(_ECHO_EVERY_S)
        return False
    try:
        await asyncio.wait_for(loop.sock_recv(probe, 2048), _ECHO_EVERY_S)
    except (TimeoutError, OSError):
        return False
    return True
