"""PPTP (RFC 2637) by pptpd and pptp: a TCP connection to port 1723, and PPP frames in GRE version 1. IPv4 outside only.

The data is encrypted (MPPE, 128 bits), as Windows asks for. Option `timers`: "default" (pppd's: 30 s until a connection is
given up; LCP echoes as Debian has them, so a dead session ends after 2 minutes) or "bounded" (5 s, 4 s). Who is given up
on is started again after a second.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from testbed.lab.vpn import ppp
from testbed.lab.vpn.ppp import Login
from testbed.lab.vpn.site import START_DEADLINE_S, Site
from testbed.lab.vpn.sockets import is_bound
from testbed.plan.plan import Tunnel, VpnServer

OPTIONS = ppp.TIMERS
PORT = 1723  # RFC 2637 §1; neither program has a setting for it

_ENCRYPTION = "require-mppe-128\nnomppe-stateful\n"
_BOUNDED = "lcp-restart 1\nlcp-max-configure 5\n"
_SERVER = """\
ppp /usr/sbin/pppd
option {options}
delegate
noipparam
connections 250
"""


def missing() -> str | None:
    """Why PPTP cannot run here, or None."""
    return ppp.missing({"pptpd": "pptpd", "pptp": "pptp-linux"})


class PptpServer:
    def __init__(self, site: Site, server: VpnServer, logins: list[Login]) -> None:
        self.site, self.server = site, server
        self.process: subprocess.Popen | None = None
        self._logins = logins

    def start(self) -> None:
        """Returns when it listens. Raises VpnFailed."""
        # Each session has an interface of its own and there is none before the first: the echo needs its address all along.
        self.site.ip(f"address replace {self.server.inner_server4}/32 dev lo")
        text = ppp.server_options(self.server) + _ENCRYPTION + f"{self.server.inner_server4}:\n"
        config = _SERVER.format(options=self.site.write("options", text))
        path = self.site.write("pptpd.conf", config)
        argv = ["pptpd", "--fg", "--conf", str(path), "--pidfile", "/run/pptpd.pid"]
        self.process = ppp.spawn(self.site, argv, ppp.server_secrets(self.server, self._logins))
        self.site.await_state(self._is_ready, "listened", self.process, START_DEADLINE_S)

    def stop(self) -> None:
        ppp.end_session(self.process)

    def _is_ready(self) -> bool:
        assert self.process is not None
        return is_bound(self.process.pid, "tcp", PORT)


class PptpClient:
    """A pppd whose line is the program pptp; it leaves when the connection fails."""

    exits_on_failure = True

    def __init__(self, site: Site, tunnel: Tunnel, server: VpnServer, login: Login) -> None:
        self.site, self.tunnel, self.server = site, tunnel, server
        self.inner_interface = site.interface
        self.process: subprocess.Popen | None = None
        self._login = login
        self._port = 0

    def start(self) -> None:
        text = ppp.client_options(self.site, self.server, self._login) + _ENCRYPTION
        if self.server.options.get("timers") == "bounded":
            text += _BOUNDED
        options = self.site.write("options", text)
        line = f"pptp {self.server.address4} --nolaunchpppd --nohostroute"
        argv = ["pppd", "pty", line, "file", str(options)]
        self.process = ppp.spawn(self.site, argv, ppp.client_secrets(self._login, self.server))

    def stop(self) -> None:
        ppp.end_session(self.process)

    def outer(self) -> tuple[str, int, int]:
        """Transport, local port, remote port: of the data once there is a session, of its control connection before.

        Between two tries it is the last one's.
        """
        if self.site.has_address(self.tunnel.inner4.partition("/")[0]):
            return "gre", 0, 0
        self._port = self._control_port() or self._port
        return "tcp", self._port, PORT

    def _control_port(self) -> int:
        """The local port of the node's TCP connection to the server; 0 without one.

        The program that holds it is a grandchild that nobody names; the node has one tunnel to a server, and a small table.
        """
        remote = f"{int.from_bytes(socket.inet_aton(self.server.address4), sys.byteorder):08X}:{PORT:04X}"
        with self.site.lab.inside(self.site.node):
            table = Path("/proc/thread-self/net/tcp").read_text(encoding="ascii")
        for fields in (line.split() for line in table.splitlines()[1:]):
            if fields[2] == remote:
                return int(fields[1].partition(":")[2], 16)
        return 0
