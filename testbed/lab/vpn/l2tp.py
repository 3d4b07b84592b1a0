"""L2TP (RFC 2661) without IPsec, by xl2tpd: PPP frames in UDP 1701, in the kernel where it has L2TP. IPv4 outside only.

Option `timers`: "default" (xl2tpd's: the next try 30 s after one that failed; LCP echoes as Debian has them, so a dead
session ends after 2 minutes) or "bounded" (1 s; a dead session ends after 4 s).
"""

from __future__ import annotations

import subprocess

from testbed.lab.vpn import ppp
from testbed.lab.vpn.ppp import Login
from testbed.lab.vpn.site import START_DEADLINE_S, Site
from testbed.lab.vpn.sockets import is_bound
from testbed.plan.plan import Tunnel, VpnServer

OPTIONS = ppp.TIMERS
PORT = 1701  # the local one too: RFC 2661 §8.1 leaves it open, and xl2tpd has it so

# xl2tpd.conf(5)
_REDIAL_S = {"default": 30, "bounded": 1}
_RETRIES = {"default": "", "bounded": "max retries = 1\ncap backoff = 1\n"}
# Run by pppd when a session ends. Dialling again in a tunnel that is broken takes xl2tpd 20 s and more.
_LEAVE = '#!/bin/sh\nread -r pid </run/xl2tpd.pid && kill -TERM "$pid"\n'
_SERVER = """\
[global]
port = {port}
access control = no
{retries}[lns default]
local ip = {inner}
assign ip = no
require authentication = yes
refuse pap = yes
length bit = yes
name = {name}
pppoptfile = {options}
"""
_CLIENT = """\
[global]
port = {port}
{retries}[lac lab]
lns = {outer}:{remote_port}
require authentication = no
length bit = yes
autodial = yes
redial = yes
redial timeout = {redial_s}
pppoptfile = {options}
"""


def missing() -> str | None:
    """Why L2TP cannot run here, or None."""
    return ppp.missing({"xl2tpd": "xl2tpd"})


class L2tpServer:
    def __init__(self, site: Site, server: VpnServer, logins: list[Login]) -> None:
        self.site, self.server = site, server
        self.process: subprocess.Popen | None = None
        self._logins = logins

    def start(self) -> None:
        """Returns when it listens. Raises VpnFailed."""
        # Each session has an interface of its own and there is none before the first: the echo needs its address all along.
        self.site.ip(f"address replace {self.server.inner_server4}/32 dev lo")
        options = self.site.write("options", ppp.server_options(self.server) + "noccp\n")
        config = _SERVER.format(
            port=self.server.port,
            inner=self.server.inner_server4,
            name=self.server.name,
            options=options,
            retries=_RETRIES[_timers(self.server)],
        )
        self.process = _spawn(self.site, config, ppp.server_secrets(self.server, self._logins))
        self.site.await_state(self._is_ready, "listened", self.process, START_DEADLINE_S)

    def stop(self) -> None:
        ppp.end_session(self.process)

    def _is_ready(self) -> bool:
        assert self.process is not None
        return is_bound(self.process.pid, "udp", self.server.port)


class L2tpClient:
    """xl2tpd dials again by itself, so a connection that failed does not end it."""

    def __init__(self, site: Site, tunnel: Tunnel, server: VpnServer, login: Login, port: int) -> None:
        """port: the local one, 1701 or one of the subscriber's block."""
        self.exits_on_failure = _timers(server) == "bounded"
        self.site, self.tunnel, self.server = site, tunnel, server
        self.inner_interface = site.interface
        self.process: subprocess.Popen | None = None
        self._login, self._port = login, port

    def start(self) -> None:
        text = ppp.client_options(self.site, self.server, self._login) + "noccp\n"
        config = _CLIENT.format(
            port=self._port,
            outer=self.server.address4,
            remote_port=self.server.port,
            redial_s=_REDIAL_S[_timers(self.server)],
            retries=_RETRIES[_timers(self.server)],
            options=self.site.write("options", text),
        )
        hook = _LEAVE if self.exits_on_failure else ""
        self.process = _spawn(self.site, config, ppp.client_secrets(self._login, self.server), hook)

    def stop(self) -> None:
        ppp.end_session(self.process)

    def outer(self) -> tuple[str, int, int]:
        """Transport, local port, remote port."""
        return "udp", self._port, self.server.port


def _timers(server: VpnServer) -> str:
    return server.options.get("timers", "default")


def _spawn(site: Site, config: str, secrets_lines: list[str], ip_down: str = "") -> subprocess.Popen:
    path = site.write("xl2tpd.conf", config)
    none = site.write("l2tp-secrets", "")
    argv = ["xl2tpd", "-D", "-c", str(path), "-s", str(none), "-p", "/run/xl2tpd.pid", "-C", "/run/control"]
    return ppp.spawn(site, argv, secrets_lines, ip_down)
